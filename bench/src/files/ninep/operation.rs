//! One operation in messages, none of which needs the answer to another.

use super::super::tree;
use super::super::work::{SMALL, Work};
use super::message::Op;

/// Fids.
pub(super) const ROOT: u32 = 0;
pub(super) const DATA: u32 = 1;
pub(super) const TARGET: u32 = 2;
pub(super) const PARENT: u32 = 3;
pub(super) const NEW: u32 = 4;
pub(super) const FILE: u32 = 5;
pub(super) const FIRST_DIRECTORY: u32 = 10;
const TEMPORARY: u32 = 100;

/// `open` flags as 9P2000.L numbers them.
pub(super) const O_RDONLY: u32 = 0;
pub(super) const O_RDWR: u32 = 2;
pub(super) const O_DIRECTORY: u32 = 0o200_000;
const O_CREAT: u32 = 0o100;
const O_EXCL: u32 = 0o200;

/// The way to the small file, as walks have it.
const WAY: [&[u8]; 3] = [tree::WAY[0].as_bytes(), tree::WAY[1].as_bytes(), tree::WAY[2].as_bytes()];

/// One operation.
#[derive(Debug)]
pub(super) struct Operation {
    /// What is done: anything but the listing of a directory, whose messages depend on each other.
    pub(super) work: Work,
    /// Where in the file, for reads and writes.
    pub(super) offset: u64,
    /// Name of the new file.
    pub(super) name: String,
}

impl Operation {
    /// Its messages. A file is removed by its name or by its fid.
    pub(super) fn messages(&self, removes_by_name: bool) -> Vec<Op<'_>> {
        let offset = self.offset;
        match self.work {
            Work::Walk => vec![
                Op::Walk { fid: ROOT, new_fid: TEMPORARY, names: &WAY },
                Op::Getattr { fid: TEMPORARY },
                Op::Clunk { fid: TEMPORARY },
            ],
            Work::OpenRead => vec![
                Op::Walk { fid: PARENT, new_fid: TEMPORARY, names: &WAY[2..] },
                Op::Open { fid: TEMPORARY, flags: O_RDONLY },
                Op::Read { fid: TEMPORARY, offset: 0, bytes: SMALL },
                Op::Clunk { fid: TEMPORARY },
            ],
            Work::Create => {
                let name = self.name.as_bytes();
                let mut messages = vec![
                    Op::Walk { fid: NEW, new_fid: TEMPORARY, names: &[] },
                    Op::Create { fid: TEMPORARY, name, flags: O_RDWR | O_CREAT | O_EXCL },
                    Op::Write { fid: TEMPORARY, offset: 0, bytes: SMALL },
                ];
                if removes_by_name {
                    messages.extend([Op::Unlink { directory: NEW, name }, Op::Clunk { fid: TEMPORARY }]);
                } else {
                    messages.push(Op::Remove { fid: TEMPORARY });
                }
                messages
            }
            Work::Fsync => vec![Op::Fsync { fid: TARGET }],
            Work::Read(bytes) => vec![Op::Read { fid: DATA, offset, bytes }],
            Work::Write(bytes) => vec![Op::Write { fid: TARGET, offset, bytes }],
            Work::Getattr | Work::Readdir(_) => vec![Op::Getattr { fid: FILE }],
        }
    }
}
