//! Whatever a client sends, the server answers or drops it, without a panic and without a byte outside the reply.
//!
//! The client's `exchange` checks the guard bytes between segments, the request's integrity, and that the used length is the
//! size field.

use std::path::Path;

use crate::client::{Client, Cut, ROOT, connect, exchange, frame};
use crate::sentinel::{assert_sentinel, share_beside_sentinel};
use proptest::prelude::*;
use virtio_9p::Errno;
use virtio_9p::wire::{
    AttrMask, Fid, LockFlags, LockType, Message, NOFID, OpenFlags, Rlerror, SetattrValid, Tag, Tattach, Tauth, Tclunk,
    Tflush, Tfsync, Tgetattr, Tgetlock, Tlcreate, Tlink, Tlock, Tlopen, Tmkdir, Tmknod, Tread, Treaddir, Treadlink,
    Tremove, Trename, Trenameat, Tsetattr, Tstatfs, Tsymlink, Tunlinkat, Tversion, Twalk, Twrite, Txattrcreate,
    Txattrwalk, WalkNames, XattrFlags,
};

const FILE: Fid = Fid(1);
const DIR: Fid = Fid(2);
const LINK: Fid = Fid(3);
const OPEN: Fid = Fid(4);
const OPEN_DIR: Fid = Fid(5);
const NEW: Fid = Fid(6);

/// A session in `share` with fids of every sort; `share`'s parent holds a sentinel.
fn scene(base: &Path) -> Client {
    let share = share_beside_sentinel(base);
    let mut client = connect(&share);
    client.room = 4096;
    client.reach(FILE, "file").unwrap();
    client.reach(DIR, "dir").unwrap();
    client.reach(LINK, "link").unwrap();
    client.open_path(OPEN, "file", OpenFlags::RDWR).unwrap();
    client.open_path(OPEN_DIR, "", OpenFlags::RDONLY).unwrap();
    client
}

/// One valid request of each type.
fn samples() -> Vec<Vec<u8>> {
    let time = Default::default();
    let (start, length, proc_id, client_id) = (0, 10, 1, &b"client"[..]);
    vec![
        frame(&Tversion { msize: 8192, version: b"9P2000.L" }, &[]),
        frame(&Tauth { afid: NEW, uname: b"u", aname: b"a", n_uname: Some(0) }, &[]),
        frame(&Tattach { fid: NEW, afid: NOFID, uname: b"u", aname: b"a", n_uname: Some(0) }, &[]),
        frame(&Tflush { oldtag: Tag(1) }, &[]),
        frame(&Twalk { fid: ROOT, newfid: NEW, names: WalkNames::new(&[b"dir", b"..", b"file"]).unwrap() }, &[]),
        frame(&Tlopen { fid: FILE, flags: OpenFlags(OpenFlags::RDWR) }, &[]),
        frame(&Tlcreate { fid: DIR, name: b"new", flags: OpenFlags(2), mode: 0o644, gid: 0 }, &[]),
        frame(&Tread { fid: OPEN, offset: 1, count: 100 }, &[]),
        frame(&Twrite { fid: OPEN, offset: 1, count: 5 }, b"hello"),
        frame(&Treaddir { fid: OPEN_DIR, offset: 0, count: 1000 }, &[]),
        frame(&Tfsync { fid: OPEN, datasync: 0 }, &[]),
        frame(&Tgetattr { fid: FILE, request_mask: AttrMask::ALL }, &[]),
        frame(
            &Tsetattr {
                fid: FILE,
                valid: SetattrValid(0x1f9),
                mode: 0o644,
                uid: 0,
                gid: 0,
                size: 9,
                atime: time,
                mtime: time,
            },
            &[],
        ),
        frame(&Tstatfs { fid: ROOT }, &[]),
        frame(&Treadlink { fid: LINK }, &[]),
        frame(&Tsymlink { dfid: DIR, name: b"new", target: b"../../sentinel", gid: 0 }, &[]),
        frame(&Tmknod { dfid: DIR, name: b"new", mode: 0o010_644, major: 0, minor: 0, gid: 0 }, &[]),
        frame(&Tmkdir { dfid: DIR, name: b"new", mode: 0o755, gid: 0 }, &[]),
        frame(&Tlink { dfid: DIR, fid: FILE, name: b"new" }, &[]),
        frame(&Trename { fid: FILE, dfid: DIR, name: b"new" }, &[]),
        frame(&Trenameat { old_dfid: ROOT, old_name: b"file", new_dfid: DIR, new_name: b"new" }, &[]),
        frame(&Tunlinkat { dfid: ROOT, name: b"dir", flags: 0x200 }, &[]),
        frame(&Tremove { fid: FILE }, &[]),
        frame(&Tclunk { fid: FILE }, &[]),
        frame(&Txattrwalk { fid: FILE, newfid: NEW, name: b"" }, &[]),
        frame(&Txattrcreate { fid: FILE, name: b"user.a", attr_size: 5, flags: XattrFlags(0) }, &[]),
        frame(&Tlock { fid: OPEN, kind: LockType::WRITE, flags: LockFlags(1), start, length, proc_id, client_id }, &[]),
        frame(&Tgetlock { fid: OPEN, kind: LockType::UNLOCK, start, length, proc_id, client_id }, &[]),
    ]
}

