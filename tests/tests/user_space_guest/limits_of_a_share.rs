//! What a guest may take through a share ends where the share's limits say, with the errno that they say, and what it gives
//! back can be had again.

use calgary_tests::guest::ninep::{LockRequest, NinepClient};
use calgary_tests::guest::{Mapping, ROOT_FID, Session};
use calgaryd::config::ShareLimits;

use crate::rig::Rig;

const E2BIG: u32 = 7;
const EINVAL: u32 = 22;
const ENFILE: u32 = 23;
const ENOSPC: u32 = 28;
const ENOLCK: u32 = 37;
const EMSGSIZE: u32 = 90;
const READ_WRITE: u32 = 2;

/// A folder with one file, shared within limits that `change` may lower.
fn share(change: impl Fn(&mut ShareLimits)) -> (Rig, Session) {
    let rig = Rig::with_limits(change);
    std::fs::write(rig.shared().join("file"), b"content").unwrap();
    let guest = rig.guest(Mapping::Strict);
    (rig, guest)
}

fn walk(client: &mut NinepClient, fid: u32) -> Result<(), Option<u32>> {
    client.walk(ROOT_FID, fid, &[b"file"]).map(drop).map_err(|error| error.errno())
}

#[test]
fn fids() {
    let (_rig, mut guest) = share(|limits| limits.max_fids = 3);
    for share in &mut guest.shares {
        let client = &mut share.client;
        walk(client, 1).unwrap();
        walk(client, 2).unwrap();
        assert_eq!(walk(client, 3), Err(Some(ENFILE)));
        client.clunk(1).unwrap();
        walk(client, 3).unwrap();
    }
}

#[test]
fn descriptors_of_files_that_have_no_way_back() {
    /// More than a share of 8 descriptors may have while requests are under way.
    const MANY: u32 = 1000;
    let (_rig, mut guest) = share(|limits| limits.max_descriptors = Some(8));
    let client = &mut guest.shares[0].client;
    let open_and_remove = |client: &mut NinepClient, fid: u32| {
        client.walk(ROOT_FID, fid, &[])?;
        client.lcreate(fid, b"gone", READ_WRITE, 0o600, 0)?;
        client.unlinkat(ROOT_FID, b"gone", 0)
    };
    let (last, refused) = (1..MANY)
        .find_map(|fid| open_and_remove(client, fid).err().map(|error| (fid, error)))
        .expect("one share takes the descriptors of all");
    assert_eq!(refused.errno(), Some(ENFILE));
    assert!(last > 4);
    for fid in 1..last {
        client.clunk(fid).unwrap();
    }
    let _ = client.clunk(last);
    open_and_remove(client, 1).unwrap();
}

#[test]
fn lock_owners() {
    let (_rig, mut guest) = share(|limits| limits.max_lock_owners = Some(2));
    let client = &mut guest.shares[0].client;
    walk(client, 1).unwrap();
    client.lopen(1, READ_WRITE).unwrap();
    let mut lock = |kind, process| {
        let request = LockRequest { kind, process, client: b"guest", ..LockRequest::default() };
        client.lock(1, &request).map_err(|error| error.errno())
    };
    let (read, unlock) = (0, 2);
    assert_eq!((lock(read, 1), lock(read, 2)), (Ok(0), Ok(0)));
    assert_eq!(lock(read, 3), Err(Some(ENOLCK)));
    assert_eq!(lock(unlock, 1), Ok(0));
    assert_eq!(lock(read, 3), Ok(0));
}

#[test]
fn values_of_extended_attributes() {
    let (_rig, mut guest) = share(|limits| limits.max_xattr_bytes = 70 << 10);
    let client = &mut guest.shares[0].client;
    let mut create = |fid, size| {
        walk(client, fid).unwrap();
        client.xattrcreate(fid, b"user.a", size, 0).map_err(|error| error.errno())
    };
    // The largest that Linux has, and the most that is under way at a time.
    assert_eq!(create(1, (64 << 10) + 1), Err(Some(E2BIG)));
    assert_eq!(create(2, 64 << 10), Ok(()));
    assert_eq!(create(3, 8 << 10), Err(Some(ENOSPC)));
    // Given up by a clunk that finds it unfinished.
    assert_eq!(client.clunk(2).unwrap_err().errno(), Some(EINVAL));
    client.xattrcreate(3, b"user.a", 8 << 10, 0).unwrap();
}

#[test]
fn the_size_of_a_message() {
    let (_rig, mut guest) = share(|limits| limits.msize = 16 << 10);
    for share in &mut guest.shares {
        let client = &mut share.client;
        assert_eq!(client.msize(), 16 << 10);
        walk(client, 1).unwrap();
        client.lopen(1, READ_WRITE).unwrap();
        let written = client.write(1, 0, &vec![7; client.max_io() as usize]).unwrap();
        assert_eq!(written, client.max_io());
        let error = client.write(1, 0, &vec![7; 16 << 10]).unwrap_err();
        assert_eq!(error.errno(), Some(EMSGSIZE));
    }
}
