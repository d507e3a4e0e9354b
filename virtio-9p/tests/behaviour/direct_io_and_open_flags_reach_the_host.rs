//! What a client asks for at open is what the host's file is opened with.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::client::{Client, ROOT, connect, connect_with, frame, is_root};
use virtio_9p::wire::{Fid, OpenFlags, Rread, Tread, Twrite};
use virtio_9p::{Options, Outcome, PassthroughOptions, Readable, Segment, Writable};

const FILE: Fid = Fid(1);

/// The flags of the descriptors of this process that are open on `path` for reading or writing, as the kernel tells them.
fn flags_of(path: &Path) -> Vec<u32> {
    /// `O_PATH`, as the kernel prints it.
    const PATH: u32 = 0o10_000_000;
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
        let entry = entry.unwrap();
        if std::fs::read_link(entry.path()).is_ok_and(|target| target == path) {
            let info = std::fs::read_to_string(Path::new("/proc/self/fdinfo").join(entry.file_name())).unwrap();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
            all.push(u32::from_str_radix(flags.trim(), 8).unwrap());
        }
    }
    all.retain(|flags| flags & PATH == 0);
    all
}

/// As 9P has them, which is as x86 has them.
const SHARED: u32 =
    0o3 | OpenFlags::APPEND | OpenFlags::NONBLOCK | OpenFlags::SYNC | OpenFlags::DIRECT | OpenFlags::NOATIME;

#[cfg(target_arch = "x86_64")]
#[test]
fn flags_reach_the_host_but_those_that_would_surprise_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap().join("f");
    std::fs::write(&path, "x").unwrap();
    let client = connect(folder.path());
    let quiet = OpenFlags::NOCTTY | OpenFlags::FASYNC | OpenFlags::LARGEFILE | OpenFlags::CLOEXEC | OpenFlags::DIRECT;
    for (asked, got) in [
        (OpenFlags::RDONLY, OpenFlags::RDONLY),
        (OpenFlags::WRONLY | OpenFlags::APPEND, OpenFlags::WRONLY | OpenFlags::APPEND),
        (OpenFlags::RDWR | OpenFlags::DSYNC, OpenFlags::RDWR | OpenFlags::DSYNC),
        (OpenFlags::RDWR | OpenFlags::SYNC | OpenFlags::DSYNC, OpenFlags::RDWR | OpenFlags::SYNC | OpenFlags::DSYNC),
        (OpenFlags::NOATIME, OpenFlags::NOATIME),
        (OpenFlags::RDWR | quiet, OpenFlags::RDWR),
    ] {
        client.open_path(FILE, "f", asked).unwrap();
        let seen: Vec<u32> = flags_of(&path).iter().map(|flags| flags & (SHARED | OpenFlags::DSYNC)).collect();
        assert_eq!(seen, [got], "asked for {asked:o}");
        client.clunk(FILE).unwrap();
    }
}

/// A page that direct I/O takes.
struct Page(*mut u8);

const PAGE: usize = 4096;

impl Page {
    fn layout() -> Layout {
        Layout::from_size_align(PAGE, PAGE).unwrap()
    }

    fn new() -> Page {
        // SAFETY: the size is not 0.
        let page = unsafe { alloc_zeroed(Page::layout()) };
        assert!(!page.is_null());
        Page(page)
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the page is this long, and borrowed as this is.
        unsafe { std::slice::from_raw_parts_mut(self.0, PAGE) }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout.
        unsafe { dealloc(self.0, Page::layout()) };
    }
}

/// A message whose payload is one aligned page, as a guest's kernel lays it out.
fn exchange_page(client: &Client, head: &mut [u8], page: &Page, reply_head: &mut [u8], reading: bool) -> usize {
    // SAFETY: all outlive the call, and nothing else touches them.
    let (head, page, reply) = unsafe {
        (
            Segment::new(head.as_mut_ptr(), head.len()),
            Segment::new(page.0, PAGE),
            Segment::new(reply_head.as_mut_ptr(), reply_head.len()),
        )
    };
    let (from, to) = if reading { (vec![head], vec![reply, page]) } else { (vec![head, page], vec![reply]) };
    match client.server.handle(&Readable::new(&from), &Writable::new(&to)) {
        Outcome::Reply(len) => len,
        Outcome::Dropped => panic!("dropped"),
    }
}

