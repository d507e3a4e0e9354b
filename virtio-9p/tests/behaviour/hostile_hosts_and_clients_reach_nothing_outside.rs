//! What the host puts into a share, and what a client does with fids and tags, opens no way out of the folder.

use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::client::{Client, Cut, ROOT, connect_with, exchange, frame};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rustix::fs::{CWD, FileType, Mode};
use tempfile::TempDir;
use virtio_9p::wire::{Fid, Message, NOFID, NONUNAME, OpenFlags, Rlerror, Tag, Tattach, Tclunk, Tflush, Tgetattr};
use virtio_9p::{Errno, Options, PassthroughOptions, Security};

/// Ends a thread's loop, also when the test fails.
struct Stop(AtomicBool);

impl Stop {
    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn at_end(&self) -> StopAtEnd<'_> {
        StopAtEnd(self)
    }
}

struct StopAtEnd<'a>(&'a Stop);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// `base/share` is served; `base/outside` must stay out of reach.
struct Scene {
    base: TempDir,
    client: Client,
}

impl Scene {
    fn new(choose: impl FnOnce(&mut PassthroughOptions)) -> Scene {
        let base = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(base.path().join("share/dir/sub")).unwrap();
        std::fs::create_dir_all(base.path().join("outside/sub")).unwrap();
        std::fs::write(base.path().join("outside/file"), "secret").unwrap();
        std::fs::write(base.path().join("outside/sub/file"), "secret").unwrap();
        let mut options = PassthroughOptions::default();
        choose(&mut options);
        let client = connect_with(&base.path().join("share"), Options::default(), options);
        Scene { base, client }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    fn assert_outside_untouched(&self) {
        assert_eq!(std::fs::read_to_string(self.path("outside/file")).unwrap(), "secret");
        assert_eq!(std::fs::read_to_string(self.path("outside/sub/file")).unwrap(), "secret");
        assert_eq!(std::fs::read_dir(self.path("outside")).unwrap().count(), 2);
        assert_eq!(std::fs::read_dir(self.path("outside/sub")).unwrap().count(), 1);
    }

    /// Whether a fid is a file outside.
    fn is_outside(&self, fid: Fid) -> bool {
        let inode = self.client.getattr(fid).unwrap().qid.path;
        ["", "outside", "outside/sub", "outside/file", "outside/sub/file"]
            .iter()
            .any(|name| std::fs::metadata(self.path(name)).unwrap().ino() == inode)
    }
}

#[test]
fn a_share_that_is_replaced_by_a_link_stays_the_folder_it_was() {
    let scene = Scene::new(|_| ());
    let client = &scene.client;
    std::fs::rename(scene.path("share"), scene.path("moved")).unwrap();
    symlink("outside", scene.path("share")).unwrap();
    assert_eq!(client.walk(ROOT, Fid(1), &[b"file"]), Err(Errno::ENOENT));
    client.mkdir(ROOT, b"new", 0o755).unwrap();
    assert!(scene.path("moved/new").is_dir());
    client.reach(Fid(2), "dir/sub").unwrap();
    client.remove(Fid(2)).unwrap();
    client.attach(Fid(3), NONUNAME).unwrap();
    assert!(!scene.is_outside(Fid(3)));
    assert_eq!(client.walk(Fid(3), Fid(4), &[b"..", b"outside"]).unwrap().len(), 1);
    scene.assert_outside_untouched();
}

#[test]
fn special_files_are_never_opened_and_never_block() {
    let scene = Scene::new(|_| ());
    let client = &scene.client;
    rustix::fs::mknodat(CWD, scene.path("share/fifo"), FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
    let _socket = UnixListener::bind(scene.path("share/socket")).unwrap();
    let mut special = vec!["fifo", "socket"];
    let device = rustix::fs::makedev(1, 5);
    let made = |name, kind| rustix::fs::mknodat(CWD, scene.path(name), kind, Mode::from_raw_mode(0o666), device);
    if made("share/character", FileType::CharacterDevice).and(made("share/block", FileType::BlockDevice)).is_ok() {
        special.extend(["character", "block"]);
    } else {
        eprintln!("skipped: devices, which only root makes");
    }
    for name in special {
        for flags in [OpenFlags::RDONLY, OpenFlags::WRONLY, OpenFlags::RDWR, OpenFlags::NONBLOCK, OpenFlags::TRUNC] {
            client.reach(Fid(1), name).unwrap();
            assert_eq!(client.open(Fid(1), flags).map(drop), Err(Errno::ENXIO), "{name}");
            assert_eq!(client.read(Fid(1), 0, 1), Err(Errno::EBADF));
            assert_eq!(client.setattr(Fid(1), 0x8, |_| {}), Err(Errno::EINVAL));
            client.clunk(Fid(1)).unwrap();
            assert_eq!(client.create_in_root(Fid(2), name, flags), Err(Errno::ENXIO), "{name}");
            client.clunk(Fid(2)).unwrap();
        }
        client.reach(Fid(1), name).unwrap();
        client.getattr(Fid(1)).unwrap();
        client.remove(Fid(1)).unwrap();
    }
}

#[test]
fn a_file_that_flips_to_a_pipe_or_device_is_what_was_reached() {
    let scene = Scene::new(|_| ());
    let client = &scene.client;
    std::fs::write(scene.path("share/real"), "inside").unwrap();
    rustix::fs::mknodat(CWD, scene.path("share/fake"), FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
    let stop = Stop(AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.is_set() {
                for (from, to) in [("real", "flip"), ("flip", "real"), ("fake", "flip"), ("flip", "fake")] {
                    std::fs::rename(scene.path("share").join(from), scene.path("share").join(to)).unwrap();
                }
            }
        });
        let _end = stop.at_end();
        for _ in 0..2000 {
            if client.reach(Fid(1), "flip").is_ok() {
                match client.open(Fid(1), OpenFlags::RDWR) {
                    // Empty if this client made it.
                    Ok(_) => assert!(matches!(&*client.read(Fid(1), 0, 10).unwrap(), b"inside" | b"")),
                    Err(error) => assert_eq!(error, Errno::ENXIO),
                }
                client.clunk(Fid(1)).unwrap();
            }
            // By name, the file may be missing (and is made), a file or a pipe, but never blocks.
            client.walk(ROOT, Fid(2), &[]).unwrap();
            match client.create(Fid(2), b"flip", OpenFlags::RDWR, 0o600) {
                Ok(_) | Err(Errno::ENXIO | Errno::EAGAIN) => {}
                Err(error) => panic!("{error:?}"),
            }
            client.clunk(Fid(2)).unwrap();
        }
    });
}

