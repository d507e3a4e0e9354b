//! What the client says in 9P2000 and 9P2000.u.

use std::path::Path;

use virtio_9p::wire::{
    Decoder, Dialect, Fid, Message, NONUNAME, OpenMode, Perm, Rattach, Rcreate, Rerror, Ropen, Rstat, Stat,
    StatParameter, Tattach, Tcreate, Topen, Tstat, Twstat,
};
use virtio_9p::{Errno, FileSystem, Options, Passthrough, PassthroughOptions, Server};

use super::{Client, ROOT};

/// A stat record as the client got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) qid: virtio_9p::wire::Qid,
    pub(crate) mode: u32,
    pub(crate) times: (u32, u32),
    pub(crate) length: u64,
    pub(crate) name: String,
    pub(crate) users: [String; 3],
    /// Extension and numbers of 9P2000.u.
    pub(crate) unix: Option<(String, [u32; 3])>,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

impl Record {
    fn of(stat: &Stat<'_>, dialect: Dialect) -> Record {
        assert_eq!((stat.kind, stat.device), (0, 0));
        assert_eq!(stat.unix.is_some(), dialect == Dialect::Unix);
        Record {
            qid: stat.qid,
            mode: stat.mode.0,
            times: (stat.atime, stat.mtime),
            length: stat.length,
            name: text(stat.name),
            users: [stat.uid, stat.gid, stat.muid].map(text),
            unix: stat.unix.map(|unix| (text(unix.extension), [unix.n_uid, unix.n_gid, unix.n_muid])),
        }
    }
}

/// A session in an older dialect, attached as nobody in particular.
pub(crate) fn connect_in(folder: &Path, dialect: Dialect) -> Client {
    connect_in_with(folder, dialect, Options::default(), PassthroughOptions::default())
}

pub(crate) fn connect_in_with(
    folder: &Path,
    dialect: Dialect,
    options: Options,
    passthrough: PassthroughOptions,
) -> Client {
    begin(Server::new(Passthrough::new(folder, passthrough).unwrap(), options), dialect)
}

/// A session with a server in an older dialect.
pub(crate) fn begin<F: FileSystem>(server: Server<F>, dialect: Dialect) -> Client<F> {
    let mut client = Client::new(server);
    client.dialect = dialect;
    client.version(1 << 20);
    client.attach(ROOT, NONUNAME).unwrap();
    client
}

/// The error that a text stands for.
fn errno(words: &str) -> Errno {
    (1..200)
        .map(Errno::from_raw)
        .find(|error| error.to_string().starts_with(&format!("{words} (")))
        .unwrap_or_else(|| panic!("no errno says {words:?}"))
}

impl<F: FileSystem> Client<F> {
    /// The error that a reply tells in words.
    pub(super) fn error_in_words(&self, reply: &[u8]) -> Option<Errno> {
        let (_, error) = Rerror::parse(reply).ok()?;
        assert_ne!(self.dialect, Dialect::Linux);
        assert_eq!(error.errno.is_some(), self.dialect == Dialect::Unix);
        let told = errno(&text(error.ename));
        assert!(error.errno.is_none_or(|number| number == told.raw()));
        Some(told)
    }

    /// Attaches by name alone, as a client of 9P2000 does.
    pub(crate) fn attach_by_name(&self, fid: Fid, uname: &[u8]) -> Result<(), Errno> {
        let n_uname = self.dialect.has_unix_fields().then_some(NONUNAME);
        let reply = self.call(&Tattach { fid, afid: virtio_9p::wire::NOFID, uname, aname: b"", n_uname })?;
        Rattach::parse(&reply).unwrap();
        Ok(())
    }

    pub(crate) fn open_old(&self, fid: Fid, mode: u8) -> Result<Ropen, Errno> {
        let reply = self.call(&Topen { fid, mode: OpenMode(mode) })?;
        Ok(Ropen::parse(&reply).unwrap().1)
    }

    /// Reaches and opens a file.
    pub(crate) fn open_old_path(&self, fid: Fid, path: &str, mode: u8) -> Result<(), Errno> {
        self.reach(fid, path)?;
        self.open_old(fid, mode).map(drop).inspect_err(|_| self.clunk(fid).unwrap())
    }

    pub(crate) fn create_old(&self, fid: Fid, name: &[u8], perm: u32, mode: u8) -> Result<Rcreate, Errno> {
        self.create_special(fid, name, perm, mode, b"")
    }

    pub(crate) fn create_special(
        &self,
        fid: Fid,
        name: &[u8],
        perm: u32,
        mode: u8,
        extension: &[u8],
    ) -> Result<Rcreate, Errno> {
        let extension = self.dialect.has_unix_fields().then_some(extension);
        let reply = self.call(&Tcreate { fid, name, perm: Perm(perm), mode: OpenMode(mode), extension })?;
        Ok(Rcreate::parse(&reply).unwrap().1)
    }

    /// Creates a file in the root, with its fid.
    pub(crate) fn create_old_in_root(&self, fid: Fid, name: &str, perm: u32, mode: u8) -> Result<(), Errno> {
        self.walk(ROOT, fid, &[])?;
        self.create_old(fid, name.as_bytes(), perm, mode).map(drop).inspect_err(|_| self.clunk(fid).unwrap())
    }

    pub(crate) fn stat(&self, fid: Fid) -> Result<Record, Errno> {
        let reply = self.call(&Tstat { fid })?;
        Ok(Record::of(&Rstat::parse(&reply).unwrap().1.stat.0, self.dialect))
    }

    /// The record of a file in the root or below.
    pub(crate) fn stat_path(&self, path: &str) -> Result<Record, Errno> {
        const LOOK: Fid = Fid(0x7fff_fff0);
        self.reach(LOOK, path)?;
        let record = self.stat(LOOK);
        self.clunk(LOOK).unwrap();
        record
    }

    /// Changes what `change` sets in a record that leaves everything.
    pub(crate) fn wstat<'s>(&self, fid: Fid, change: impl FnOnce(&mut Stat<'s>)) -> Result<(), Errno> {
        let mut stat: Stat<'s> = Stat::untouched(self.dialect.has_unix_fields());
        change(&mut stat);
        self.call(&Twstat { fid, stat: StatParameter(stat) }).map(drop)
    }

    /// One reading of an open directory.
    pub(crate) fn records(&self, fid: Fid, offset: u64, count: u32) -> Result<(Vec<Record>, u64), Errno> {
        let bytes = self.read(fid, offset, count)?;
        let mut from = Decoder::new(&bytes);
        let mut records = Vec::new();
        while !from.is_empty() {
            let stat: Stat<'_> = from.field().unwrap();
            records.push(Record::of(&stat, self.dialect));
        }
        Ok((records, u64::try_from(bytes.len()).unwrap()))
    }

    /// All records of an open directory, by readings of `count` bytes.
    pub(crate) fn all_records(&self, fid: Fid, count: u32) -> Result<Vec<Record>, Errno> {
        let (mut all, mut offset) = (Vec::new(), 0);
        loop {
            let (more, len) = self.records(fid, offset, count)?;
            if more.is_empty() {
                return Ok(all);
            }
            offset += len;
            all.extend(more);
        }
    }
}
