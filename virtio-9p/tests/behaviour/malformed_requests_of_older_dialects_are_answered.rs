//! In 9P2000 and 9P2000.u too, whatever a client sends is answered or dropped, and nothing outside the tree changes.

use std::path::Path;

use crate::client::legacy::connect_in;
use crate::client::{Client, Cut, ROOT, exchange, frame};
use crate::sentinel::{assert_sentinel, share_beside_sentinel};
use proptest::prelude::*;
use virtio_9p::Errno;
use virtio_9p::wire::{
    Dialect, Fid, Message, NOFID, OpenMode, Perm, Rerror, Stat, StatParameter, Tattach, Tauth, Tcreate, Topen, Tread,
    Tremove, Tstat, Twalk, Twrite, Twstat, WalkNames,
};

const OLD: [Dialect; 2] = [Dialect::Plan9, Dialect::Unix];
const FILE: Fid = Fid(1);
const DIR: Fid = Fid(2);
const LINK: Fid = Fid(3);
const OPEN: Fid = Fid(4);
const OPEN_DIR: Fid = Fid(5);
const NEW: Fid = Fid(6);
const SAMPLES: usize = 13;

/// A session in `share` with fids of every sort; `share`'s parent holds a sentinel.
fn scene(base: &Path, dialect: Dialect) -> Client {
    let share = share_beside_sentinel(base);
    let mut client = connect_in(&share, dialect);
    client.room = 4096;
    client.reach(FILE, "file").unwrap();
    client.reach(DIR, "dir").unwrap();
    client.reach(LINK, "link").unwrap();
    client.open_old_path(OPEN, "file", OpenMode::RDWR).unwrap();
    client.open_old_path(OPEN_DIR, "", OpenMode::READ).unwrap();
    client
}

/// Valid requests, one of each type that differs from 9P2000.L's and some of the others.
fn samples(dialect: Dialect) -> Vec<Vec<u8>> {
    let unix = dialect == Dialect::Unix;
    let n_uname = unix.then_some(0);
    let mut stat = Stat::untouched(unix);
    (stat.name, stat.mode, stat.length, stat.mtime, stat.gid) = (b"other", Perm(0o600), 3, 5, b"0");
    let link = if unix { Perm(Perm::SYMLINK | 0o777) } else { Perm(0o644) };
    let create = |name, perm| Tcreate {
        fid: DIR,
        name,
        perm,
        mode: OpenMode(OpenMode::READ),
        extension: unix.then_some(&b"../../sentinel"[..]),
    };
    vec![
        frame(&Tauth { afid: NEW, uname: b"u", aname: b"a", n_uname }, &[]),
        frame(&Tattach { fid: NEW, afid: NOFID, uname: b"u", aname: b"a", n_uname }, &[]),
        frame(&Twalk { fid: ROOT, newfid: NEW, names: WalkNames::new(&[b"dir", b"..", b"file"]).unwrap() }, &[]),
        frame(&Topen { fid: FILE, mode: OpenMode(OpenMode::RDWR | OpenMode::TRUNC) }, &[]),
        frame(&create(b"new", Perm(0o644)), &[]),
        frame(&create(b"new", Perm(Perm::DIRECTORY | 0o755)), &[]),
        frame(&create(b"new", link), &[]),
        frame(&Tread { fid: OPEN_DIR, offset: 0, count: 1000 }, &[]),
        frame(&Twrite { fid: OPEN, offset: 1, count: 5 }, b"hello"),
        frame(&Tstat { fid: LINK }, &[]),
        frame(&Twstat { fid: FILE, stat: StatParameter(stat) }, &[]),
        frame(&Twstat { fid: OPEN, stat: StatParameter(Stat::untouched(unix)) }, &[]),
        frame(&Tremove { fid: FILE }, &[]),
    ]
}

