//! Data reaches files and comes back, however messages are cut, and errors are those of the host.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use crate::client::{Client, Cut, ROOT, connect, connect_fresh, exchange, frame, is_root};
use virtio_9p::wire::{
    Fid, Message, NONUNAME, OpenFlags, Rlerror, Rwrite, SetattrValid, Tag, Tfsync, Tlcreate, Tread, Twrite,
};
use virtio_9p::{Errno, FileSystem, Outcome, Patience, Started, Work};

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

#[test]
fn any_cut_of_a_message_gives_the_same_result() {
    let data = pattern(20_000);
    for request in [Cut::Whole, Cut::Bytes, Cut::Odd, Cut::Pages(23)] {
        for reply in [Cut::Whole, Cut::Bytes, Cut::Odd, Cut::Pages(11)] {
            let (folder, mut client) = connect_fresh();
            client.cut = (request, reply);
            client.room = 25_000;
            client.create_in_root(Fid(1), "f", OpenFlags::RDWR).unwrap();
            assert_eq!(client.write(Fid(1), 5, &data), Ok(20_000));
            assert_eq!(client.read(Fid(1), 5, 21_000).unwrap(), data, "{request:?} {reply:?}");
            let mut expected = vec![0; 5];
            expected.extend_from_slice(&data);
            assert_eq!(std::fs::read(folder.path().join("f")).unwrap(), expected);
            client.clunk(Fid(1)).unwrap();
        }
    }
}

#[test]
fn large_transfers_fill_msize() {
    let (_folder, mut client) = connect_fresh();
    client.room = 1 << 20;
    client.version(512_000);
    client.attach(ROOT, NONUNAME).unwrap();
    client.create_in_root(Fid(1), "f", OpenFlags::RDWR).unwrap();
    let data = pattern(511_000);
    assert_eq!(client.write(Fid(1), 0, &data), Ok(511_000));
    assert_eq!(client.read(Fid(1), 0, u32::MAX).unwrap(), data);
    client.write(Fid(1), 511_000, &data).unwrap();
    assert_eq!(client.read(Fid(1), 0, u32::MAX).unwrap().len(), 512_000 - 11, "cut to msize");
    let too_long = pattern(512_000);
    assert_eq!(client.write(Fid(1), 0, &too_long), Err(Errno::EMSGSIZE));
    client.walk(ROOT, Fid(2), &[b"f"]).unwrap();
    assert_eq!(client.open(Fid(2), 0).unwrap().iounit, 507_904);
}

#[test]
fn a_read_is_cut_to_the_room_and_never_answered_empty_for_lack_of_it() {
    let (folder, client) = connect_fresh();
    std::fs::write(folder.path().join("f"), pattern(100)).unwrap();
    client.open_path(Fid(1), "f", 0).unwrap();
    let request = frame(&Tread { fid: Fid(1), offset: 0, count: 100 }, &[]);
    for room in 12..130 {
        let reply = exchange(&client.server, &request, room, client.cut).unwrap();
        assert_eq!(reply.len(), room.min(111));
        assert_eq!(reply[11..], pattern(100)[..reply.len() - 11]);
    }
    let reply = exchange(&client.server, &request, 11, client.cut).unwrap();
    assert_eq!(Rlerror::parse(&reply).unwrap().1.ecode, Errno::EMSGSIZE.raw());
    let empty = frame(&Tread { fid: Fid(1), offset: 0, count: 0 }, &[]);
    assert_eq!(exchange(&client.server, &empty, 11, client.cut).unwrap().len(), 11);
}

#[test]
fn bytes_beyond_the_message_are_not_written() {
    let (folder, client) = connect_fresh();
    client.create_in_root(Fid(1), "f", OpenFlags::WRONLY).unwrap();
    let mut request = frame(&Twrite { fid: Fid(1), offset: 0, count: 3 }, b"abc");
    request.extend_from_slice(b"trailing");
    let reply = exchange(&client.server, &request, 11, client.cut).unwrap();
    assert_eq!(Rwrite::parse(&reply), Ok((Tag(7), Rwrite { count: 3 })));
    assert_eq!(std::fs::read(folder.path().join("f")).unwrap(), b"abc");
}

