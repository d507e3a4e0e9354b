//! A limit on the size of the daemon's files is an error of the guest that meets it, and not the end of the daemon.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use calgary_tests::guest::{GuestOptions, ROOT_FID, Session, ShareOptions};

const EFBIG: u32 = 27;
/// `O_RDWR`.
const READ_WRITE: u32 = 2;

struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_write_beyond_it_fails() {
    let root = tempfile::tempdir().unwrap();
    let socket = root.path().join("socket");
    std::fs::create_dir(root.path().join("folder")).unwrap();
    let share = format!("tag=home,path={}/folder,socket={}", root.path().display(), socket.display());
    // 64 blocks of 512 bytes, or of 1,024 in some shells.
    let mut child = Command::new("sh")
        .args(["-c", "ulimit -f 64 && exec \"$@\"", "sh", env!("CARGO_BIN_EXE_calgaryd"), "serve", "--share", &share])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let _served = Served(child);
    let mut said = String::new();
    while !said.contains("system calls outside the list") {
        assert_ne!(log.read_line(&mut said).unwrap(), 0, "{said}");
    }
    let shares = vec![ShareOptions { socket, endpoint: 0, translated: false }];
    let mut guest = Session::boot(GuestOptions { shares, ..GuestOptions::default() }).unwrap();
    let client = &mut guest.shares[0].client;
    client.walk(ROOT_FID, 1, &[]).unwrap();
    client.lcreate(1, b"file", READ_WRITE, 0o644, u32::MAX).unwrap();
    assert_eq!(client.write(1, 0, b"inside").unwrap(), 6);
    assert_eq!(client.write(1, 1 << 20, b"outside").unwrap_err().errno(), Some(EFBIG));
    assert_eq!(client.read(1, 0, 6).unwrap(), b"inside");
}
