//! Linux's own client over `trans=unix` and `trans=tcp`: the daemon runs inside the guest, which mounts from itself.

use std::time::Duration;

use calgary_tests::vm::{DEFAULT_MODULES, Machine, bundle_for_tests};

/// A bound, not an expectation.
const PATIENCE: Duration = Duration::from_secs(180);

const SERVE: &str = "calgaryd serve --share tag=home,path=/srv,listen=unix:/run/9p,listen=tcp:127.0.0.1:5640 \
                     2>/tmp/log & echo $! >/tmp/pid";

#[test]
fn both_kinds_mount_and_see_each_other() {
    let Some(bundle) = bundle_for_tests() else { return };
    let machine = Machine::builder(&bundle)
        .modules(DEFAULT_MODULES.into_iter().chain(["9pnet_fd"]))
        .guest_program("calgaryd", env!("CARGO_BIN_EXE_calgaryd"))
        // Of util-linux, which every distribution has; the guest's busybox may be without it.
        .guest_program("flock", "/usr/bin/flock")
        .patience(PATIENCE)
        .spawn()
        .unwrap();
    machine.wait_ready().unwrap();
    let run = |command: &str| machine.check(command).unwrap_or_else(|cause| panic!("{command}: {cause}"));
    run("mkdir -p /srv /run /unix /tcp && ip link set lo up");
    run(SERVE);
    run("until grep -q '9P on tcp' /tmp/log; do kill -0 $(cat /tmp/pid) && sleep 0.1; done");
    run("mount -t 9p -o trans=unix,version=9p2000.L,msize=65536 /run/9p /unix");
    run("mount -t 9p -o trans=tcp,port=5640,version=9p2000.L,msize=65536 127.0.0.1 /tcp");

    run("dd if=/dev/urandom of=/unix/data bs=64k count=32 2>/dev/null");
    let sums = run("sha256sum </srv/data; sha256sum </unix/data; sha256sum </tcp/data");
    let sums: Vec<&str> = sums.lines().collect();
    assert_eq!((sums.len(), sums[0], sums[0]), (3, sums[1], sums[2]), "{sums:?}");
    run(
        "mkdir /tcp/folder && ln -s data /tcp/folder/link && mv /unix/data /unix/folder/moved && chmod 640 /tcp/folder/moved",
    );
    assert_eq!(
        run("cd /srv/folder; stat -c '%a %s' moved; readlink link; ls /unix/folder | wc -l"),
        "640 2097152\ndata\n2"
    );
    // A lock through one connection keeps the other out, and goes when its holder does.
    run("flock /unix/folder/moved sh -c 'touch /tmp/held; while [ ! -e /tmp/release ]; do sleep 0.1; done' & \
         until [ -e /tmp/held ]; do sleep 0.1; done");
    assert_ne!(machine.run("flock -n /tcp/folder/moved true").unwrap().status, 0, "two mounts hold one lock");
    run("touch /tmp/release; flock /tcp/folder/moved true");

    run("rm -r /tcp/folder && umount /unix && umount /tcp");
    assert_eq!(run("ls /srv"), "");
    run("kill $(cat /tmp/pid); while kill -0 $(cat /tmp/pid) 2>/dev/null; do sleep 0.1; done");
    assert_eq!(run("ls /run"), "", "the socket was left");
    machine.quit().unwrap();
}