#[test]
fn direct_io_is_used_by_option_and_takes_any_buffer() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().canonicalize().unwrap().join("f");
    let mut options = PassthroughOptions::default();
    options.direct_io = true;
    let client = connect_with(folder.path(), Options::default(), options);
    client.create_in_root(FILE, "f", OpenFlags::RDWR | OpenFlags::DIRECT).unwrap();
    let is_direct = || flags_of(&path).iter().any(|flags| flags & OpenFlags::DIRECT != 0);
    if cfg!(target_arch = "x86_64") && !is_direct() {
        eprintln!("skipped in part: no direct I/O on the file system of {}", path.display());
    }
    let direct_before = is_direct();

    // As a guest's kernel lays it out: direct.
    let mut page = Page::new();
    page.bytes().fill(b'p');
    let count = u32::try_from(PAGE).unwrap();
    let mut head = frame(&Twrite { fid: FILE, offset: 0, count }, page.bytes());
    head.truncate(Twrite::HEAD_LEN);
    assert_eq!(exchange_page(&client, &mut head, &page, &mut [0; 11], false), 11);
    page.bytes().fill(0);
    let mut head = frame(&Tread { fid: FILE, offset: 0, count }, &[]);
    assert_eq!(exchange_page(&client, &mut head, &page, &mut [0; Rread::HEAD_LEN], true), 11 + PAGE);
    assert!(page.bytes().iter().all(|byte| *byte == b'p'));
    assert_eq!(is_direct(), direct_before, "aligned I/O stays direct");

    // Buffers, offsets and lengths of any kind, which the device would refuse.
    assert_eq!(client.write(FILE, 10, b"hello"), Ok(5));
    assert_eq!(client.read(FILE, 8, 9).unwrap(), b"pphellopp");
    assert_eq!(client.write(FILE, 4096, &[b'q'; 5000]), Ok(5000));
    assert_eq!(client.read(FILE, 4095, 3).unwrap(), b"pqq");
    assert_eq!(client.read(FILE, 9095, 100).unwrap(), b"q");
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 9096);

    // An existing file, and one opened for appending.
    client.open_path(Fid(2), "f", OpenFlags::RDONLY | OpenFlags::DIRECT).unwrap();
    assert_eq!(client.read(Fid(2), 9, 7).unwrap(), b"phellop");
    client.open_path(Fid(3), "f", OpenFlags::WRONLY | OpenFlags::APPEND | OpenFlags::DIRECT).unwrap();
    assert_eq!(client.write(Fid(3), 0, b"end"), Ok(3));
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 9099);
    // A directory has no data to be read directly.
    client.walk(ROOT, Fid(4), &[]).unwrap();
    client.open(Fid(4), OpenFlags::DIRECTORY | OpenFlags::DIRECT).unwrap();
    assert!(!client.list(Fid(4), 1000).unwrap().is_empty());
}

#[test]
fn who_does_not_own_a_file_may_still_wish_to_leave_its_access_time() {
    if !is_root() {
        eprintln!("skipped: only root serves other users");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = folder.path().join("f");
    std::fs::write(&path, "of root").unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().uid(), 0);
    let mut options = PassthroughOptions::default();
    options.per_user = true;
    let client = connect_with(folder.path(), Options::default(), options);
    client.attach(Fid(9), 1234).unwrap();
    client.walk(Fid(9), FILE, &[b"f"]).unwrap();
    client.open(FILE, OpenFlags::RDONLY | OpenFlags::NOATIME).unwrap();
    assert_eq!(client.read(FILE, 0, 10).unwrap(), b"of root");
}