#[test]
fn nothing_is_done_for_a_reply_that_cannot_fit() {
    let (folder, client) = connect_fresh();
    let create = Tlcreate { fid: ROOT, name: b"f", flags: OpenFlags(1), mode: 0o644, gid: 0 };
    let reply = exchange(&client.server, &frame(&create, &[]), 23, client.cut).unwrap();
    assert_eq!(Rlerror::parse(&reply).unwrap().1.ecode, Errno::EMSGSIZE.raw());
    assert!(!folder.path().join("f").exists());
    assert_eq!(exchange(&client.server, &frame(&create, &[]), 10, client.cut), None);
    assert!(!folder.path().join("f").exists());
}

#[test]
fn errors_are_the_hosts() {
    let (folder, client) = connect_fresh();
    std::fs::write(folder.path().join("f"), "x").unwrap();
    std::fs::create_dir(folder.path().join("d")).unwrap();
    symlink("f", folder.path().join("l")).unwrap();
    let fifo = rustix::fs::CWD;
    rustix::fs::mknodat(
        fifo,
        folder.path().join("p"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o644),
        0,
    )
    .unwrap();
    for (fid, name) in [(1, "f"), (2, "d"), (3, "l"), (4, "p")] {
        client.reach(Fid(fid), name).unwrap();
    }
    assert_eq!(client.read(Fid(1), 0, 1), Err(Errno::EBADF));
    assert_eq!(client.write(Fid(1), 0, b"x"), Err(Errno::EBADF));
    assert_eq!(client.readdir(Fid(2), 0, 100), Err(Errno::EBADF));
    assert_eq!(client.fsync(Fid(1), 0), Err(Errno::EBADF));
    assert_eq!(client.open(Fid(1), 3), Err(Errno::EINVAL));
    assert_eq!(client.open(Fid(1), OpenFlags::DIRECTORY), Err(Errno::ENOTDIR));
    assert_eq!(client.open(Fid(2), OpenFlags::RDWR), Err(Errno::EISDIR));
    assert_eq!(client.open(Fid(3), 0), Err(Errno::ELOOP));
    assert_eq!(client.open(Fid(4), 0), Err(Errno::ENXIO));
    assert_eq!(client.readlink(Fid(1)), Err(Errno::EINVAL));
    assert_eq!(client.readlink(Fid(3)).unwrap(), b"f");
    client.open(Fid(1), 0).unwrap();
    client.open(Fid(2), OpenFlags::DIRECTORY).unwrap();
    assert_eq!(client.write(Fid(1), 0, b"x"), Err(Errno::EBADF));
    assert_eq!(client.read(Fid(2), 0, 1), Err(Errno::EISDIR));
    assert_eq!(client.readdir(Fid(1), 0, 100), Err(Errno::ENOTDIR));
    assert_eq!(client.read(Fid(1), 1 << 63, 1), Err(Errno::EINVAL));
    assert_eq!(client.read(Fid(1), u64::MAX, 1), Err(Errno::EINVAL));
    for fid in [1, 2] {
        for datasync in [0, 1] {
            client.fsync(Fid(fid), datasync).unwrap();
        }
    }
    // The form of old clients, without the datasync field.
    let short = [11, 0, 0, 0, 50, 7, 0, 1, 0, 0, 0];
    assert_eq!(exchange(&client.server, &short, 64, client.cut).unwrap(), [7, 0, 0, 0, 51, 7, 0]);
}

