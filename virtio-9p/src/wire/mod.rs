//! The wire format of 9P2000.L, 9P2000.u and 9P2000: bytes to typed messages and back.
//!
//! Every message is a plain struct that implements [`Message`]: [`Message::parse`] reads a frame, [`Message::emit`]
//! writes one. Requests and replies go both ways, so a client can be built on the same types. Strings are borrowed
//! bytes: 9P says UTF-8, Linux file names are any bytes, and the latter wins.
//!
//! A frame is `size[4] type[1] tag[2] body`, all integers little-endian; `size` counts itself. Three messages end with
//! file data ([`Twrite`], [`Rread`], [`Rreaddir`]): their structs cover the part before the data, and
//! [`Message::payload_len`] tells how many bytes follow it.
//!
//! Fields at the end that 9P2000.u added are an `Option`, absent in 9P2000; [`Message::parse_in`] insists on the right
//! form.
//!
//! Layouts follow Plan 9's section 5 manual pages and the 9P2000.L description in diod's `protocol.md`; numbers and
//! flag values are those of Linux `include/net/9p/9p.h`.

mod attach;
mod attr;
mod codec;
mod create;
mod dialect;
mod dirent;
mod error;
mod header;
mod io;
mod legacy;
mod link;
mod lock;
mod message;
mod open;
mod qid;
mod request;
mod stat;
mod version;
mod walk;
mod xattr;

pub use attach::{NONUNAME, Rattach, Rauth, Tattach, Tauth};
pub use attr::{AttrMask, Rgetattr, Rsetattr, Rstatfs, SetattrValid, Tgetattr, Time, Tsetattr, Tstatfs};
pub use codec::{Decoder, Encoder, Field, Malformed};
pub use create::{Rmkdir, Rmknod, Rsymlink, Tmkdir, Tmknod, Tsymlink};
pub use dialect::Dialect;
pub use dirent::DirEntry;
pub use error::{Rerror, Rlerror};
pub use header::{Fid, HEADER_LEN, Header, MessageType, NOFID, NOTAG, Tag};
pub use io::{Rclunk, Rfsync, Rread, Rreaddir, Rwrite, Tclunk, Tfsync, Tread, Treaddir, Twrite};
pub use legacy::{OpenMode, Perm, Rcreate, Ropen, Tcreate, Topen};
pub use link::{
    Rlink, Rreadlink, Rremove, Rrename, Rrenameat, Runlinkat, Tlink, Treadlink, Tremove, Trename, Trenameat, Tunlinkat,
    UNLINK_DIRECTORY,
};
pub use lock::{LockFlags, LockStatus, LockType, Rgetlock, Rlock, Tgetlock, Tlock};
pub use message::Message;
pub use open::{OpenFlags, Rlcreate, Rlopen, Tlcreate, Tlopen};
pub use qid::{Qid, QidType};
pub use stat::{Rstat, Rwstat, Stat, StatParameter, Tstat, Twstat, UnixStat};
pub use version::{DIALECT_UNKNOWN, Rflush, Rversion, Tflush, Tversion};
pub use walk::{MAX_WALK_NAMES, Rwalk, Twalk, WalkNames, WalkQids};
pub use xattr::{Rxattrcreate, Rxattrwalk, Txattrcreate, Txattrwalk, XattrFlags};

#[cfg(test)]
pub(crate) mod literal;
