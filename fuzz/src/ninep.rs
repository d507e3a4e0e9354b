//! One exchange with a 9P server, and what every reply must be.

use std::sync::{Mutex, MutexGuard, OnceLock};

use virtio_9p::wire::{Dialect, Message, NOTAG, Tversion};
use virtio_9p::{Options, Outcome, Passthrough, PassthroughOptions, Readable, Segment, Server, Writable};

use crate::tree::{SECRET, Tree};

/// What fills a reply buffer, and the bytes around it.
const POISON: u8 = 0xa5;
const FENCE: usize = 32;
/// Types of error replies.
const RLERROR: u8 = 7;
const RERROR: u8 = 107;

/// The dialect that a number of the input chooses; 0 is 9P2000.L.
#[must_use]
pub fn dialect(number: usize) -> Dialect {
    [Dialect::Linux, Dialect::Unix, Dialect::Plan9][number % 3]
}

/// Tversion with messages of 8 KiB.
///
/// # Panics
/// Never: the message fits.
#[must_use]
pub fn version_frame(dialect: Dialect) -> Vec<u8> {
    let mut frame = [0; 64];
    let len = Tversion { msize: 8192, version: dialect.version() }.emit(NOTAG, &mut frame).expect("it fits");
    frame[..len].to_vec()
}

/// `size[4] type[1] tag[2] body`.
///
/// # Panics
/// The body is longer than a size field can say.
#[must_use]
pub fn frame(kind: u8, tag: u16, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(7 + body.len()).expect("short");
    [&size.to_le_bytes()[..], &[kind], &tag.to_le_bytes(), body].concat()
}

/// A folder and its server, for one input after the other.
pub struct Rig {
    tree: Tree,
    /// The server of the folder.
    pub server: Server<Passthrough>,
}

impl Rig {
    /// The one rig, with the folder as new and a session that has gone through `prelude`.
    ///
    /// # Panics
    /// The folder cannot be opened, or a message of the prelude fails.
    pub fn begin(prelude: &[Vec<u8>]) -> MutexGuard<'static, Rig> {
        static RIG: OnceLock<Mutex<Rig>> = OnceLock::new();
        let rig = RIG.get_or_init(|| {
            let tree = Tree::new();
            let server = server(&tree);
            Mutex::new(Rig { tree, server })
        });
        let rig = rig.lock().expect("a finding ends the process");
        rig.tree.rebuild();
        must(&rig.server, prelude);
        rig
    }

    /// Ends the session.
    ///
    /// # Panics
    /// It left a fid, or something outside the shared folder is not as it was.
    pub fn end(&self) {
        self.server.reset();
        assert_eq!(self.server.fid_count(), 0);
        self.tree.check();
    }
}

/// A server of `tree` that forgets nothing between inputs but what [`Server::reset`] makes it.
///
/// # Panics
/// The folder cannot be opened.
#[must_use]
pub fn server(tree: &Tree) -> Server<Passthrough> {
    let files = Passthrough::new(&tree.shared(), PassthroughOptions::default()).expect("a folder");
    let mut options = Options::default();
    options.max_fids = 256;
    Server::new(files, options)
}

/// Sends `request`, cut after `cut` bytes, with `room` bytes for the reply, cut after `cut` bytes too; returns the reply.
///
/// # Panics
/// The reply breaks a rule, or holds what lies outside the shared folder.
pub fn exchange(server: &Server<Passthrough>, request: &[u8], room: usize, cut: usize) -> Option<Vec<u8>> {
    let mut from = request.to_vec();
    let mut to = vec![POISON; FENCE + room + FENCE];
    let split = |bytes: &mut [u8]| {
        let cut = cut.min(bytes.len());
        let (first, second) = bytes.split_at_mut(cut);
        // SAFETY: both halves outlive the segments and nothing else touches them while they are used.
        unsafe { [Segment::new(first.as_mut_ptr(), first.len()), Segment::new(second.as_mut_ptr(), second.len())] }
    };
    let (readable, writable) = (split(&mut from), split(&mut to[FENCE..FENCE + room]));
    let outcome = server.handle(&Readable::new(&readable), &Writable::new(&writable));
    assert_eq!(from, request, "the request was written to");
    let (used, dropped) = match outcome {
        Outcome::Reply(len) => (len, false),
        Outcome::Dropped => (0, true),
    };
    assert!(used <= room, "a reply of {used} bytes in {room}");
    assert!(to[..FENCE].iter().chain(&to[FENCE + room..]).all(|&byte| byte == POISON), "written outside the buffer");
    if dropped {
        assert!(to.iter().all(|&byte| byte == POISON), "dropped, yet written to");
        return None;
    }
    let reply = to[FENCE..FENCE + used].to_vec();
    assert_eq!(reply[..4], u32::try_from(used).expect("short").to_le_bytes(), "size field");
    assert_eq!(reply[5..7], request[5..7], "tag");
    let (asked, kind) = (request[4], reply[4]);
    if kind == RLERROR {
        let errno = u32::from_le_bytes([reply[7], reply[8], reply[9], reply[10]]);
        assert!(used == 11 && (1..4096).contains(&errno), "errno {errno} in {used} bytes");
    } else if kind == RERROR {
        let words = usize::from(u16::from_le_bytes([reply[7], reply[8]]));
        assert!(used == 9 + words || used == 13 + words, "{words} bytes of words in {used}");
        if let Some(errno) = reply[9 + words..].first_chunk() {
            let errno = u32::from_le_bytes(*errno);
            assert!((1..4096).contains(&errno), "errno {errno}");
        }
    } else {
        assert_eq!(kind, asked.wrapping_add(1), "type of the reply");
    }
    let leaked = !request.windows(SECRET.len()).any(|part| part == SECRET)
        && reply.windows(SECRET.len()).any(|part| part == SECRET);
    assert!(!leaked, "a reply holds what lies outside the shared folder");
    Some(reply)
}

/// Sends each frame and insists on a reply that is no error.
///
/// # Panics
/// One is refused.
fn must(server: &Server<Passthrough>, frames: &[Vec<u8>]) {
    for request in frames {
        let reply = exchange(server, request, 8192, 11).expect("a reply");
        assert!(![RLERROR, RERROR].contains(&reply[4]), "{request:?} was refused");
    }
}
