//! Ten thousand open files work with a descriptor limit of 1,024, and stay what they are while their names change.
//!
//! One test, since the limit is that of the whole process.

mod client;

use std::path::Path;

use client::{Client, ROOT, connect};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use virtio_9p::Errno;
use virtio_9p::wire::{Fid, LockStatus, LockType, OpenFlags};

const FILES: u32 = 10_000;
const LIMIT: u64 = 1024;

fn name(number: u32) -> String {
    format!("f{number}")
}

/// Opens every file, in 100 directories, for reading and writing; the fid of file n is n + 1,000.
fn open_all(client: &Client, folder: &Path) {
    for directory in 0..100 {
        std::fs::create_dir(folder.join(format!("d{directory}"))).unwrap();
        client.reach(Fid(directory + 1), &format!("d{directory}")).unwrap();
    }
    for number in 0..FILES {
        let fid = fid(number);
        client.walk(Fid(number % 100 + 1), fid, &[]).unwrap();
        client.create(fid, name(number).as_bytes(), OpenFlags::RDWR, 0o644).unwrap();
        client.write(fid, 0, number.to_string().as_bytes()).unwrap();
    }
}

fn fid(number: u32) -> Fid {
    Fid(number + 1000)
}

fn assert_is(client: &Client, number: u32) {
    let content = client.read(fid(number), 0, 20).unwrap();
    assert_eq!(String::from_utf8(content).unwrap(), number.to_string());
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn ten_thousand_open_files_work_with_a_thousand_descriptors() {
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(LIMIT), maximum: before.maximum }).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let client = connect(folder.path());
    open_all(&client, folder.path());
    assert_eq!(client.server.fid_count(), 1 + 100 + usize::try_from(FILES).unwrap());
    assert!(open_descriptors() <= usize::try_from(LIMIT).unwrap());
    for number in (0..FILES).rev() {
        assert_is(&client, number);
    }

    // Attributes, and changes through both kinds of fid.
    for number in (0..FILES).step_by(7) {
        let fid = fid(number);
        assert_eq!(client.getattr(fid).unwrap().size, number.to_string().len().try_into().unwrap());
        client.setattr(fid, 0x1, |change| change.mode = 0o600).unwrap();
        client.write(fid, 10, b"more").unwrap();
        client.fsync(fid, 1).unwrap();
        client.setattr(fid, 0x8, |change| change.size = number.to_string().len().try_into().unwrap()).unwrap();
        assert_is(&client, number);
    }

    // A directory of a hundred files moves, and one moves into another.
    client.renameat(ROOT, b"d3", ROOT, b"moved").unwrap();
    client.reach(Fid(500), "d5").unwrap();
    client.renameat(ROOT, b"moved", Fid(500), b"inner").unwrap();
    for number in (3..FILES).step_by(100) {
        assert_is(&client, number);
    }
    assert!(path("d5/inner/f103").exists());

    // Files that lose their name stay, whether they are removed, replaced, or their last other name goes.
    let (removed, replaced, replacing, linked) = (4, 104, 204, 304);
    client.unlinkat(Fid(5), name(removed).as_bytes(), 0).unwrap();
    client.renameat(Fid(5), name(replacing).as_bytes(), Fid(5), name(replaced).as_bytes()).unwrap();
    client.link(fid(linked), ROOT, b"other").unwrap();
    client.unlinkat(Fid(5), name(linked).as_bytes(), 0).unwrap();
    client.unlinkat(ROOT, b"other", 0).unwrap();
    for number in (0..FILES).step_by(2) {
        assert_is(&client, number);
    }
    for number in [removed, replaced, replacing, linked] {
        assert_is(&client, number);
        let gone = number != replacing;
        assert_eq!(client.getattr(fid(number)).unwrap().nlink, u64::from(!gone));
    }
    // By their fid alone they are still found where they are now.
    client.rename(fid(replacing), ROOT, b"by_fid").unwrap();
    assert!(path("by_fid").exists());
    client.remove(fid(1)).unwrap();
    assert!(!path("d1/f1").exists());

    // What the host does behind the server's back is noticed, and never taken for the same file.
    for number in (6..FILES).step_by(100) {
        std::fs::remove_file(path(&format!("d6/{}", name(number)))).unwrap();
        std::fs::write(path(&format!("d6/{}", name(number))), "impostor").unwrap();
    }
    for number in (0..FILES).filter(|number| number % 100 > 6) {
        assert_is(&client, number);
    }
    for number in (6..FILES).step_by(100) {
        match client.read(fid(number), 0, 20) {
            Ok(content) => assert_eq!(String::from_utf8(content).unwrap(), number.to_string()),
            Err(error) => assert_eq!(error, Errno::ESTALE),
        }
    }

    // A listing goes on where it was although the directory was closed in between.
    client.open_path(Fid(600), "d7", 0).unwrap();
    let mut seen = client.readdir(Fid(600), 0, 600).unwrap();
    loop {
        for number in (0..FILES).filter(|number| number % 100 > 6).step_by(9) {
            assert_is(&client, number);
        }
        let more = client.readdir(Fid(600), seen.last().unwrap().offset, 2000).unwrap();
        if more.is_empty() {
            break;
        }
        seen.extend(more);
    }
    let mut names: Vec<String> = seen.into_iter().map(|entry| entry.name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 102);

    // Locks keep their own descriptors, up to a limit of their own.
    let mut owners = 0;
    let refused = loop {
        match client.lock(fid(8), LockType::READ, (0, 0), owners) {
            Ok(status) => assert_eq!(status, LockStatus::SUCCESS),
            Err(error) => break error,
        }
        owners += 1;
    };
    assert_eq!(refused, Errno::ENOLCK);
    assert!(owners > 100);
    for number in (0..FILES).filter(|number| number % 100 > 6) {
        assert_is(&client, number);
    }
    assert_eq!(client.lock(fid(8), LockType::WRITE, (0, 0), 1), Ok(LockStatus::BLOCKED));

    // Removed files keep their descriptors: the client is told when there are no more, and all is well afterwards.
    let mut kept = Vec::new();
    let refused = loop {
        let fid = Fid(20_000 + u32::try_from(kept.len()).unwrap());
        let result = client.create_in_root(fid, "gone", OpenFlags::RDWR);
        if let Err(error) = result {
            break error;
        }
        client.unlinkat(ROOT, b"gone", 0).unwrap();
        kept.push(fid);
    };
    assert_eq!(refused, Errno::ENFILE);
    assert!(kept.len() > 100);
    for fid in kept {
        client.clunk(fid).unwrap();
    }
    for number in (0..FILES).filter(|number| number % 100 > 6) {
        assert_is(&client, number);
    }

    client.server.reset();
    assert!(open_descriptors() < 50);
    setrlimit(Resource::Nofile, before).unwrap();
}