#[test]
fn the_magic_links_of_proc_are_text() {
    let options = PassthroughOptions::default();
    let client = connect_with("/proc/self".as_ref(), Options::default(), options);
    for path in ["root", "cwd", "exe", "fd/0"] {
        client.reach(Fid(1), path).unwrap();
        assert_eq!(client.getattr(Fid(1)).unwrap().mode & 0o170_000, 0o120_000, "{path}");
        client.readlink(Fid(1)).unwrap();
        assert_eq!(client.open(Fid(1), OpenFlags::RDONLY).map(drop), Err(Errno::ELOOP), "{path}");
        assert_eq!(client.walk(Fid(1), Fid(2), &[b"etc"]), Err(Errno::ENOTDIR), "{path}");
        assert_eq!(client.walk(Fid(1), Fid(2), &[b".."]), Err(Errno::ENOTDIR), "{path}");
        client.clunk(Fid(1)).unwrap();
    }
    assert_eq!(client.walk(ROOT, Fid(1), &[b"root", b"etc", b"passwd"]).unwrap().len(), 1);
}

#[test]
fn a_directory_that_comes_and_goes_leads_up_to_the_root_or_nowhere() {
    for openat2 in [true, false] {
        let scene = Scene::new(|options| options.openat2 = openat2);
        let client = &scene.client;
        let root = client.getattr(ROOT).unwrap().qid.path;
        std::fs::create_dir(scene.path("elsewhere")).unwrap();
        let stop = Stop(AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.is_set() {
                    std::fs::rename(scene.path("share/dir"), scene.path("elsewhere/dir")).unwrap();
                    std::fs::rename(scene.path("elsewhere/dir"), scene.path("share/dir")).unwrap();
                }
            });
            let _end = stop.at_end();
            client.reach(Fid(1), "").unwrap();
            let sub = loop {
                if client.walk(ROOT, Fid(2), &[b"dir", b"sub"]).is_ok_and(|qids| qids.len() == 2) {
                    break Fid(2);
                }
            };
            for _ in 0..3000 {
                match client.walk(sub, Fid(3), &[b"..", b"..", b".."]) {
                    Ok(qids) => {
                        assert!(qids.iter().skip(1).all(|qid| qid.path == root), "climbed out");
                        if qids.len() == 3 {
                            client.clunk(Fid(3)).unwrap();
                        }
                    }
                    Err(error) => assert!(matches!(error, Errno::ESTALE | Errno::ENOENT), "{error:?}"),
                }
            }
        });
        scene.assert_outside_untouched();
    }
}

