//! Every entry comes exactly once, whatever the size of the replies.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, symlink};

use crate::client::{Cut, connect_fresh};
use virtio_9p::Errno;
use virtio_9p::wire::{Fid, QidType};

#[test]
fn a_thousand_entries_come_once_each_in_replies_of_any_size() {
    let (folder, mut client) = connect_fresh();
    let mut expected: BTreeSet<String> = [".".to_owned(), "..".to_owned()].into();
    for number in 0..1000 {
        let name = format!("{number}-{}", "x".repeat(number % 200));
        std::fs::write(folder.path().join(&name), "").unwrap();
        expected.insert(name);
    }
    client.open_path(Fid(1), "", 0).unwrap();
    for (count, cut) in [(300, Cut::Whole), (4096, Cut::Bytes), (8000, Cut::Odd), (500_000, Cut::Pages(11))] {
        client.cut = (Cut::Whole, cut);
        client.room = usize::try_from(count).unwrap() + 11;
        let entries = client.list(Fid(1), count).unwrap();
        assert_eq!(entries.len(), expected.len(), "{count}");
        let names: BTreeSet<String> = entries.into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, expected, "{count}");
    }
}

#[test]
fn any_cookie_can_be_resumed_from() {
    let (folder, client) = connect_fresh();
    for number in 0..50 {
        std::fs::write(folder.path().join(number.to_string()), "").unwrap();
    }
    client.open_path(Fid(1), "", 0).unwrap();
    let all = client.list(Fid(1), 60_000).unwrap();
    for (at, entry) in all.iter().enumerate().rev() {
        let rest = client.readdir(Fid(1), entry.offset, 60_000).unwrap();
        assert_eq!(rest, all[at + 1..], "after {}", entry.name);
    }
    // Rewinding sees what came meanwhile, also where the last reading has met the end.
    assert_eq!(client.readdir(Fid(1), 0, 60_000).unwrap().len(), 52);
    std::fs::write(folder.path().join("new"), "").unwrap();
    assert_eq!(client.readdir(Fid(1), 0, 60_000).unwrap().len(), 53);
    assert!(client.list(Fid(1), 60_000).unwrap().iter().any(|entry| entry.name == "new"));
}

#[test]
fn a_count_too_small_for_one_entry_is_an_error_and_not_the_end() {
    let (folder, client) = connect_fresh();
    std::fs::write(folder.path().join("n".repeat(255)), "").unwrap();
    client.open_path(Fid(1), "", 0).unwrap();
    for count in [0, 1, 24] {
        assert_eq!(client.readdir(Fid(1), 0, count), Err(Errno::EINVAL), "{count}");
    }
    assert_eq!(client.list(Fid(1), 278), Err(Errno::EINVAL));
    assert_eq!(client.list(Fid(1), 279).unwrap().len(), 3);
    assert_eq!(client.readdir(Fid(1), 1 << 63, 4096), Err(Errno::EINVAL));
}

#[test]
fn entries_carry_type_and_inode_number() {
    let (folder, client) = connect_fresh();
    std::fs::write(folder.path().join("f"), "").unwrap();
    std::fs::create_dir(folder.path().join("d")).unwrap();
    symlink("f", folder.path().join("l")).unwrap();
    client.open_path(Fid(1), "", 0).unwrap();
    let root = std::fs::metadata(folder.path()).unwrap().ino();
    for entry in client.list(Fid(1), 4096).unwrap() {
        let (kind, qid) = match entry.name.as_str() {
            "f" => (8, QidType::FILE),
            "l" => (10, QidType::SYMLINK),
            _ => (4, QidType::DIRECTORY),
        };
        assert_eq!((entry.kind, entry.qid.kind), (kind, qid), "{}", entry.name);
        let inode = match entry.name.as_str() {
            "." | ".." => root,
            name => std::fs::symlink_metadata(folder.path().join(name)).unwrap().ino(),
        };
        assert_eq!(entry.qid.path, inode, "{}", entry.name);
    }
}