/// What to do with a sync where no more patience is left than that.
fn sync_within(folder: &Path, patience: Patience) -> Result<Started, Patience> {
    let client = connect(folder);
    client.create_in_root(Fid(1), "f", OpenFlags::RDWR).unwrap();
    let mut request = frame(&Tfsync { fid: Fid(1), datasync: 0 }, &[]);
    client.server.start_bytes_within(&mut request, &mut [0; 64], 0, patience)
}

#[test]
fn a_sync_waits_for_nothing_where_there_is_only_memory() {
    const TMPFS: u32 = 0x0102_1994;
    let memory = Path::new("/dev/shm");
    let kind = rustix::fs::statfs(memory).ok().and_then(|status| u32::try_from(status.f_type).ok());
    if kind != Some(TMPFS) {
        eprintln!("left out: /dev/shm is no tmpfs");
        return;
    }
    let folder = tempfile::tempdir_in(memory).unwrap();
    assert_eq!(sync_within(folder.path(), Patience::None), Ok(Started::Done(Outcome::Reply(7))));
}

#[test]
fn a_sync_on_a_disk_is_given_to_whoever_may_wait() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let on_disk = connect(folder.path()).server.file_system().needs(Work::Names) > Patience::None;
    let synced = sync_within(folder.path(), Patience::Disk);
    assert_eq!(synced.err(), on_disk.then_some(Patience::Endless));
}

#[test]
fn creating_obeys_excl_and_never_follows_or_opens_what_is_not_a_file() {
    let (folder, client) = connect_fresh();
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("target");
    symlink(&target, folder.path().join("l")).unwrap();
    std::fs::create_dir(folder.path().join("d")).unwrap();
    std::fs::write(folder.path().join("f"), "old").unwrap();
    let create = |name: &[u8], flags: u32| {
        client.walk(ROOT, Fid(1), &[]).unwrap();
        let result = client.create(Fid(1), name, flags, 0o644).map(drop);
        client.clunk(Fid(1)).unwrap();
        result
    };
    let rdwr = OpenFlags::RDWR | OpenFlags::CREATE;
    assert_eq!(create(b"f", rdwr | OpenFlags::EXCL), Err(Errno::EEXIST));
    assert_eq!(create(b"l", rdwr), Err(Errno::ELOOP));
    assert_eq!(create(b"l", rdwr | OpenFlags::EXCL), Err(Errno::EEXIST));
    assert_eq!(create(b"d", rdwr), Err(Errno::EISDIR));
    assert_eq!(create(b"f", rdwr), Ok(()));
    assert_eq!(std::fs::read(folder.path().join("f")).unwrap(), b"old");
    assert_eq!(create(b"f", rdwr | OpenFlags::TRUNC), Ok(()));
    assert_eq!(std::fs::read(folder.path().join("f")).unwrap(), b"");
    assert_eq!(create(b"n", rdwr | OpenFlags::EXCL), Ok(()));
    for bad in [&b""[..], b"a/b", b"a\0"] {
        assert_eq!(create(bad, rdwr), Err(Errno::EINVAL));
    }
    assert_eq!(create(b"..", rdwr), Err(Errno::EEXIST));
    assert_eq!(create(&[b'n'; 256], rdwr), Err(Errno::ENAMETOOLONG));
    assert!(!target.exists());
}

#[test]
fn a_created_file_can_be_written_whatever_its_mode() {
    let (_folder, client) = connect_fresh();
    client.walk(ROOT, Fid(1), &[]).unwrap();
    client.create(Fid(1), b"f", OpenFlags::RDWR, 0o444).unwrap();
    assert_eq!(client.write(Fid(1), 0, b"abcdef"), Ok(6));
    client.setattr(Fid(1), SetattrValid::SIZE, |change| change.size = 3).unwrap();
    assert_eq!(client.read(Fid(1), 0, 10).unwrap(), b"abc");
    assert_eq!(client.getattr(Fid(1)).unwrap().mode & 0o777, 0o444);
}

