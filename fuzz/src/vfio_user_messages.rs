//! What a vfio-user client can send: well-formed, skewed and raw messages, with descriptors of all kinds, to a virtio-iommu
//! or a share, while the rings in its memory work.
//!
//! Checked: every command that can be told from the next one is answered once, with an answer that is well formed; the
//! device is as good as new afterwards; no descriptor is left.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, OnceLock};

use calgaryd::device::PollPolicy;
use calgaryd::device::iommu::{Iommu, IommuDevice};
use calgaryd::device::share::{Attachment, ShareDevice};
use calgaryd::transport::Device;
use calgaryd::transport::vfio_user::Connection;
use calgaryd::transport::vfio_user::wire::{Command, MAX_MESSAGE, flag};
use iommu_calgary::TableSize;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::input::Input;
use crate::ninep;
use crate::tree::Tree;

/// Guest memory in pages.
const PAGES: u64 = 64;
const PAGE: u64 = 4096;
const HEADER: usize = 16;
/// Messages of one input at most.
const MESSAGES: usize = 64;
/// The id of the command that ends every input.
const LAST: u16 = 0xffff;
/// Inputs between two counts of open descriptors.
const COUNTED: usize = 64;

struct Rig {
    memory: File,
    devices: [Arc<dyn Device>; 2],
    iommu: Arc<Iommu>,
    others: Vec<OwnedFd>,
    inputs: usize,
    _tree: Tree,
}

fn rig() -> &'static Mutex<Rig> {
    static RIG: OnceLock<Mutex<Rig>> = OnceLock::new();
    RIG.get_or_init(|| {
        let memory = memfd_create("guest", MemfdFlags::CLOEXEC).expect("a memfd");
        ftruncate(&memory, PAGES * PAGE).expect("memory");
        let iommu = Arc::new(Iommu::new(TableSize::MiB32, false).expect("memory for a table"));
        let tree = Tree::new();
        let tag = "fuzz".parse().expect("a tag");
        let share =
            ShareDevice::new(&tag, ninep::server(&tree), 8192, Attachment::Direct, PollPolicy::Off).expect("a share");
        let devices: [Arc<dyn Device>; 2] =
            [Arc::new(IommuDevice::new(Arc::clone(&iommu), PollPolicy::Off)), Arc::new(share)];
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).expect("an eventfd");
        let (pipe, _) = rustix::pipe::pipe().expect("a pipe");
        let null = OwnedFd::from(File::open("/dev/null").expect("/dev/null"));
        Mutex::new(Rig {
            memory: File::from(memory),
            devices,
            iommu,
            others: vec![event, pipe, null],
            inputs: 0,
            _tree: tree,
        })
    })
}