/// The error of a reply, if it is one.
fn error(reply: &[u8]) -> Option<u32> {
    Rlerror::parse(reply).ok().map(|(_, error)| error.ecode)
}

#[test]
fn every_sample_is_valid() {
    let base = tempfile::tempdir().unwrap();
    for request in samples() {
        let client = scene(base.path());
        let reply = exchange(&client.server, &request, 4096, client.cut).unwrap();
        let expected = match request[4] {
            102 => Some(Errno::ENOENT.raw()),
            _ => None,
        };
        // Attributes may be missing on this file system.
        if request[4] != 30 {
            assert_eq!(error(&reply), expected, "type {}", request[4]);
        }
    }
    assert_eq!(samples().len(), 28);
}

#[test]
fn every_truncation_is_an_error_or_dropped() {
    let base = tempfile::tempdir().unwrap();
    for request in samples() {
        let client = scene(base.path());
        for len in 0..request.len() {
            // The size field says more than there is.
            let reply = exchange(&client.server, &request[..len], 256, (Cut::Odd, Cut::Odd));
            match (len, reply) {
                (0..7, None) => {}
                (0..7, Some(_)) => panic!("answered {len} bytes of type {}", request[4]),
                (_, reply) => assert_eq!(error(&reply.unwrap()), Some(Errno::EPROTO.raw())),
            }
            // The size field agrees, but the fields do not.
            if len >= 7 {
                let mut short = request[..len].to_vec();
                short[..4].copy_from_slice(&u32::try_from(len).unwrap().to_le_bytes());
                let reply = exchange(&client.server, &short, 256, (Cut::Bytes, Cut::Bytes)).unwrap();
                // The short form of a sync is a message of its own.
                if !(request[4] == 50 && len == 11) {
                    assert_eq!(error(&reply), Some(Errno::EPROTO.raw()), "type {} cut at {len}", request[4]);
                }
            }
        }
        // A size field that says less than the message.
        let mut claim = request.clone();
        for size in 0..u32::try_from(request.len()).unwrap() {
            if request[4] == 50 && size == 11 {
                continue;
            }
            claim[..4].copy_from_slice(&size.to_le_bytes());
            let reply = exchange(&client.server, &claim, 256, client.cut).unwrap();
            assert_eq!(error(&reply), Some(Errno::EPROTO.raw()), "type {} of size {size}", request[4]);
        }
    }
    assert_sentinel(base.path());
}

#[test]
fn a_message_too_long_for_its_fields_is_an_error() {
    let base = tempfile::tempdir().unwrap();
    for mut request in samples() {
        let client = scene(base.path());
        request.push(0);
        let size = u32::try_from(request.len()).unwrap();
        request[..4].copy_from_slice(&size.to_le_bytes());
        let reply = exchange(&client.server, &request, 256, client.cut).unwrap();
        assert_eq!(error(&reply), Some(Errno::EPROTO.raw()), "type {}", request[4]);
    }
}

