//! A tree of closures behaves as a read-only file system with control files.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use crate::client::{Client, Cut, ROOT, frame};
use virtio_9p::synthetic::{Directory, File, Synthetic};
use virtio_9p::wire::{AttrMask, Fid, NONUNAME, OpenFlags, Tgetattr, Tlopen, Twrite};
use virtio_9p::{Errno, Options, Patience, Server, limits};

fn connect(root: Directory) -> Client<Synthetic> {
    let server = Server::new(Synthetic::new(root), Options::default());
    let mut client = Client::new(server);
    client.cut = (Cut::Odd, Cut::Odd);
    client.version(8192);
    client.attach(ROOT, NONUNAME).unwrap();
    client
}

#[test]
fn content_is_made_at_open_and_stays() {
    let count = Arc::new(AtomicU32::new(0));
    let counter = count.clone();
    let client =
        connect(Directory::new().with(
            "count",
            File::of(move || format!("number {}\n", counter.fetch_add(1, Ordering::Relaxed)).into_bytes()),
        ));
    client.open_path(Fid(1), "count", 0).unwrap();
    assert_eq!(client.read(Fid(1), 0, 7).unwrap(), b"number ");
    assert_eq!(client.read(Fid(1), 7, 100).unwrap(), b"0\n");
    assert_eq!(client.read(Fid(1), 9, 100).unwrap(), b"");
    assert_eq!(client.read(Fid(1), 1 << 40, 100).unwrap(), b"");
    client.open_path(Fid(2), "count", 0).unwrap();
    assert_eq!(client.read(Fid(2), 0, 100).unwrap(), b"number 1\n");
    let found = client.getattr(Fid(2)).unwrap();
    assert_eq!((found.mode, found.size, found.nlink), (0o100_444, 9, 1));
    assert_eq!(found.qid.version, 0, "not to be cached");
}

/// It may wait for whoever else holds a lock of its program, and a thread with other things to do stands still meanwhile.
#[test]
fn a_closure_is_called_by_whoever_can_wait() {
    let never = File::of(|| panic!("was called")).taking(|_| panic!("was called"));
    let client = connect(Directory::new().with("file", never));
    client.reach(Fid(1), "file").unwrap();
    client.open_path(Fid(2), "file", OpenFlags::WRONLY).unwrap();
    let getattr = frame(&Tgetattr { fid: Fid(1), request_mask: AttrMask::BASIC }, &[]);
    let open = frame(&Tlopen { fid: Fid(1), flags: OpenFlags(0) }, &[]);
    let write = frame(&Twrite { fid: Fid(2), offset: 0, count: 1 }, b"x");
    for mut request in [getattr, open, write] {
        let started = client.server.start_bytes_within(&mut request, &mut [0; 200], 0, Patience::Disk);
        assert_eq!(started.err(), Some(Patience::Endless));
    }
}

#[test]
fn writes_go_to_the_closure() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let (writer, reader) = (heard.clone(), heard.clone());
    let control = File::of(move || reader.lock().unwrap().concat()).taking(move |data| match data {
        b"bad" => Err(Errno::EINVAL),
        data => {
            writer.lock().unwrap().push(data.to_vec());
            Ok(())
        }
    });
    let client = connect(Directory::new().with("ctl", control).with("fixed", File::of(Vec::new)));
    client.open_path(Fid(1), "ctl", OpenFlags::WRONLY | OpenFlags::TRUNC).unwrap();
    client.setattr(Fid(1), 0x8, |_| {}).unwrap();
    assert_eq!(client.write(Fid(1), 0, b"one "), Ok(4));
    assert_eq!(client.write(Fid(1), 4, b"two"), Ok(3));
    assert_eq!(client.write(Fid(1), 7, b"bad"), Err(Errno::EINVAL));
    assert_eq!(client.read(Fid(1), 0, 10), Err(Errno::EBADF));
    client.open_path(Fid(2), "ctl", 0).unwrap();
    assert_eq!(client.read(Fid(2), 0, 10).unwrap(), b"one two");
    assert_eq!(client.write(Fid(2), 0, b"x"), Err(Errno::EBADF));
    client.reach(Fid(3), "fixed").unwrap();
    assert_eq!(client.open(Fid(3), OpenFlags::RDWR).map(drop), Err(Errno::EACCES));
    assert_eq!(client.setattr(Fid(3), 0x8, |_| {}), Err(Errno::EPERM));
    assert_eq!(client.setattr(Fid(1), 0x1, |_| {}), Err(Errno::EPERM));
}

