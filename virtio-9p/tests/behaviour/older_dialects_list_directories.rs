//! In 9P2000 and 9P2000.u a directory is read as whole stat records.

use std::collections::BTreeSet;

use crate::client::legacy::{begin, connect_in};
use crate::client::{Client, Cut, frame};
use virtio_9p::synthetic::{Directory, File, Synthetic};
use virtio_9p::wire::{Dialect, Fid, OpenMode, Perm, Tread};
use virtio_9p::{Errno, Options, Outcome, Patience, Server, Started};

const OLD: [Dialect; 2] = [Dialect::Plan9, Dialect::Unix];
const DIR: Fid = Fid(1);

fn folder_of(files: u32) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..files {
        std::fs::write(folder.path().join(format!("file{number:04}")), vec![b'x'; number as usize]).unwrap();
    }
    folder
}

fn open_root(client: &Client) {
    client.open_old_path(DIR, "", OpenMode::READ).unwrap();
}

#[test]
fn every_file_is_listed_once_whatever_the_count() {
    let folder = folder_of(300);
    std::fs::create_dir(folder.path().join("dir")).unwrap();
    for dialect in OLD {
        let mut client = connect_in(folder.path(), dialect);
        open_root(&client);
        for (count, cut) in [(150, Cut::Odd), (1000, Cut::Bytes), (8192, Cut::Pages(11)), (u32::MAX, Cut::Whole)] {
            client.cut = (cut, cut);
            let records = client.all_records(DIR, count).unwrap();
            let names: BTreeSet<&str> = records.iter().map(|record| &record.name[..]).collect();
            assert_eq!((records.len(), names.len()), (301, 301));
            assert!(!names.contains(".") && !names.contains(".."));
            for record in &records {
                assert_eq!(*record, client.stat_path(&record.name).unwrap());
            }
            let dir = records.iter().find(|record| record.name == "dir").unwrap();
            assert_eq!(dir.mode & Perm::DIRECTORY, Perm::DIRECTORY);
        }
    }
}

#[test]
fn a_reading_goes_on_where_the_last_one_ended_or_from_the_start() {
    let folder = folder_of(20);
    for dialect in OLD {
        let client = connect_in(folder.path(), dialect);
        open_root(&client);
        let (first, len) = client.records(DIR, 0, 300).unwrap();
        assert!(!first.is_empty() && len <= 300);
        for offset in [1, len - 1, len + 1, u64::MAX >> 1] {
            assert_eq!(client.records(DIR, offset, 300).map(drop), Err(Errno::EINVAL));
        }
        let (second, more) = client.records(DIR, len, 300).unwrap();
        assert_ne!(first, second);
        assert_eq!(client.records(DIR, len, 300).map(drop), Err(Errno::EINVAL), "the same place twice");
        client.records(DIR, len + more, 300).unwrap();
        // From the start, with what has come since.
        assert_eq!(client.records(DIR, 0, 300).unwrap().0, first);
        std::fs::write(folder.path().join("new"), "").unwrap();
        assert_eq!(client.all_records(DIR, 8192).unwrap().len(), 21);
        std::fs::remove_file(folder.path().join("new")).unwrap();
    }
}

#[test]
fn a_count_too_small_for_a_record_is_no_end() {
    let folder = folder_of(2);
    for dialect in OLD {
        let client = connect_in(folder.path(), dialect);
        open_root(&client);
        assert_eq!(client.records(DIR, 0, 40).map(drop), Err(Errno::EINVAL));
        let (records, len) = client.records(DIR, 0, 100).unwrap();
        assert_eq!(records.len(), 1);
        assert_eq!(client.records(DIR, len, 40).map(drop), Err(Errno::EINVAL));
        let (records, more) = client.records(DIR, len, 100).unwrap();
        assert_eq!(records.len(), 1);
        assert_eq!(client.records(DIR, len + more, 40).unwrap(), (Vec::new(), 0));
    }
}

#[test]
fn files_that_come_and_go_meanwhile_do_not_disturb_the_others() {
    for dialect in OLD {
        let folder = folder_of(200);
        let client = connect_in(folder.path(), dialect);
        open_root(&client);
        let (mut offset, mut names) = (0, Vec::new());
        let mut round = 0;
        loop {
            let (records, len) = client.records(DIR, offset, 600).unwrap();
            if records.is_empty() {
                break;
            }
            offset += len;
            names.extend(records.into_iter().map(|record| record.name));
            // Odd ones go, and others come.
            let _ = std::fs::remove_file(folder.path().join(format!("file{:04}", 199 - 2 * round)));
            std::fs::write(folder.path().join(format!("late{round}")), "").unwrap();
            round += 1;
        }
        let stayed: Vec<String> = (0..200).step_by(2).map(|number| format!("file{number:04}")).collect();
        for name in &stayed {
            assert_eq!(names.iter().filter(|found| *found == name).count(), 1, "{name}");
        }
        let different: BTreeSet<&String> = names.iter().collect();
        assert_eq!(different.len(), names.len());
    }
}

#[test]
fn a_synthetic_tree_can_be_read() {
    for dialect in OLD {
        let tree = Directory::new()
            .with("hello", File::of(|| b"hello\n".to_vec()))
            .with("sub", Directory::new().with("inner", File::of(|| b"in".to_vec())));
        let client = begin(Server::new(Synthetic::new(tree), Options::default()), dialect);
        client.open_old_path(DIR, "", OpenMode::READ).unwrap();
        let mut names: Vec<String> =
            client.all_records(DIR, 1000).unwrap().into_iter().map(|record| record.name).collect();
        names.sort();
        assert_eq!(names, ["hello", "sub"]);
        client.open_old_path(Fid(2), "sub/inner", OpenMode::READ).unwrap();
        assert_eq!(client.read(Fid(2), 0, 100).unwrap(), b"in");
        assert_eq!(client.stat(Fid(2)).unwrap().name, "inner");
        assert_eq!(client.stat_path("").unwrap().name, "/");
        assert_eq!(client.create_old_in_root(Fid(3), "n", 0o644, OpenMode::WRITE), Err(Errno::EROFS));
        client.reach(Fid(4), "hello").unwrap();
        assert_eq!(client.wstat(Fid(4), |stat| stat.name = b"other"), Err(Errno::EROFS));
    }
}

#[test]
fn a_listing_that_may_take_long_is_not_for_a_thread_that_must_not_wait() {
    let tree = Synthetic::new(Directory::new().with("file", File::of(Vec::new)));
    let client = begin(Server::new(tree, Options::default()), Dialect::Unix);
    client.open_old_path(DIR, "", OpenMode::READ).unwrap();
    let mut request = frame(&Tread { fid: DIR, offset: 0, count: 4096 }, &[]);
    let mut reply = [0; 5000];
    let mut start = |patience| client.server.start_bytes_within(&mut request, &mut reply, 0, patience);
    assert_eq!(start(Patience::Disk), Err(Patience::Endless));
    assert!(matches!(start(Patience::Endless), Ok(Started::Done(Outcome::Reply(len))) if len > 11));
}
