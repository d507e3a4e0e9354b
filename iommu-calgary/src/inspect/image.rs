//! Getting the bytes of a table.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::fstat;
use rustix::io::pread;
use thiserror::Error;

use crate::table::TableSize;

/// Why a table cannot be shown.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum InspectError {
    /// The length is none of the eight.
    #[error("{0} bytes are no TCE table; one has 64 KiB, 128 KiB, 256 KiB, 512 KiB, 1 MiB, 2 MiB, 4 MiB or 8 MiB")]
    Length(u64),
    /// The file cannot be read.
    #[error("cannot read the table: {0}")]
    Read(#[from] io::Error),
}

/// Reads a whole table from a descriptor: an exported table or a file with a raw image.
///
/// A table that is in use changes while it is read; each entry is one that was there at some time.
///
/// # Errors
/// See [`InspectError`].
pub fn read_image(file: impl AsFd) -> Result<Vec<u8>, InspectError> {
    let length = u64::try_from(fstat(&file).map_err(io::Error::from)?.st_size).unwrap_or(0);
    let size = TableSize::from_table_bytes(length).ok_or(InspectError::Length(length))?;
    let mut image = vec![0; size.table_bytes()];
    let mut filled = 0;
    while filled < image.len() {
        match pread(&file, &mut image[filled..], filled as u64).map_err(io::Error::from)? {
            0 => return Err(InspectError::Read(io::ErrorKind::UnexpectedEof.into())),
            count => filled += count,
        }
    }
    Ok(image)
}
