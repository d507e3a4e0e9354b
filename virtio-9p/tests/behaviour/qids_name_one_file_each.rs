//! A qid's number is one file's for as long as a fid holds it, on every device, and its version follows the file.

use std::collections::HashSet;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::client::{Client, ROOT, connect, connect_fresh, connect_with, is_root};
use virtio_9p::wire::{Fid, OpenFlags, SetattrValid};
use virtio_9p::{Options, PassthroughOptions};

#[test]
fn a_number_is_not_used_again_while_a_fid_holds_the_file() {
    for max_descriptors in [0, 8] {
        let folder = tempfile::tempdir().unwrap();
        let mut options = PassthroughOptions::default();
        options.max_descriptors = max_descriptors;
        let client = connect_with(folder.path(), Options::default(), options);
        let mut held = HashSet::new();
        for number in 0..50 {
            let fid = Fid(100 + number);
            client.create_in_root(fid, "held", OpenFlags::RDWR).unwrap();
            assert!(held.insert(client.getattr(fid).unwrap().qid.path));
            if number % 2 == 0 {
                client.unlinkat(ROOT, b"held", 0).unwrap();
            } else {
                // Replaced, which removes it as well.
                client.create_in_root(Fid(1), "other", OpenFlags::RDWR).unwrap();
                client.renameat(ROOT, b"other", ROOT, b"held").unwrap();
                client.clunk(Fid(1)).unwrap();
                client.unlinkat(ROOT, b"held", 0).unwrap();
            }
        }
        for number in 0..500 {
            let name = format!("new{number}");
            client.create_in_root(Fid(1), &name, OpenFlags::RDWR).unwrap();
            assert!(!held.contains(&client.getattr(Fid(1)).unwrap().qid.path), "{name}");
            client.clunk(Fid(1)).unwrap();
        }
        for number in 0..50 {
            assert!(held.remove(&client.getattr(Fid(100 + number)).unwrap().qid.path));
        }
    }
}

#[test]
fn the_version_is_never_zero_and_changes_with_data_size_and_times() {
    let (_folder, client) = connect_fresh();
    client.create_in_root(Fid(1), "f", OpenFlags::RDWR).unwrap();
    let mut seen = HashSet::new();
    let mut check = |client: &Client| {
        let version = client.getattr(Fid(1)).unwrap().qid.version;
        assert_ne!(version, 0);
        assert!(seen.insert(version), "the version stayed");
        assert_eq!(client.walk(ROOT, Fid(2), &[b"f"]).unwrap()[0].version, version);
        assert_eq!(client.getattr(Fid(2)).unwrap().qid.version, version, "unchanged by looking");
        client.clunk(Fid(2)).unwrap();
    };
    check(&client);
    client.write(Fid(1), 0, b"longer").unwrap();
    check(&client);
    client.setattr(Fid(1), SetattrValid::SIZE, |change| change.size = 3).unwrap();
    check(&client);
    for seconds in [1_000_000_000, 1_000_000_001] {
        let set = SetattrValid::MTIME | SetattrValid::MTIME_SET;
        client.setattr(Fid(1), set, |change| change.mtime.seconds = seconds).unwrap();
        check(&client);
    }
    client
        .setattr(Fid(1), SetattrValid::MTIME | SetattrValid::MTIME_SET, |change| {
            (change.mtime.seconds, change.mtime.nanoseconds) = (1_000_000_001, 1);
        })
        .unwrap();
    check(&client);
}

/// Mounts an empty file system in a mount namespace of this thread alone; false if the machine does not let it.
fn mount(at: &Path) -> bool {
    std::fs::create_dir(at).unwrap();
    let at = CString::new(at.as_os_str().as_bytes()).unwrap();
    // SAFETY: the strings end with a zero byte and outlive the call.
    unsafe { libc::mount(c"none".as_ptr(), at.as_ptr(), c"tmpfs".as_ptr(), 0, std::ptr::null()) == 0 }
}

#[test]
fn files_of_mounted_file_systems_have_numbers_of_their_own() {
    // SAFETY: the call takes a number and concerns this thread alone.
    let alone = is_root() && unsafe { libc::unshare(libc::CLONE_NEWNS) == 0 };
    let flags = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: as in `mount`.
    let private = alone
        && unsafe { libc::mount(std::ptr::null(), c"/".as_ptr(), std::ptr::null(), flags, std::ptr::null()) == 0 };
    let folder = tempfile::tempdir().unwrap();
    let places = ["one", "two", "three"].map(|name| folder.path().join(name));
    if !private || !places.iter().all(|place| mount(place)) {
        eprintln!("skipped: nothing can be mounted here");
        return;
    }
    let client = connect(folder.path());
    let mut seen = HashSet::new();
    for place in ["one", "two", "three", ""] {
        for number in 0..20 {
            let name = format!("f{number}");
            client.reach(Fid(1), place).unwrap();
            client.create(Fid(1), name.as_bytes(), OpenFlags::RDWR, 0o644).unwrap();
            assert!(seen.insert(client.getattr(Fid(1)).unwrap().qid.path), "{place}/{name}");
            client.clunk(Fid(1)).unwrap();
        }
        client.open_path(Fid(1), place, 0).unwrap();
        for entry in client.list(Fid(1), 1000).unwrap().iter().filter(|entry| entry.name.starts_with('f')) {
            assert!(seen.contains(&entry.qid.path), "the listing tells the same number");
        }
        client.clunk(Fid(1)).unwrap();
    }
    // Up from a mounted file system to the tree around it.
    client.reach(Fid(2), "two").unwrap();
    client.walk(Fid(2), Fid(3), &[b"..", b"one", b"f0"]).unwrap();
    drop(client);
    for place in places {
        let place = CString::new(place.as_os_str().as_bytes()).unwrap();
        // SAFETY: the string ends with a zero byte and outlives the call.
        assert_eq!(unsafe { libc::umount2(place.as_ptr(), libc::MNT_DETACH) }, 0);
    }
}
