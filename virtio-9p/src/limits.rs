//! Every bound of the crate, with its reason.

/// Longest frame head that is copied out of a request, in bytes. The longest legal one is a `Tlcreate`-like message
/// with a 255-byte name, a `Tsymlink` with a target of `PATH_MAX` (4,096), or a `Twalk` of 16 names of 255 bytes
/// (4,129); what is longer holds a string that no file system accepts.
pub const MAX_HEAD: usize = 8192;

/// Smallest msize in bytes that a session accepts: Linux refuses less, and an `Rgetattr` or a 16-name walk must fit.
pub const MIN_MSIZE: u32 = 4096;

/// Default largest msize in bytes. Linux over virtio asks for at most 512,000 with 4 KiB pages.
pub const DEFAULT_MAX_MSIZE: u32 = 1 << 20;

/// Largest msize in bytes that the options can ask for: the count of a reply stays far inside 32 bits.
pub const MAX_MSIZE: u32 = 1 << 30;

/// Default most fids of a session. A guest keeps one per cached name, and the passthrough file system spends one
/// descriptor on each and a second on each open one; this is half of the usual hard `RLIMIT_NOFILE` of 524,288.
pub const DEFAULT_MAX_FIDS: usize = 1 << 18;

/// Fids below this number live in an array (Linux hands out the lowest free number); larger ones in a hash table, so
/// that a client cannot make the array large by naming a large fid. 64 Ki pointers are 512 KiB.
pub const DENSE_FIDS: u32 = 1 << 16;

/// Default bytes of extended attribute values held for all fids: room for 1,024 of the largest.
pub const DEFAULT_MAX_XATTR_BYTES: usize = 64 << 20;

/// Bytes of content that the open files of a synthetic tree hold together; beyond it `ENOMEM`.
pub const MAX_SYNTHETIC_BYTES: usize = 64 << 20;

/// Largest extended attribute value in bytes (Linux `XATTR_SIZE_MAX`).
pub const XATTR_SIZE_MAX: usize = 65_536;

/// Longest file name in bytes (Linux `NAME_MAX`).
pub const NAME_MAX: usize = 255;

/// Longest symbolic link target in bytes, without a terminator (Linux `PATH_MAX` counts one).
pub const TARGET_MAX: usize = 4095;

/// Scatter entries handed to one `preadv` or `pwritev`: those of the largest request of Linux over virtio (128), so
/// that it is one system call. More than that take several calls.
pub const IO_VECTORS: usize = 128;

/// Bytes of directory entries fetched at once: what glibc's `readdir` uses.
pub const DIRECTORY_BUFFER: usize = 32 << 10;

/// Directory buffers kept between requests; beyond this many, a directory is read again from the cookie. 1,024 of them
/// are 32 MiB.
pub const MAX_DIRECTORY_BUFFERS: usize = 1024;

/// Directories kept open for the next walk through them, whoever clunks them: each costs one descriptor.
pub const RECENT_DIRECTORIES: usize = 32;

/// Levels that a walk to `..` climbs to prove that it is still inside the tree. A path of `PATH_MAX` has at most 2,048.
pub const MAX_DEPTH: usize = 2048;

/// Attempts at an operation that a concurrent rename disturbs (`EAGAIN` of `openat2`, a name that comes and goes).
pub const RACE_RETRIES: usize = 64;

/// Default most owners that hold locks at a time; each costs one descriptor.
pub const MAX_LOCK_OWNERS: usize = 4096;

/// Owners that can hold locks at a time however few descriptors there are: a share of a small budget would let two
/// programs lock a file, and refuse the third.
pub const MIN_LOCK_OWNERS: usize = 16;

/// Locked ranges in all, whether a lock or an unlock in its middle makes them. Each costs kernel memory that no
/// resource limit counts, and the kernel walks all ranges of a file for each lock on it: about a millisecond at this
/// many.
pub const MAX_LOCK_RANGES: usize = 8192;

/// Default most locks that wait at a time: a quarter of the 128 places of Linux's queue, so that the request that gives
/// up the lock finds one.
pub const DEFAULT_MAX_PARKED_LOCKS: usize = 32;

/// Longest client id of a lock in bytes. Linux sends its node name, at most 64.
pub const MAX_CLIENT_ID: usize = 255;

/// Least descriptors that the passthrough file system keeps to: a request may need several at a time.
pub const MIN_DESCRIPTORS: usize = 8;

/// Descriptors that may be open beyond the budget while none can be closed, before requests are refused: those in use
/// by requests under way.
pub const DESCRIPTORS_UNDER_WAY: usize = 128;

/// Descriptors closed at once when the budget is spent, so that the search for them is paid by many requests.
pub const RECLAIM_BATCH: usize = 64;

/// Descriptors looked at before the search is given up: what cannot be closed (unlinked files) must not make every
/// request slow.
pub const RECLAIM_SCAN: usize = 4096;

/// File systems mounted below a folder that are remembered; with more, they are looked at again. Each btrfs subvolume
/// counts.
pub const MAX_MOUNTS: usize = 1024;