#[test]
fn appending_ignores_the_offset_and_create_is_stripped_from_open() {
    let (folder, client) = connect_fresh();
    std::fs::write(folder.path().join("f"), "abc").unwrap();
    let flags = OpenFlags::WRONLY
        | OpenFlags::APPEND
        | OpenFlags::CREATE
        | OpenFlags::EXCL
        | OpenFlags::NOATIME
        | OpenFlags::DIRECT
        | OpenFlags::FASYNC
        | OpenFlags::NOCTTY
        | OpenFlags::LARGEFILE;
    client.open_path(Fid(1), "f", flags).unwrap();
    client.write(Fid(1), 0, b"def").unwrap();
    assert_eq!(std::fs::read(folder.path().join("f")).unwrap(), b"abcdef");
    client.open_path(Fid(2), "f", OpenFlags::RDWR | OpenFlags::TRUNC | OpenFlags::SYNC).unwrap();
    assert_eq!(std::fs::read(folder.path().join("f")).unwrap(), b"");
}

#[test]
fn an_unlinked_file_keeps_working() {
    let (folder, client) = connect_fresh();
    client.create_in_root(Fid(1), "f", OpenFlags::RDWR).unwrap();
    client.walk(Fid(1), Fid(2), &[]).unwrap();
    client.unlinkat(ROOT, b"f", 0).unwrap();
    assert!(!folder.path().join("f").exists());
    assert_eq!(client.write(Fid(1), 0, b"hello"), Ok(5));
    for fid in [Fid(1), Fid(2)] {
        let attributes = client.getattr(fid).unwrap();
        assert_eq!((attributes.size, attributes.nlink), (5, 0));
    }
    client.setattr(Fid(1), SetattrValid::SIZE, |change| change.size = 2).unwrap();
    client.setattr(Fid(2), SetattrValid::MODE, |change| change.mode = 0o600).unwrap();
    client.setattr(Fid(2), SetattrValid::SIZE, |change| change.size = 4).unwrap();
    assert_eq!(client.read(Fid(1), 0, 9).unwrap(), b"he\0\0");
    client.open(Fid(2), OpenFlags::RDONLY).unwrap();
    assert_eq!(client.read(Fid(2), 1, 1).unwrap(), b"e");
    assert_eq!(client.getattr(Fid(1)).unwrap().mode, 0o100_600);
    assert_eq!(client.walk(ROOT, Fid(3), &[b"f"]), Err(Errno::ENOENT));
    assert_eq!(client.remove(Fid(2)), Err(Errno::ENOENT));
}

#[test]
fn holes_take_no_space_and_read_as_zeros() {
    const FAR: u64 = 1 << 32;
    let (_folder, client) = connect_fresh();
    client.create_in_root(Fid(1), "f", OpenFlags::RDWR).unwrap();
    client.write(Fid(1), FAR, b"end").unwrap();
    let found = client.getattr(Fid(1)).unwrap();
    assert_eq!(found.size, FAR + 3);
    assert!(found.blocks * 512 < FAR / 2, "{} blocks", found.blocks);
    assert_eq!(client.read(Fid(1), FAR - 2, 100).unwrap(), b"\0\0end");
    client.setattr(Fid(1), SetattrValid::SIZE, |change| change.size = FAR * 2).unwrap();
    assert_eq!(client.read(Fid(1), FAR * 2 - 2, 100).unwrap(), b"\0\0");
    client.setattr(Fid(1), SetattrValid::SIZE, |change| change.size = FAR + 1).unwrap();
    client.setattr(Fid(1), SetattrValid::SIZE, |change| change.size = FAR + 3).unwrap();
    assert_eq!(client.read(Fid(1), FAR, 100).unwrap(), b"e\0\0", "what was cut does not come back");
}

