//! A tree of files that exist only while they are looked at: their content comes from closures.
//!
//! ```
//! use virtio_9p::synthetic::{Directory, File, Synthetic};
//! use virtio_9p::{Options, Server};
//!
//! let root = Directory::new()
//!     .with("version", File::of(|| b"1.0\n".to_vec()))
//!     .with("limits", Directory::new().with("fids", File::of(|| b"256\n".to_vec())));
//! let server = Server::new(Synthetic::new(root), Options::default());
//! # let _ = server;
//! ```
//!
//! - A file's content is made when it is opened, and stays the same for that open file; its size is that of content
//!   made for the question. What open files hold is bounded for all sessions together (`limits::MAX_SYNTHETIC_BYTES`).
//!   A file that takes writes hands each one to its closure as it comes, whatever the offset, as a control file does.
//! - A directory's entries are fixed ([`Directory::with`]), or made on demand ([`Directory::listing`]); a listing stays
//!   as it was when the directory was opened.
//! - Files belong to user and group 0, are readable by all, and have the times of the tree's making. Their qid version
//!   is 0, which tells Linux (6.4 and later) not to cache them.

mod serve;
mod tree;

pub use serve::{Synthetic, SyntheticHandle, SyntheticNode};
pub use tree::{Directory, File, Item};