/// Nodes whose descriptor was closed come back by their path: through it nothing else may come.
#[test]
fn a_closed_descriptor_does_not_come_back_as_something_outside() {
    for openat2 in [true, false] {
        let scene = Scene::new(|options| {
            options.max_descriptors = 8;
            options.openat2 = openat2;
        });
        let client = &scene.client;
        for number in 0..200 {
            let name = format!("dir/sub/f{number}");
            std::fs::write(scene.path("share").join(&name), "inside").unwrap();
            std::fs::write(scene.path("outside").join(format!("f{number}")), "secret").unwrap();
            client.reach(Fid(number + 1), &name).unwrap();
        }
        let read = |fid: Fid| {
            client.walk(fid, Fid(999), &[]).and_then(|_| {
                let content = client.open(Fid(999), OpenFlags::RDWR).and_then(|_| client.read(Fid(999), 0, 100));
                client.clunk(Fid(999)).unwrap();
                content
            })
        };
        let check = |strict: bool| {
            let mut came_back = 0;
            for number in 0..200 {
                match read(Fid(number + 1)) {
                    Ok(content) => {
                        assert_eq!(content, b"inside");
                        came_back += 1;
                    }
                    Err(error) => assert!(
                        !strict && error == Errno::ESTALE
                            || matches!(error, Errno::ENOENT | Errno::ELOOP | Errno::ENOTDIR),
                        "{error:?}"
                    ),
                }
            }
            came_back
        };
        assert_eq!(check(true), 200);
        // A directory on the way becomes a link to outside.
        std::fs::rename(scene.path("share/dir/sub"), scene.path("share/dir/was")).unwrap();
        symlink(scene.path("outside"), scene.path("share/dir/sub")).unwrap();
        assert!(check(false) < 200, "the descriptors were not closed at all");
        std::fs::remove_file(scene.path("share/dir/sub")).unwrap();
        std::fs::rename(scene.path("share/dir/was"), scene.path("share/dir/sub")).unwrap();
        assert_eq!(check(true), 200, "back in its place, it is reached again");
        // Hard links to files outside, in the place of those reached.
        for number in 0..200 {
            let name = scene.path(&format!("share/dir/sub/f{number}"));
            std::fs::remove_file(&name).unwrap();
            std::fs::hard_link(scene.path(&format!("outside/f{number}")), name).unwrap();
        }
        check(false);
        for number in 0..200 {
            assert_eq!(std::fs::read_to_string(scene.path(&format!("outside/f{number}"))).unwrap(), "secret");
        }
    }
}

#[test]
fn fids_are_used_as_told_or_refused() {
    let scene = Scene::new(|_| ());
    let client = &scene.client;
    client.reach(Fid(1), "dir").unwrap();
    assert_eq!(client.walk(ROOT, Fid(1), &[]), Err(Errno::EINVAL), "in use");
    assert_eq!(client.attach(Fid(1), NONUNAME), Err(Errno::EINVAL), "in use");
    assert_eq!(client.walk(ROOT, NOFID, &[]), Err(Errno::EINVAL));
    assert_eq!(client.attach(NOFID, NONUNAME), Err(Errno::EINVAL));
    let afid = Tattach { fid: Fid(9), afid: Fid(1), uname: b"", aname: b"", n_uname: Some(0) };
    assert_eq!(client.call(&afid), Err(Errno::EBADF));
    client.clunk(Fid(1)).unwrap();
    assert_eq!(client.clunk(Fid(1)), Err(Errno::EBADF));
    client.reach(Fid(1), "dir/sub").unwrap();
    client.remove(Fid(1)).unwrap();
    for gone in [Fid(1), Fid(u32::MAX - 1), NOFID] {
        assert_eq!(client.getattr(gone), Err(Errno::EBADF));
        assert_eq!(client.open(gone, 0).map(drop), Err(Errno::EBADF));
        assert_eq!(client.remove(gone), Err(Errno::EBADF));
        assert_eq!(client.walk(gone, Fid(5), &[]), Err(Errno::EBADF));
        assert_eq!(client.renameat(gone, b"a", ROOT, b"b"), Err(Errno::EBADF));
    }
    // The same number is another file later.
    client.reach(Fid(1), "dir").unwrap();
    client.clunk(Fid(1)).unwrap();
    client.create_in_root(Fid(1), "f", OpenFlags::RDWR).unwrap();
    assert_eq!(client.write(Fid(1), 0, b"x"), Ok(1));
    client.clunk(ROOT).unwrap();
    assert_eq!(client.walk(ROOT, Fid(2), &[]), Err(Errno::EBADF));
    assert_eq!(client.read(Fid(1), 0, 1).unwrap(), b"x", "an open file outlives the root's fid");
}