#[test]
fn names_are_made_moved_and_removed() {
    let (folder, client) = connect_fresh();
    let at = |name: &str| folder.path().join(name);
    client.mkdir(ROOT, b"d", 0o755).unwrap();
    assert_eq!(client.mkdir(ROOT, b"d", 0o755), Err(Errno::EEXIST));
    client.create_in_root(Fid(1), "f", OpenFlags::WRONLY).unwrap();
    client.reach(Fid(2), "d").unwrap();
    client.link(Fid(1), Fid(2), b"g").unwrap();
    assert_eq!(std::fs::metadata(at("f")).unwrap().nlink(), 2);
    assert_eq!(client.link(Fid(1), Fid(1), b"h"), Err(Errno::ENOTDIR));
    client.symlink(ROOT, b"l", b"../../anything").unwrap();
    assert_eq!(std::fs::read_link(at("l")).unwrap().to_str(), Some("../../anything"));
    client.reach(Fid(3), "l").unwrap();
    client.link(Fid(3), Fid(2), b"l2").unwrap();
    assert_eq!(std::fs::read_link(at("d/l2")).unwrap().to_str(), Some("../../anything"));
    assert_eq!(client.symlink(ROOT, b"m", b""), Err(Errno::ENOENT));
    assert_eq!(client.symlink(ROOT, b"m", &[b'x'; 4096]), Err(Errno::ENAMETOOLONG));
    client.symlink(ROOT, b"m", &[b'x'; 4095]).unwrap();
    client.reach(Fid(9), "m").unwrap();
    assert_eq!(client.readlink(Fid(9)).unwrap(), [b'x'; 4095]);

    client.renameat(ROOT, b"f", Fid(2), b"k").unwrap();
    assert!(at("d/k").exists() && !at("f").exists());
    assert_eq!(client.renameat(ROOT, b"f", ROOT, b"k"), Err(Errno::ENOENT));
    client.reach(Fid(4), "d/k").unwrap();
    client.rename(Fid(4), ROOT, b"back").unwrap();
    assert!(at("back").exists() && !at("d/k").exists());
    client.rename(Fid(4), Fid(2), b"again").unwrap();
    assert!(at("d/again").exists());

    assert_eq!(client.unlinkat(ROOT, b"d", 0), Err(Errno::EISDIR));
    assert_eq!(client.unlinkat(ROOT, b"d", 0x200), Err(Errno::ENOTEMPTY));
    assert_eq!(client.unlinkat(ROOT, b"l", 0x200), Err(Errno::ENOTDIR));
    assert_eq!(client.unlinkat(ROOT, b"l", 0x201), Err(Errno::EINVAL));
    client.remove(Fid(4)).unwrap();
    assert!(!at("d/again").exists());
    assert_eq!(client.clunk(Fid(4)), Err(Errno::EBADF), "a removed fid is gone");
    for name in [&b"g"[..], b"l2"] {
        client.unlinkat(Fid(2), name, 0).unwrap();
    }
    client.remove(Fid(2)).unwrap();
    assert!(!at("d").exists());
    client.walk(ROOT, Fid(5), &[]).unwrap();
    assert_eq!(client.remove(Fid(5)), Err(Errno::EBUSY), "the root stays");
}

#[test]
fn special_files_are_made_but_not_opened() {
    let (folder, client) = connect_fresh();
    let mknod = |name: &[u8], mode: u32, major: u32, minor: u32| {
        client.call(&virtio_9p::wire::Tmknod { dfid: ROOT, name, mode, major, minor, gid: u32::MAX }).map(drop)
    };
    for (name, kind) in [(&b"p"[..], 0o010_000), (b"s", 0o140_000), (b"r", 0o100_000)] {
        mknod(name, kind | 0o600, 0, 0).unwrap();
        let path = folder.path().join(std::str::from_utf8(name).unwrap());
        assert_eq!(std::fs::symlink_metadata(path).unwrap().mode(), kind | 0o600);
    }
    assert_eq!(mknod(b"d", 0o040_755, 0, 0), Err(Errno::EINVAL));
    assert_eq!(mknod(b"x", 0o644, 0, 0), Err(Errno::EINVAL));
    if is_root() {
        match mknod(b"c", 0o020_600, 1, 3) {
            Ok(()) => {
                client.reach(Fid(1), "c").unwrap();
                assert_eq!(client.getattr(Fid(1)).unwrap().rdev, 0x103);
                assert_eq!(client.open(Fid(1), 0), Err(Errno::ENXIO));
            }
            Err(error) => eprintln!("skipped: device nodes cannot be made here ({error})"),
        }
    } else {
        eprintln!("skipped: device nodes need root");
        assert_eq!(mknod(b"c", 0o020_600, 1, 3), Err(Errno::EPERM));
    }
}

