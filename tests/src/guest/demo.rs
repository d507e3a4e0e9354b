//! A transfer to show: write a file through a share, read it back, compare.

use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::dma::MapperCounts;
use super::ninep::{NinepClient, NinepError, PageBuffer};
use super::session::{ROOT_FID, Share};

/// The fid the transfer works on.
const FILE_FID: u32 = 0x00de_0001;
/// `O_RDWR | O_CREAT | O_TRUNC` as 9P2000.L numbers them.
const OPEN_FLAGS: u32 = 0o2 | 0o100 | 0o1000;

/// What a transfer did.
#[derive(Clone, Debug)]
pub struct TransferReport {
    /// Bytes written, and read back.
    pub bytes: u64,
    /// Time the writes took, without making up the data.
    pub write: Duration,
    /// Time the reads took, without checking the data.
    pub read: Duration,
    /// MAP and UNMAP requests meanwhile.
    pub requests: MapperCounts,
    /// SHA-256 of what was written.
    pub written: [u8; 32],
    /// SHA-256 of what came back.
    pub read_back: [u8; 32],
}

impl TransferReport {
    /// Whether the bytes came back as they went out.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.written == self.read_back
    }
}

/// Write `mebibytes` MiB to the file `name` in the root of `share`, made anew, with the largest messages agreed on, and
/// read them back. The file stays, for the host to look at.
///
/// # Errors
/// [`NinepError`] from the operation that failed.
pub fn transfer(share: &mut Share, name: &[u8], mebibytes: u64) -> Result<TransferReport, NinepError> {
    let client = &mut share.client;
    client.walk(ROOT_FID, FILE_FID, &[])?;
    if let Err(error) = client.lcreate(FILE_FID, name, OPEN_FLAGS, 0o600, 0) {
        client.clunk(FILE_FID)?;
        return Err(error);
    }
    let report = copy(client, mebibytes << 20);
    client.clunk(FILE_FID)?;
    report
}

fn copy(client: &mut NinepClient, bytes: u64) -> Result<TransferReport, NinepError> {
    // Whole pages, so that each message carries as few segments as its size allows.
    let chunk = usize::try_from(client.max_io()).unwrap_or(usize::MAX).max(4096) & !4095;
    let buffer = PageBuffer::new(client.memory(), chunk, 0)?;
    let before = client.mapper().counts();
    let mut data = vec![0; chunk];
    let mut pattern = Pattern(0x0123_4567_89ab_cdef);
    let (mut written, mut write) = (Sha256::new(), Duration::ZERO);
    for (offset, length) in chunks(bytes, chunk) {
        pattern.fill(&mut data[..length]);
        written.update(&data[..length]);
        buffer.write(0, &data[..length])?;
        let start = Instant::now();
        write_all(client, offset, &buffer, length)?;
        write += start.elapsed();
    }
    let (mut read_back, mut read) = (Sha256::new(), Duration::ZERO);
    for (offset, length) in chunks(bytes, chunk) {
        // What a read leaves out must not pass for what the write left in the buffer.
        data.fill(0);
        buffer.write(0, &data)?;
        let start = Instant::now();
        read_all(client, offset, &buffer, length)?;
        read += start.elapsed();
        buffer.read(0, &mut data[..length])?;
        read_back.update(&data[..length]);
    }
    client.mapper().flush()?;
    Ok(TransferReport {
        bytes,
        write,
        read,
        requests: client.mapper().counts() - before,
        written: written.finalize().into(),
        read_back: read_back.finalize().into(),
    })
}

fn write_all(client: &mut NinepClient, offset: u64, buffer: &PageBuffer, length: usize) -> Result<(), NinepError> {
    whole(offset, length, |at, from| client.write_pages(FILE_FID, at, buffer, from..length))
}

fn read_all(client: &mut NinepClient, offset: u64, buffer: &PageBuffer, length: usize) -> Result<(), NinepError> {
    whole(offset, length, |at, from| client.read_pages(FILE_FID, at, buffer, from..length))
}

/// Repeat `step`, which says how many bytes it did, until `length` bytes are done.
fn whole(
    offset: u64,
    length: usize,
    mut step: impl FnMut(u64, usize) -> Result<u32, NinepError>,
) -> Result<(), NinepError> {
    let mut done = 0;
    while done < length {
        match usize::try_from(step(offset + done as u64, done)?) {
            Ok(count) if count > 0 && count <= length - done => done += count,
            _ => {
                let fault = format!("{done} of {length} bytes done, then none or too many");
                return Err(NinepError::Protocol(fault));
            }
        }
    }
    Ok(())
}

/// Offsets and lengths of the pieces of `bytes` bytes.
fn chunks(bytes: u64, chunk: usize) -> impl Iterator<Item = (u64, usize)> {
    (0..bytes).step_by(chunk).map(move |offset| {
        let left = usize::try_from(bytes - offset).unwrap_or(usize::MAX);
        (offset, left.min(chunk))
    })
}

/// Bytes that do not repeat from page to page (xorshift64).
struct Pattern(u64);

impl Pattern {
    fn fill(&mut self, data: &mut [u8]) {
        for word in data.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            word.copy_from_slice(&self.0.to_le_bytes()[..word.len()]);
        }
    }
}