fn tree() -> Directory {
    let made = Directory::new().with("fixed", File::of(Vec::new)).listing(
        || (0..300).map(|number| number.to_string()).collect(),
        |name| {
            let number: u32 = name.parse().ok().filter(|number| *number < 300)?;
            Some(Directory::new().with("double", File::of(move || (2 * number).to_string().into_bytes())).into())
        },
    );
    Directory::new().with("made", made).with("file", File::of(|| b"x".to_vec()))
}

#[test]
fn directories_are_walked_and_listed() {
    let client = connect(tree());
    client.open_path(Fid(1), "made/21/double", 0).unwrap();
    assert_eq!(client.read(Fid(1), 0, 10).unwrap(), b"42");
    assert_eq!(client.reach(Fid(2), "made/300"), Err(Errno::ENOENT));
    assert_eq!(client.reach(Fid(2), "file/x"), Err(Errno::ENOENT));
    client.open_path(Fid(3), "made", OpenFlags::DIRECTORY).unwrap();
    let entries = client.list(Fid(3), 200).unwrap();
    assert_eq!(entries.len(), 2 + 1 + 300);
    client.reach(Fid(4), "made/21").unwrap();
    let id = client.getattr(Fid(4)).unwrap().qid.path;
    assert_eq!(entries.iter().find(|entry| entry.name == "21").unwrap().qid.path, id);
    let mut ids: Vec<u64> = entries.iter().map(|entry| entry.qid.path).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), entries.len(), "every file has its own number");
    let up = client.walk(Fid(4), Fid(5), &[b"..", b"..", b"..", b"file"]).unwrap();
    assert_eq!(up.len(), 4);
    assert_eq!(client.walk(Fid(5), Fid(6), &[b".."]), Err(Errno::ENOTDIR));
    assert_eq!(client.open(Fid(5), OpenFlags::DIRECTORY).map(drop), Err(Errno::ENOTDIR));
    assert_eq!(client.getattr(ROOT).unwrap().nlink, 3);
}

#[test]
fn nothing_can_be_made_moved_or_removed() {
    let client = connect(tree());
    client.reach(Fid(1), "file").unwrap();
    assert_eq!(client.mkdir(ROOT, b"new", 0o755).map(drop), Err(Errno::EROFS));
    assert_eq!(client.create_in_root(Fid(2), "new", OpenFlags::RDWR), Err(Errno::EROFS));
    assert_eq!(client.renameat(ROOT, b"file", ROOT, b"g"), Err(Errno::EROFS));
    assert_eq!(client.unlinkat(ROOT, b"file", 0), Err(Errno::EROFS));
    assert_eq!(client.link(Fid(1), ROOT, b"g"), Err(Errno::EROFS));
    assert_eq!(client.readlink(Fid(1)), Err(Errno::EINVAL));
    assert_eq!(client.xattrwalk(Fid(1), Fid(3), b""), Err(Errno::EOPNOTSUPP));
    assert_eq!(client.remove(Fid(1)), Err(Errno::EROFS));
}

#[test]
fn open_files_hold_a_bounded_amount_together() {
    let large = limits::MAX_SYNTHETIC_BYTES / 4;
    let client = connect(Directory::new().with("large", File::of(move || vec![0; large])));
    for fid in 1..=4 {
        client.open_path(Fid(fid), "large", OpenFlags::RDONLY).unwrap();
    }
    client.reach(Fid(5), "large").unwrap();
    assert_eq!(client.open(Fid(5), OpenFlags::RDONLY), Err(Errno::ENOMEM));
    client.clunk(Fid(2)).unwrap();
    client.open(Fid(5), OpenFlags::RDONLY).unwrap();
}
