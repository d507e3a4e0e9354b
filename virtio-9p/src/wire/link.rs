//! Names of existing files: link, readlink, rename, renameat, unlinkat, remove.

use super::header::Fid;
use super::message::messages;

/// The flag of `Tunlinkat` that asks for the removal of a directory (Linux's `AT_REMOVEDIR`).
pub const UNLINK_DIRECTORY: u32 = 0x200;

messages! {
    /// Gives a file another name: `dfid[4] fid[4] name[s]`.
    Tlink<'a> = TLINK {
        /// The directory of the new name.
        dfid: Fid,
        /// The file.
        fid: Fid,
        /// The new name.
        name: &'a [u8],
    }
    /// The name exists.
    Rlink = RLINK {}
    /// Reads a symbolic link: `fid[4]`.
    Treadlink = TREADLINK {
        /// The link.
        fid: Fid,
    }
    /// What the link says.
    Rreadlink<'a> = RREADLINK {
        /// Its target.
        target: &'a [u8],
    }
    /// Moves the file of a fid: `fid[4] dfid[4] name[s]`.
    Trename<'a> = TRENAME {
        /// The file.
        fid: Fid,
        /// The directory to move it to.
        dfid: Fid,
        /// Its name there.
        name: &'a [u8],
    }
    /// The file is moved.
    Rrename = RRENAME {}
    /// Moves a name: `olddirfid[4] oldname[s] newdirfid[4] newname[s]`.
    Trenameat<'a> = TRENAMEAT {
        /// The directory that holds it.
        old_dfid: Fid,
        /// Its name there.
        old_name: &'a [u8],
        /// The directory to move it to.
        new_dfid: Fid,
        /// Its name there.
        new_name: &'a [u8],
    }
    /// The name is moved.
    Rrenameat = RRENAMEAT {}
    /// Removes a name: `dfid[4] name[s] flags[4]`.
    Tunlinkat<'a> = TUNLINKAT {
        /// The directory that holds it.
        dfid: Fid,
        /// The name.
        name: &'a [u8],
        /// 0 or [`UNLINK_DIRECTORY`].
        flags: u32,
    }
    /// The name is gone.
    Runlinkat = RUNLINKAT {}
    /// Removes the file of a fid, and forgets the fid whatever the outcome: `fid[4]`.
    Tremove = TREMOVE {
        /// The fid.
        fid: Fid,
    }
    /// The file and the fid are gone.
    Rremove = RREMOVE {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Tag, literal::assert_wire};

    #[test]
    fn link_bytes() {
        assert_wire(
            b"\x13\0\0\0\x46\x01\0\x04\0\0\0\x05\0\0\0\x02\0hi",
            Tag(1),
            Tlink { dfid: Fid(4), fid: Fid(5), name: b"hi" },
        );
        assert_wire(b"\x07\0\0\0\x47\x01\0", Tag(1), Rlink {});
    }

    #[test]
    fn readlink_bytes() {
        assert_wire(b"\x0b\0\0\0\x16\x01\0\x04\0\0\0", Tag(1), Treadlink { fid: Fid(4) });
        assert_wire(b"\x0d\0\0\0\x17\x01\0\x04\0/etc", Tag(1), Rreadlink { target: b"/etc" });
    }

    #[test]
    fn rename_bytes() {
        assert_wire(
            b"\x12\0\0\0\x14\x01\0\x04\0\0\0\x05\0\0\0\x01\0n",
            Tag(1),
            Trename { fid: Fid(4), dfid: Fid(5), name: b"n" },
        );
        assert_wire(b"\x07\0\0\0\x15\x01\0", Tag(1), Rrename {});
    }

    #[test]
    fn renameat_bytes() {
        assert_wire(
            b"\x16\0\0\0\x4a\x01\0\x04\0\0\0\x01\0a\x05\0\0\0\x02\0bc",
            Tag(1),
            Trenameat { old_dfid: Fid(4), old_name: b"a", new_dfid: Fid(5), new_name: b"bc" },
        );
        assert_wire(b"\x07\0\0\0\x4b\x01\0", Tag(1), Rrenameat {});
    }

    #[test]
    fn unlinkat_bytes() {
        assert_wire(
            b"\x12\0\0\0\x4c\x01\0\x04\0\0\0\x01\0d\0\x02\0\0",
            Tag(1),
            Tunlinkat { dfid: Fid(4), name: b"d", flags: UNLINK_DIRECTORY },
        );
        assert_wire(b"\x07\0\0\0\x4d\x01\0", Tag(1), Runlinkat {});
    }

    #[test]
    fn remove_bytes() {
        assert_wire(b"\x0b\0\0\0\x7a\x01\0\x04\0\0\0", Tag(1), Tremove { fid: Fid(4) });
        assert_wire(b"\x07\0\0\0\x7b\x01\0", Tag(1), Rremove {});
    }
}