/// What an error reply says; `None` for any other.
fn error(reply: &[u8]) -> Option<String> {
    Rerror::parse(reply).ok().map(|(_, error)| String::from_utf8(error.ename.to_vec()).unwrap())
}

fn is(reply: &[u8], expected: Errno) -> bool {
    error(reply).is_some_and(|words| expected.to_string().starts_with(&words))
}

#[test]
fn every_sample_is_valid() {
    for dialect in OLD {
        let base = tempfile::tempdir().unwrap();
        assert_eq!(samples(dialect).len(), SAMPLES);
        for request in samples(dialect) {
            let client = scene(base.path(), dialect);
            let reply = exchange(&client.server, &request, 4096, client.cut).unwrap();
            assert_eq!(error(&reply).is_some(), request[4] == 102, "type {}: {:?}", request[4], error(&reply));
        }
        assert_sentinel(base.path());
    }
}

#[test]
fn every_truncation_and_every_excess_is_an_error() {
    for dialect in OLD {
        let base = tempfile::tempdir().unwrap();
        for request in samples(dialect) {
            let client = scene(base.path(), dialect);
            for len in 7..=request.len() + 1 {
                if len == request.len() {
                    continue;
                }
                let mut wrong = request.clone();
                wrong.resize(len, 0);
                wrong[..4].copy_from_slice(&u32::try_from(len).unwrap().to_le_bytes());
                let reply = exchange(&client.server, &wrong, 256, (Cut::Bytes, Cut::Odd)).unwrap();
                assert!(is(&reply, Errno::EPROTO), "type {} of {len} bytes: {:?}", request[4], error(&reply));
            }
        }
    }
}

#[test]
fn any_room_for_the_reply_is_respected() {
    for dialect in OLD {
        let base = tempfile::tempdir().unwrap();
        for request in samples(dialect) {
            for room in 0..=120 {
                let client = scene(base.path(), dialect);
                let reply = exchange(&client.server, &request, room, (Cut::Whole, Cut::Odd));
                assert_eq!(reply.is_none(), room < 13, "type {} in {room}", request[4]);
            }
        }
    }
}

#[test]
fn extreme_values_in_every_position_are_answered() {
    for dialect in OLD {
        let base = tempfile::tempdir().unwrap();
        for request in samples(dialect) {
            let client = scene(base.path(), dialect);
            for at in 5..request.len() {
                for (width, value) in [(1, 0xff), (2, 0xff), (4, 0xff), (8, 0xff), (4, 0x7f), (2, 0), (4, 0)] {
                    let mut wild = request.clone();
                    let end = wild.len().min(at + width);
                    wild[at..end].fill(value);
                    assert!(exchange(&client.server, &wild, 4096, client.cut).is_some());
                }
            }
        }
        assert_sentinel(base.path());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn changed_bytes_and_random_bodies_are_answered(
        unix in any::<bool>(),
        requests in proptest::collection::vec(
            (0..SAMPLES, proptest::collection::vec((7_usize..200, any::<u8>()), 0..6),
             proptest::collection::vec(any::<u8>(), 0..60), any::<bool>(), 0_usize..200),
            1..40,
        )
    ) {
        let base = tempfile::tempdir().unwrap();
        let dialect = OLD[usize::from(unix)];
        let client = scene(base.path(), dialect);
        let samples = samples(dialect);
        for (sample, changes, body, random, room) in requests {
            let mut request = samples[sample].clone();
            if random {
                request.truncate(11);
                request.extend_from_slice(&body);
                let size = u32::try_from(request.len()).unwrap();
                request[..4].copy_from_slice(&size.to_le_bytes());
            }
            for (at, byte) in changes {
                if let Some(changed) = request.get_mut(at) {
                    *changed = byte;
                }
            }
            let reply = exchange(&client.server, &request, room, (Cut::Odd, Cut::Bytes));
            prop_assert_eq!(reply.is_none(), room < 13);
        }
        assert_sentinel(base.path());
    }
}
