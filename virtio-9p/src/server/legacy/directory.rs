//! Reading a directory: whole stat records, one behind the other.

use std::sync::Mutex;

use super::super::Server;
use super::record::Record;
use crate::errno::Errno;
use crate::fs::FileSystem;
use crate::name::Name;
use crate::segment::Writable;
use crate::session::{Cursor, lock};
use crate::wire::{Dialect, Encoder, Field};

/// Names taken from the file system at once. Nothing is asked of it while it hands them out.
const BATCH: usize = 64;

impl<F: FileSystem> Server<F> {
    /// Fills `data` with whole records from `offset` on, which is 0 or where the last reading ended (`EINVAL`
    /// otherwise, and if not even one record fits). `.` and `..` are left out, and so is a file that goes meanwhile.
    pub(in super::super) fn list(
        &self,
        dir: &F::Node,
        handle: &F::Handle,
        listing: &Mutex<Cursor>,
        offset: u64,
        mut data: Writable<'_>,
        dialect: Dialect,
    ) -> Result<usize, Errno> {
        let mut cursor = lock(listing);
        if offset == 0 {
            *cursor = Cursor::default();
        } else if offset != cursor.offset {
            return Err(Errno::EINVAL);
        }
        let all = data.len();
        let result = self.append_records(dir, handle, &mut cursor.cookie, &mut data, dialect);
        let used = all - data.len();
        // What was found before an error counts; the next reading meets the error again.
        if used == 0 {
            result?;
        }
        // Far from 2^64: each reading is at most 2^32 bytes.
        cursor.offset = cursor.offset.wrapping_add(u64::try_from(used).unwrap_or(0));
        Ok(used)
    }

    /// Appends records until `data` is full or the directory ends. `cookie` is always behind the last one appended.
    fn append_records(
        &self,
        dir: &F::Node,
        handle: &F::Handle,
        cookie: &mut u64,
        data: &mut Writable<'_>,
        dialect: Dialect,
    ) -> Result<(), Errno> {
        loop {
            let mut names = Vec::with_capacity(BATCH);
            self.fs.readdir(handle, *cookie, &mut |entry| {
                let wanted = names.len() < BATCH;
                if wanted {
                    names.push((entry.name.to_vec(), entry.offset));
                }
                wanted
            })?;
            if names.is_empty() {
                return Ok(());
            }
            for (name, behind) in names {
                if !matches!(&name[..], b"." | b"..") {
                    match self.record_of(dir, name, dialect) {
                        Ok(record) => {
                            let stat = record.stat();
                            let mut bytes = vec![0; stat.wire_len()];
                            stat.encode(&mut Encoder::new(&mut bytes)).map_err(|_| Errno::EOVERFLOW)?;
                            if bytes.len() > data.len() || !data.append(&bytes) {
                                return Err(Errno::EINVAL);
                            }
                        }
                        Err(Errno::ENOENT) => {}
                        Err(error) => return Err(error),
                    }
                }
                *cookie = behind;
            }
        }
    }

    fn record_of(&self, dir: &F::Node, name: Vec<u8>, dialect: Dialect) -> Result<Record, Errno> {
        let entry = self.fs.lookup(dir, Name::existing(&name)?)?;
        self.record(&entry.node, name, dialect)
    }
}