#[test]
fn a_fid_that_many_threads_pull_at_is_one_file_at_a_time() {
    let scene = Scene::new(|_| ());
    let client = &scene.client;
    std::fs::write(scene.path("share/f"), "inside").unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                for round in 0..1500 {
                    let fid = Fid(1 + round % 3);
                    let _ = match (round + thread) % 6 {
                        0 => client.walk(ROOT, fid, &[b"f"]).map(drop),
                        1 => client.open(fid, OpenFlags::RDWR).map(drop),
                        2 => client.read(fid, 0, 10).map(|content| assert_eq!(content, b"inside")),
                        3 => client.clunk(fid),
                        4 => client.walk(fid, fid, &[]).map(drop),
                        _ => client.getattr(fid).map(|found| assert_eq!(found.size, 6)),
                    };
                }
            });
        }
    });
    for fid in 1..=3 {
        let _ = client.clunk(Fid(fid));
    }
    assert_eq!(client.server.fid_count(), 1);
}

#[test]
fn tags_are_echoed_and_prove_nothing() {
    let scene = Scene::new(|_| ());
    let server = &scene.client.server;
    for tag in [Tag(0), Tag(7), Tag(0xfffe), Tag(0xffff)] {
        for _ in 0..2 {
            let mut bytes = [0; 19];
            Tgetattr { fid: ROOT, request_mask: virtio_9p::wire::AttrMask::ALL }.emit(tag, &mut bytes).unwrap();
            let reply = exchange(server, &bytes, 4096, (Cut::Whole, Cut::Whole)).unwrap();
            assert_eq!((reply[4], &reply[5..7]), (25, &tag.0.to_le_bytes()[..]));
        }
        // A flush of itself, of what never was, and of what is done.
        for oldtag in [tag, Tag(99)] {
            let mut bytes = [0; 9];
            Tflush { oldtag }.emit(tag, &mut bytes).unwrap();
            let reply = exchange(server, &bytes, 4096, (Cut::Whole, Cut::Whole)).unwrap();
            assert_eq!((reply.len(), reply[4]), (7, 109));
        }
    }
}

/// Bytes that look like requests: a type, a few small fids, and strings that try to lead out.
fn hostile_frame() -> impl Strategy<Value = Vec<u8>> {
    let name = prop::sample::select(vec![
        &b".."[..],
        b".",
        b"",
        b"/",
        b"../outside",
        b"/etc/passwd",
        b"dir",
        b"sub",
        b"link",
        b"up",
        b"f",
        b"g",
        b"dir/../..",
        b"a\0b",
        b"user.virtfs.mode",
        b"user.x",
    ]);
    let kind = prop::sample::select((6_u8..128).filter(|kind| kind % 2 == 0 && *kind != 100).collect::<Vec<_>>());
    let piece = prop_oneof![
        4 => (0_u32..5).prop_map(|fid| fid.to_le_bytes().to_vec()),
        4 => name.prop_map(|name| {
            let len = u16::try_from(name.len()).unwrap();
            [&len.to_le_bytes()[..], name].concat()
        }),
        1 => any::<u64>().prop_map(|word| word.to_le_bytes().to_vec()),
        2 => (0_u64..70_000).prop_map(|word| word.to_le_bytes().to_vec()),
        1 => any::<u16>().prop_map(|word| word.to_le_bytes().to_vec()),
        1 => any::<u8>().prop_map(|byte| vec![byte]),
    ];
    (kind, proptest::collection::vec(piece, 0..7)).prop_map(|(kind, pieces)| {
        let body = pieces.concat();
        let size = u32::try_from(7 + body.len()).unwrap();
        [&size.to_le_bytes()[..], &[kind, 1, 0], &body].concat()
    })
}

#[test]
fn sessions_of_hostile_frames_leave_the_outside_alone() {
    for security in [Security::Passthrough, Security::MappedXattr] {
        let scene = Scene::new(|options| {
            options.security = security;
            options.max_descriptors = 8;
        });
        symlink(scene.path("outside"), scene.path("share/link")).unwrap();
        symlink("..", scene.path("share/up")).unwrap();
        let config = Config { failure_persistence: None, ..Config::with_cases(300) };
        let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[9; 32]));
        runner
            .run(&proptest::collection::vec(hostile_frame(), 1..60), |frames| {
                let server = &scene.client.server;
                for frame in &frames {
                    let reply = exchange(server, frame, 8192, (Cut::Odd, Cut::Odd)).unwrap();
                    let (number, request) = (reply[4], frame[4]);
                    prop_assert!(number == 7 && reply.len() == Rlerror::LEN || number == request + 1);
                }
                let _ = exchange(server, &frame(&Tclunk { fid: ROOT }, &[]), 8192, (Cut::Whole, Cut::Whole));
                let _ = scene.client.attach(ROOT, NONUNAME);
                Ok(())
            })
            .unwrap_or_else(|failure| panic!("{failure}"));
        scene.assert_outside_untouched();
        let above = std::fs::read_dir(scene.base.path()).unwrap().count();
        assert_eq!(above, 2, "something was made beside the share");
    }
}