#[test]
fn any_room_for_the_reply_is_respected() {
    let base = tempfile::tempdir().unwrap();
    for request in samples() {
        for room in 0..=170 {
            // Getting and listing need the same state each time; the others are only sent once.
            let client = scene(base.path());
            let reply = exchange(&client.server, &request, room, (Cut::Whole, Cut::Odd));
            assert_eq!(reply.is_none(), room < 11, "type {} in {room}", request[4]);
        }
    }
}

#[test]
fn extreme_values_in_every_position_are_answered() {
    let base = tempfile::tempdir().unwrap();
    for request in samples() {
        let client = scene(base.path());
        for at in 5..request.len() {
            for (width, value) in [(1, 0xff), (2, 0xff), (4, 0xff), (8, 0xff), (4, 0x7f), (8, 0x7f), (2, 0), (4, 0)] {
                let mut wild = request.clone();
                let end = wild.len().min(at + width);
                wild[at..end].fill(value);
                assert!(exchange(&client.server, &wild, 4096, client.cut).is_some());
            }
        }
    }
    assert_sentinel(base.path());
}

#[test]
fn sizes_beyond_msize_and_memory_are_errors() {
    let base = tempfile::tempdir().unwrap();
    let client = scene(base.path());
    client.version(8192);
    client.attach(ROOT, 0).unwrap();
    let mut long = vec![0_u8; 9000];
    long[..4].copy_from_slice(&9000_u32.to_le_bytes());
    for kind in [8, 14, 16, 100, 110, 116, 118] {
        long[4] = kind;
        let reply = exchange(&client.server, &long, 64, client.cut).unwrap();
        assert!(error(&reply).is_some(), "type {kind}");
    }
    for size in [0x7fff_ffff_u32, u32::MAX, 9001] {
        long[..4].copy_from_slice(&size.to_le_bytes());
        let reply = exchange(&client.server, &long, 64, client.cut).unwrap();
        assert_eq!(error(&reply), Some(Errno::EPROTO.raw()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn random_bodies_are_answered(
        requests in proptest::collection::vec(
            (prop::sample::select((0..28_usize).collect::<Vec<_>>()), proptest::collection::vec(any::<u8>(), 0..80),
             0_usize..200, any::<bool>()),
            1..40,
        )
    ) {
        let base = tempfile::tempdir().unwrap();
        let client = scene(base.path());
        let samples = samples();
        for (sample, body, room, keep_fid) in requests {
            let mut request = samples[sample][..if keep_fid { 11.min(samples[sample].len()) } else { 7 }].to_vec();
            request.extend_from_slice(&body);
            let size = u32::try_from(request.len()).unwrap();
            request[..4].copy_from_slice(&size.to_le_bytes());
            let reply = exchange(&client.server, &request, room, (Cut::Odd, Cut::Bytes));
            prop_assert_eq!(reply.is_none(), room < 11);
        }
        assert_sentinel(base.path());
    }

    #[test]
    fn changed_bytes_are_answered(
        requests in proptest::collection::vec(
            (0..28_usize, proptest::collection::vec((0_usize..200, any::<u8>()), 1..6)), 1..60,
        )
    ) {
        let base = tempfile::tempdir().unwrap();
        let client = scene(base.path());
        let samples = samples();
        for (sample, changes) in requests {
            let mut request = samples[sample].clone();
            for (at, byte) in changes {
                let at = at % request.len();
                request[at] = byte;
            }
            exchange(&client.server, &request, 4096, client.cut);
        }
        assert_sentinel(base.path());
    }

    #[test]
    fn random_bytes_are_answered_or_dropped(request in proptest::collection::vec(any::<u8>(), 0..100)) {
        let base = tempfile::tempdir().unwrap();
        let client = scene(base.path());
        let reply = exchange(&client.server, &request, 64, client.cut);
        prop_assert_eq!(reply.is_none(), request.len() < 7);
    }
}