impl Rig {
    /// The descriptors that a choice stands for.
    fn fds(&self, choice: u8) -> Vec<BorrowedFd<'_>> {
        let [event, pipe, null] = [0, 1, 2].map(|index: usize| self.others[index].as_fd());
        match choice % 10 {
            1 | 2 => vec![self.memory.as_fd()],
            3 => vec![event],
            4 => vec![event, event],
            5 => vec![event; 3],
            6 => vec![pipe],
            7 => vec![null, event, self.memory.as_fd()],
            8 => vec![event; 20],
            _ => Vec::new(),
        }
    }
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// A command on its way.
struct Spoken {
    command: u16,
    flags: u32,
    payload: Vec<u8>,
    /// What the header says the size is, if that is a lie.
    claimed: Option<u32>,
    fds: u8,
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

fn longs(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

/// A range of pages, now and then a skewed one.
fn range(input: &mut Input<'_>) -> (u64, u64) {
    let (page, pages, skew) = (u64::from(input.u8() % 80), u64::from(input.u8() % 72), input.u8());
    match skew {
        0xff => (u64::MAX - 4095, 4096),
        0xfe => (page * PAGE + 1, pages * PAGE),
        0xfd => (page * PAGE, pages * PAGE + 1),
        0xfc => (page * PAGE, u64::MAX),
        0xfb => (input.u64(), input.u64()),
        _ => (page * PAGE, pages * PAGE),
    }
}

/// Where in the regions things are.
fn place(input: &mut Input<'_>) -> (u32, u64) {
    let offset = u64::from(input.u8());
    match input.u8() % 10 {
        0 | 1 => (0, offset % 64),
        2 => (0, 0x1000 + offset % 4),
        3 => (0, 0x2000 + offset % 48),
        4 | 5 => (0, 0x3000 + offset % 12),
        6 => (7, offset),
        7 => (1, offset * 16),
        8 => (0, u64::from(input.u16())),
        _ => (input.u32(), input.u64()),
    }
}

fn access(input: &mut Input<'_>) -> (Vec<u8>, usize) {
    let (region, offset) = place(input);
    let count = match input.u8() {
        0xff => input.u32(),
        small => [1, 2, 4, 8, 3, u32::from(small)][usize::from(small % 6)],
    };
    ([longs(&[offset]), words(&[region, count])].concat(), usize::try_from(count % 300).expect("small"))
}

/// The next message.
fn speak(input: &mut Input<'_>) -> Spoken {
    let shape = input.u8();
    let fds = if shape & 0x30 == 0 { input.u8() } else { 0 };
    let flags = if shape & 0xc0 == 0x40 { flag::NO_REPLY } else { 0 };
    let mut spoken = Spoken { command: 0, flags, payload: Vec::new(), claimed: None, fds };
    let (command, payload) = match shape % 16 {
        0 => {
            let (address, size) = range(input);
            let offset = u64::from(input.u8() % 66) * PAGE;
            spoken.fds = input.u8();
            (Command::DmaMap, [words(&[32, u32::from(input.u8() % 5)]), longs(&[offset, address, size])].concat())
        }
        1 => {
            // All of the memory at once, so that rings have something to lie in.
            spoken.fds = 1;
            (Command::DmaMap, [words(&[32, 3]), longs(&[0, 0, PAGES * PAGE])].concat())
        }
        2 => {
            let (address, size) = range(input);
            (Command::DmaUnmap, [words(&[24, u32::from(input.u8() % 4)]), longs(&[address, size])].concat())
        }
        3 => (Command::DeviceGetInfo, words(&[16, 0, 0, 0])),
        4 => (Command::DeviceGetRegionInfo, words(&[32, 0, u32::from(input.u8() % 12), 0, 0, 0, 0, 0])),
        5 => (Command::DeviceGetRegionIoFds, words(&[u32::from(input.u8()), 0, u32::from(input.u8() % 3), 0])),
        6 => (Command::DeviceGetIrqInfo, words(&[16, 0, u32::from(input.u8() % 7), 0])),
        7 => {
            let what = [0x24, 0x21, 0x22, 0x09, 0x11, 0x0a, 0x12, 0x14, 0x0c, 0xff, 0][usize::from(input.u8() % 11)];
            let index = [2, 2, 0, 1, 7][usize::from(input.u8() % 5)];
            let mut payload = words(&[20, what, index, u32::from(input.u8() % 4), u32::from(input.u8() % 5)]);
            payload.extend(input.bytes(4));
            spoken.fds = input.u8();
            (Command::DeviceSetIrqs, payload)
        }
        8 => (Command::RegionRead, access(input).0),
        9..=11 => {
            let (mut payload, count) = access(input);
            payload.extend(input.bytes(count));
            (Command::RegionWrite, payload)
        }
        12 => {
            // A register of the common configuration, as a driver writes it.
            let offset = [0x00, 0x08, 0x0c, 0x10, 0x14, 0x14, 0x16, 0x18, 0x1a, 0x1c, 0x20, 0x28, 0x30, 0x24];
            let at: u64 = offset[usize::from(input.u8() % 14)];
            let value = match at {
                0x14 => [0, 3, 11, 15, 0x80][usize::from(input.u8() % 5)],
                0x20.. => u32::from(input.u8() % 66) << 12 | u32::from(input.u8() & 0x0f) << 4,
                _ => input.u32(),
            };
            let width: usize = if at == 0x14 {
                1
            } else if (0x10..0x20).contains(&at) {
                2
            } else {
                4
            };
            let head = [longs(&[at]), words(&[0, u32::try_from(width).expect("small")])].concat();
            (Command::RegionWrite, [&head[..], &value.to_ne_bytes()[..width]].concat())
        }
        13 => {
            let count = u64::from(input.u8() % 4);
            let mut payload = longs(&[if count == 3 { u64::MAX } else { count }]);
            for _ in 0..count {
                payload.extend(access(input).0);
                payload.extend(input.u64().to_ne_bytes());
            }
            (Command::RegionWriteMulti, payload)
        }
        14 => (Command::DeviceReset, Vec::new()),
        _ => {
            spoken.command = input.u16() % 20;
            spoken.flags = u32::from(input.u8());
            let len = usize::from(input.u8());
            spoken.payload = input.bytes(len).to_vec();
            if input.u8() >= 0xf0 {
                spoken.claimed = Some(input.u32());
            }
            return spoken;
        }
    };
    spoken.command = command as u16;
    spoken.payload = payload;
    if shape & 0xf0 == 0xf0 {
        let len = usize::from(input.u8()).min(spoken.payload.len());
        spoken.payload.truncate(len);
    }
    spoken
}

/// The client's end, and what it may expect.
struct Client {
    stream: UnixStream,
    heard: Vec<u8>,
    expected: Vec<u16>,
}

impl Client {
    fn send(&mut self, id: u16, spoken: &Spoken, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let true_size = u32::try_from(HEADER + spoken.payload.len()).expect("short");
        let size = spoken.claimed.unwrap_or(true_size);
        let mut bytes = [id.to_ne_bytes(), spoken.command.to_ne_bytes()].concat();
        bytes.extend(words(&[size, spoken.flags, 0]));
        bytes.extend(&spoken.payload);
        let mut space = vec![std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(20))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(fds));
        }
        let sent = sendmsg(&self.stream, &[io::IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
        (&self.stream).write_all(&bytes[sent..])
    }

    /// Reads until the answer to [`LAST`] or the end.
    fn hear_all(&mut self) {
        let mut piece = [0; 8192];
        loop {
            if self.answers().contains(&LAST) {
                return;
            }
            match self.stream.read(&mut piece) {
                // The fuzzer has a timer.
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return,
                Ok(read) => self.heard.extend(&piece[..read]),
            }
        }
    }

    /// Ids of the whole answers heard so far.
    fn answers(&self) -> Vec<u16> {
        let mut ids = Vec::new();
        let mut rest = &self.heard[..];
        while rest.len() >= HEADER {
            let word = |at: usize| u32::from_ne_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
            let (size, flags, error) = (word(4) as usize, word(8), word(12));
            assert!((HEADER..=MAX_MESSAGE).contains(&size), "an answer of {size} bytes");
            let failed = flags == flag::REPLY | flag::ERROR;
            assert!(failed || flags == flag::REPLY, "flags {flags:#x}");
            assert_eq!(failed, error != 0);
            assert!(!failed || size == HEADER);
            if rest.len() < size {
                break;
            }
            ids.push(u16::from_ne_bytes([rest[0], rest[1]]));
            rest = &rest[size..];
        }
        ids
    }
}

/// Runs one input.
///
/// # Panics
/// At a finding.
pub fn run(data: &[u8]) {
    let mut rig = rig().lock().expect("a finding ends the process");
    let mut input = Input::new(data);
    let setup = input.u8();
    rig.memory.write_all_at(&vec![0; usize::try_from(PAGES * PAGE).expect("small")], 0).expect("memory");
    let descriptors = open_descriptors();
    {
        let (stream, theirs) = UnixStream::pair().expect("a pair of sockets");
        let device = Arc::clone(&rig.devices[usize::from(setup & 1)]);
        let connection = Connection::new(device, theirs).expect("a connection");
        let server = std::thread::spawn(move || connection.run());
        let mut client = Client { stream, heard: Vec::new(), expected: Vec::new() };
        let lied = converse(&rig, &mut client, &mut input, setup);
        if lied {
            // What follows is no longer what it was meant to be.
            let _ = client.stream.shutdown(std::net::Shutdown::Write);
            client.hear_all();
        } else {
            client.hear_all();
            let mut answers = client.answers();
            answers.sort_unstable();
            assert_eq!(answers, client.expected, "commands and answers differ");
        }
        drop(client);
        server.join().expect("the server lives");
    }
    assert_eq!(rig.iommu.live_mappings(), 0, "mappings outlive the connection");
    rig.inputs += 1;
    if rig.inputs.is_multiple_of(COUNTED) {
        assert!(open_descriptors() <= descriptors, "descriptors are left behind");
    }
}

/// Says everything; says whether a header lied about the size, after which nothing is certain.
fn converse(rig: &Rig, client: &mut Client, input: &mut Input<'_>, setup: u8) -> bool {
    let version = Spoken {
        command: Command::Version as u16,
        flags: 0,
        payload: [&[0; 4][..], b"{\"capabilities\":{\"max_msg_fds\":8}}\0"].concat(),
        claimed: None,
        fds: 0,
    };
    if setup & 0x80 == 0 {
        let _ = client.send(0, &version, &[]);
        client.expected.push(0);
    }
    for id in 1..=u16::try_from(MESSAGES).expect("small") {
        if input.is_empty() {
            break;
        }
        match input.u8() {
            before if before & 7 == 0 => {
                // The guest writes its memory.
                let at = u64::from(input.u16()) * 4 % (PAGES * PAGE - 256);
                let len = usize::from(input.u8());
                rig.memory.write_all_at(input.bytes(len), at).expect("memory");
            }
            0xfe => {
                // The client takes memory away that it has given.
                rig.memory.set_len(u64::from(input.u8() % 64) * PAGE).expect("memory");
            }
            _ => {}
        }
        let spoken = speak(input);
        let sent = client.send(id, &spoken, &rig.fds(spoken.fds));
        if spoken.claimed.is_some_and(|claimed| claimed as usize != HEADER + spoken.payload.len()) || sent.is_err() {
            return true;
        }
        if spoken.flags & (flag::KIND | flag::NO_REPLY) == 0 {
            client.expected.push(id);
        }
    }
    // A version, in case there was none, and a reset: its answer comes after all that had to wait.
    let _ = client.send(LAST - 1, &version, &[]);
    let reset = Spoken { command: Command::DeviceReset as u16, payload: Vec::new(), ..version };
    let _ = client.send(LAST, &reset, &[]);
    client.expected.extend([LAST - 1, LAST]);
    false
}

/// A driver that comes up, interrupts, memory that comes and goes, and raw bytes.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    /// No guest memory is written before the message.
    const QUIET: u8 = 1;
    let map = [QUIET, 0x11];
    let register = |at: u8, value: &[u8]| [&[QUIET, 0x1c, at][..], value].concat();
    let status = |value: u8| register(4, &[value]);
    let queue = [
        register(6, &[0; 4]),
        register(7, &[64, 0, 0, 0]),
        register(10, &[4, 0]),
        register(11, &[5, 0]),
        register(12, &[6, 0]),
        register(9, &[1, 0, 0, 0]),
    ]
    .concat();
    let features = [register(1, &[1, 0, 0, 0]), register(2, &[1, 0, 0, 0])].concat();
    let driver = [&map[..], &status(0), &status(1), &features, &status(2), &queue, &status(3)].concat();
    let kick = [QUIET, 0x19, 0, 4, 1, 0, 0];
    let irqs = [QUIET, 0x17, 0, 0, 0, 2, 4, QUIET, 0x17, 3, 0, 0, 1, 0];
    let unmap = [QUIET, 0x12, 0, 64, 0, 0];
    vec![
        [&[0][..], &driver, &irqs, &kick, &unmap, &map, &kick].concat(),
        [&[1][..], &driver, &kick, &[QUIET, 0x1e], &driver, &kick].concat(),
        [&[0][..], &[QUIET, 0x13, QUIET, 0x14, 0, QUIET, 0x15, 200, 0, QUIET, 0x16, 2, QUIET, 0x18, 0, 6, 0]].concat(),
        [&[0x80][..], &[QUIET, 0x1f, 9, 0, 0, 20], &[7; 20], &[0xff, 0xff, 0xff, 0xff, 0xff]].concat(),
        [&[1][..], &[QUIET, 0x10, 0, 70, 0, 0, 1, 3], &unmap, &[QUIET, 0x1d, 2], &[3; 48]].concat(),
    ]
}
