//! `Rlerror`: the one error reply of 9P2000.L. Its request half is never sent.

use super::message::messages;

messages! {
    /// The request failed: `size[4] Rlerror tag[2] ecode[4]`, always 11 bytes.
    Rlerror = RLERROR {
        /// A Linux (asm-generic) errno; clients accept 1 to 4095.
        ecode: u32,
    }
}

impl Rlerror {
    /// Length of the whole message in bytes: the least room that a reply buffer must have.
    pub const LEN: usize = 11;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Tag, literal::assert_wire};

    #[test]
    fn rlerror_bytes() {
        assert_wire(&[11, 0, 0, 0, 7, 0x34, 0x12, 2, 0, 0, 0], Tag(0x1234), Rlerror { ecode: 2 });
    }
}
