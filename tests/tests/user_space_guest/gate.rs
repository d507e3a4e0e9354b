//! A file system of one file, the root, whose reads, syncs and locks a test holds up.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use calgary_tests::guest::{GuestMemory, GuestPhys, ROOT_FID};
use calgaryd::supervisor::{Protocol, StopHandle};
use calgaryd::transport::TransportKind;
use virtio_9p::wire::{AttrMask, DirEntry, OpenFlags, Qid, Rgetattr, Rstatfs};
use virtio_9p::{Attach, Entry, Errno, FileSystem, Hindrance, LockRequest, Name, Opened, Patience, Work, Writable};

use crate::TRANSPORT;

/// What a read returns.
pub(crate) const CONTENT: &[u8] = b"came late";
/// Bytes of a Tread.
pub(crate) const TREAD: u32 = 23;

/// Its reads, syncs and locks tell that they have begun and end when they are let.
pub(crate) struct Gate {
    /// It says beforehand that reads and syncs take long.
    slow: bool,
    /// It says that everything may.
    far: bool,
    begun: Mutex<Sender<()>>,
    open: Mutex<Receiver<()>>,
    /// It keeps whoever closes a file until it is let.
    closing: Option<Arc<Mutex<Receiver<()>>>>,
}

/// Its file, open.
#[derive(Clone)]
pub(crate) struct OpenFile(#[expect(dead_code, reason = "it is there to be dropped")] Arc<Closing>);

struct Closing(Option<Arc<Mutex<Receiver<()>>>>);

impl Drop for Closing {
    fn drop(&mut self) {
        if let Some(closing) = &self.0 {
            // A test that is over keeps nobody.
            let _ = closing.lock().unwrap().recv();
        }
    }
}

fn file() -> Qid {
    Qid { kind: virtio_9p::wire::QidType::FILE, version: 1, path: 1 }
}

impl FileSystem for Gate {
    type Node = ();
    type Handle = OpenFile;

    fn attach(&self, _: &Attach<'_>) -> Result<Entry<()>, Errno> {
        Ok(Entry { node: (), qid: file() })
    }

    fn lookup(&self, (): &(), _: Name<'_>) -> Result<Entry<()>, Errno> {
        Err(Errno::ENOTDIR)
    }

    fn parent(&self, (): &()) -> Result<Entry<()>, Errno> {
        Err(Errno::ENOTDIR)
    }

    fn getattr(&self, (): &(), _: AttrMask) -> Result<Rgetattr, Errno> {
        Err(Errno::EIO)
    }

    fn statfs(&self, (): &()) -> Result<Rstatfs, Errno> {
        Err(Errno::EIO)
    }

    fn open(&self, (): &(), _: OpenFlags) -> Result<Opened<OpenFile>, Errno> {
        Ok(Opened { handle: OpenFile(Arc::new(Closing(self.closing.clone()))), qid: file() })
    }

    fn read(&self, _: &OpenFile, _: u64, data: &Writable<'_>) -> Result<usize, Errno> {
        self.pass()?;
        Ok(data.copy_from(0, CONTENT))
    }

    fn read_within(
        &self,
        file: &OpenFile,
        at: u64,
        data: &Writable<'_>,
        patience: Patience,
    ) -> Result<usize, Hindrance> {
        if patience < self.needs(Work::Sync) {
            return Err(Hindrance::Waits(Patience::Endless));
        }
        Ok(self.read(file, at, data)?)
    }

    fn fsync(&self, _: &OpenFile, _: bool) -> Result<(), Errno> {
        self.pass()
    }

    fn needs(&self, work: Work) -> Patience {
        if self.far || (self.slow && work == Work::Sync) { Patience::Endless } else { Patience::None }
    }

    /// Somebody else has it, for ever.
    fn lock(&self, _: &OpenFile, _: &LockRequest<'_>) -> Result<bool, Errno> {
        self.pass()?;
        Ok(false)
    }

    fn readdir(&self, _: &OpenFile, _: u64, _: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<(), Errno> {
        Err(Errno::ENOTDIR)
    }
}

impl Gate {
    /// A file system, what tells that a read has begun, and what lets it end.
    pub(crate) fn new() -> (Self, Receiver<()>, Sender<()>) {
        let (begun_sender, begun) = channel();
        let (open, open_receiver) = channel();
        (
            Self {
                slow: false,
                far: false,
                begun: Mutex::new(begun_sender),
                open: Mutex::new(open_receiver),
                closing: None,
            },
            begun,
            open,
        )
    }

    /// The same, but known to be slow: its reads and syncs are for a thread that may wait.
    pub(crate) fn slow() -> (Self, Receiver<()>, Sender<()>) {
        let (gate, begun, open) = Self::new();
        (Self { slow: true, ..gate }, begun, open)
    }

    /// The same on another machine: even names are for a thread that may wait.
    pub(crate) fn far() -> (Self, Receiver<()>, Sender<()>) {
        let (gate, begun, open) = Self::slow();
        (Self { far: true, ..gate }, begun, open)
    }

    /// The same as [`Gate::far`], and what lets a file be closed.
    pub(crate) fn far_that_keeps_files() -> ((Self, Receiver<()>, Sender<()>), Sender<()>) {
        let (gate, begun, open) = Self::far();
        let (close, closing) = channel();
        ((Self { closing: Some(Arc::new(Mutex::new(closing))), ..gate }, begun, open), close)
    }

    fn pass(&self) -> Result<(), Errno> {
        self.begun.lock().unwrap().send(()).map_err(|_| Errno::EIO)?;
        self.open.lock().unwrap().recv().map_err(|_| Errno::EIO)
    }
}

/// Puts a Tread of 64 bytes of the root into a new page.
pub(crate) fn tread(memory: &GuestMemory) -> GuestPhys {
    let page = memory.take_page().unwrap();
    let body = [&ROOT_FID.to_le_bytes()[..], &0_u64.to_le_bytes(), &64_u32.to_le_bytes()].concat();
    let frame = [&TREAD.to_le_bytes()[..], &[116], &1_u16.to_le_bytes(), &body].concat();
    memory.write(page, &frame).unwrap();
    page
}

/// What these tests speak.
pub(crate) fn protocol() -> Protocol {
    match TRANSPORT {
        TransportKind::VhostUser => Protocol::VhostUser(None),
        TransportKind::VfioUser => Protocol::VfioUser,
    }
}

/// Stops a supervisor.
pub(crate) struct Stop(pub(crate) StopHandle);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.stop();
    }
}
