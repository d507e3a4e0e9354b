//! Values of extended attributes on their way to or from the client.

use std::sync::Mutex;

use super::budget::{Budget, Held};
use super::sync::lock;
use crate::errno::Errno;
use crate::segment::{Readable, Writable};
use crate::wire::XattrFlags;

/// A value as it was when the client asked for it.
#[derive(Debug)]
pub(crate) struct XattrSnapshot {
    value: Vec<u8>,
    _held: Held,
}

impl XattrSnapshot {
    /// Keeps `value`; `ENOSPC` if the budget is spent.
    pub(crate) fn new(value: Vec<u8>, budget: &Budget) -> Result<XattrSnapshot, Errno> {
        let held = budget.reserve(value.len()).ok_or(Errno::ENOSPC)?;
        Ok(XattrSnapshot { value, _held: held })
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.value.len()
    }

    /// Copies what lies at `offset` into `data`; returns how many bytes, 0 at the end.
    pub(crate) fn read(&self, offset: u64, data: &Writable<'_>) -> usize {
        usize::try_from(offset)
            .ok()
            .and_then(|offset| self.value.get(offset..))
            .map_or(0, |rest| data.copy_from(0, rest))
    }
}

/// A value that the client is writing; it takes effect at clunk.
#[derive(Debug)]
pub(crate) struct XattrWrite {
    /// The attribute.
    pub(crate) name: Vec<u8>,
    /// Whether it must or must not exist.
    pub(crate) flags: XattrFlags,
    size: usize,
    value: Mutex<Vec<u8>>,
    _held: Held,
}

impl XattrWrite {
    /// Awaits `size` bytes; `ENOSPC` if the budget is spent.
    pub(crate) fn new(name: &[u8], size: usize, flags: XattrFlags, budget: &Budget) -> Result<XattrWrite, Errno> {
        let held = budget.reserve(size + name.len()).ok_or(Errno::ENOSPC)?;
        Ok(XattrWrite { name: name.to_vec(), flags, size, value: Mutex::default(), _held: held })
    }

    /// Takes bytes at `offset`, which must not leave a gap (`EINVAL`) nor pass the size (`ENOSPC`).
    pub(crate) fn write(&self, offset: u64, data: &Readable<'_>) -> Result<usize, Errno> {
        let mut value = lock(&self.value);
        let start = usize::try_from(offset).map_err(|_| Errno::EINVAL)?;
        if start > value.len() {
            return Err(Errno::EINVAL);
        }
        // `start` is at most the size, since the value never grows beyond it.
        if data.len() > self.size - start {
            return Err(Errno::ENOSPC);
        }
        value.truncate(start);
        value.reserve_exact(self.size - start);
        data.append_to(&mut value);
        Ok(data.len())
    }

    /// The value: `None` to remove the attribute; `EINVAL` if bytes are missing.
    pub(crate) fn finish(&self) -> Result<Option<Vec<u8>>, Errno> {
        let value = std::mem::take(&mut *lock(&self.value));
        match (self.size, value.len()) {
            (0, _) => Ok(None),
            (size, len) if size == len => Ok(Some(value)),
            _ => Err(Errno::EINVAL),
        }
    }
}