#[test]
fn new_files_belong_to_the_user_that_attached_if_the_server_is_root() {
    let (folder, client) = connect_fresh();
    if !is_root() {
        eprintln!("skipped: giving files away needs root");
        return;
    }
    client.attach(Fid(10), 1234).unwrap();
    let gid = 4321;
    client.walk(Fid(10), Fid(1), &[]).unwrap();
    client.call(&Tlcreate { fid: Fid(1), name: b"f", flags: OpenFlags(1), mode: 0o6755, gid }).unwrap();
    client.call(&virtio_9p::wire::Tmkdir { dfid: Fid(10), name: b"d", mode: 0o2775, gid }).unwrap();
    client.call(&virtio_9p::wire::Tsymlink { dfid: Fid(10), name: b"l", target: b"/etc", gid }).unwrap();
    client
        .call(&virtio_9p::wire::Tmknod { dfid: Fid(10), name: b"p", mode: 0o010_600, major: 0, minor: 0, gid })
        .unwrap();
    for name in ["f", "d", "l", "p"] {
        let status = std::fs::symlink_metadata(folder.path().join(name)).unwrap();
        assert_eq!((status.uid(), status.gid()), (1234, gid), "{name}");
    }
    assert_eq!(std::fs::metadata(folder.path().join("f")).unwrap().mode() & 0o6000, 0o6000);
    assert_eq!(std::fs::metadata(folder.path().join("d")).unwrap().mode() & 0o6000, 0o2000);

    // An existing file that is opened by a create keeps its owner.
    let old = folder.path().join("old");
    std::fs::write(&old, "").unwrap();
    client.walk(Fid(10), Fid(2), &[]).unwrap();
    client.call(&Tlcreate { fid: Fid(2), name: b"old", flags: OpenFlags(1), mode: 0o644, gid }).unwrap();
    assert_eq!(std::fs::metadata(&old).unwrap().uid(), 0);
}

#[test]
fn permission_errors_reach_the_client() {
    if is_root() {
        eprintln!("skipped: nothing is forbidden to root");
        return;
    }
    let (folder, client) = connect_fresh();
    let path = folder.path().join("f");
    std::fs::write(&path, "x").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o0)).unwrap();
    client.reach(Fid(1), "f").unwrap();
    assert_eq!(client.open(Fid(1), 0), Err(Errno::EACCES));
    let owner = client.setattr(Fid(1), SetattrValid::UID, |change| change.uid = 0);
    assert_eq!(owner, Err(Errno::EPERM));
}

#[test]
fn writes_of_one_client_are_seen_by_another() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two): (Client, Client) = (connect(folder.path()), connect(folder.path()));
    one.create_in_root(Fid(1), "f", OpenFlags::RDWR).unwrap();
    two.open_path(Fid(1), "f", OpenFlags::RDONLY).unwrap();
    let before = two.getattr(Fid(1)).unwrap().qid;
    one.write(Fid(1), 0, b"hi").unwrap();
    assert_eq!(two.read(Fid(1), 0, 9).unwrap(), b"hi");
    let after = two.getattr(Fid(1)).unwrap().qid;
    assert_eq!(before.path, after.path);
    assert_ne!(before.version, after.version);
}
