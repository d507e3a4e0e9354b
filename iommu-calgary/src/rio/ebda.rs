//! The extended BIOS data area: a chain of blocks, one of them the RIO table.

use super::{RioError, RioTable, bytes};

/// Where the BIOS data area keeps the real-mode segment of the EBDA.
const EBDA_SEGMENT: usize = 0x40E;
/// Offset of the first block in the EBDA.
const FIRST_BLOCK: usize = 0x180;
/// The id of the RIO table's block: "RG", for Rio Grande, read as a little-endian number.
const RIO_ID: u16 = 0x4752;

/// Reads the RIO table of a machine from an image of its memory from address 0 on.
///
/// # Errors
/// See [`RioError`].
pub fn from_low_memory(image: &[u8]) -> Result<RioTable, RioError> {
    let segment = u16::from_le_bytes(bytes(image, EBDA_SEGMENT, "the BIOS data area")?);
    let ebda = image.get(usize::from(segment) << 4..).ok_or(RioError::Truncated("the EBDA"))?;
    RioTable::parse(find_block(ebda)?)
}

/// The RIO table's bytes in an image of the EBDA, to the image's end.
///
/// A block starts with the offset of the next one and its id, 16 bits each. The chain ends where the next offset does
/// not grow, so a looped chain ends too.
///
/// # Errors
/// [`RioError::NoTable`] at the end of the chain, [`RioError::Truncated`] if it leads out of the image.
pub fn find_block(ebda: &[u8]) -> Result<&[u8], RioError> {
    const WHAT: &str = "the EBDA's chain of blocks";
    let mut offset = FIRST_BLOCK;
    loop {
        let next = usize::from(u16::from_le_bytes(bytes(ebda, offset, WHAT)?));
        let id = u16::from_le_bytes(bytes(ebda, offset + 2, WHAT)?);
        if id == RIO_ID {
            return Ok(&ebda[offset + 4..]);
        }
        if next <= offset {
            return Err(RioError::NoTable);
        }
        offset = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(ebda: &mut [u8], offset: usize, next: u16, id: [u8; 2]) {
        ebda[offset..offset + 2].copy_from_slice(&next.to_le_bytes());
        ebda[offset + 2..offset + 4].copy_from_slice(&id);
    }

    #[test]
    fn the_chain_is_followed_to_the_rio_block() {
        let mut memory = vec![0; 0xA_0000];
        memory[0x40E..0x410].copy_from_slice(&0x9F00_u16.to_le_bytes());
        let ebda = &mut memory[0x9_F000..];
        block(ebda, 0x180, 0x200, *b"XX");
        block(ebda, 0x200, 0x300, *b"RG");
        ebda[0x204..0x207].copy_from_slice(&[3, 0, 0]);
        let table = from_low_memory(&memory).unwrap();
        assert_eq!((table.version, table.devices.len()), (3, 0));
    }

    #[test]
    fn a_chain_without_the_block_ends() {
        let mut ebda = [0; 0x400];
        block(&mut ebda, 0x180, 0x200, *b"XX");
        block(&mut ebda, 0x200, 0x180, *b"YY");
        assert_eq!(find_block(&ebda), Err(RioError::NoTable));
        block(&mut ebda, 0x200, 0x7FF0, *b"YY");
        assert!(matches!(find_block(&ebda), Err(RioError::Truncated(_))));
        assert!(matches!(from_low_memory(&[0; 0x40E]), Err(RioError::Truncated(_))));
        let mut memory = vec![0; 0x1000];
        memory[0x40F] = 0x9F;
        assert_eq!(from_low_memory(&memory), Err(RioError::Truncated("the EBDA")));
    }
}
