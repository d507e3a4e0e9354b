//! virtio-pci devices inside a QEMU that runs no guest: `-accel qtest`, driven over its qtest socket.
//!
//! Guest RAM is a file that QEMU and this process map, so rings and buffers are used as with any transport. Only
//! registers go through the socket: a kick is one posted `writew`. There are no interrupts; poll.

use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::queue::RingPlacement;
use super::transport::{Doorbell, Transport, TransportError};

/// Where BARs are placed: in the hole below 4 GiB, clear of what PC chip sets have there.
const FIRST_BAR: u64 = 0xe000_0000;
/// Kicks whose acknowledgement may be outstanding, so that neither side's socket buffer fills.
const MAX_POSTED: u32 = 64;
/// The pause between two attempts to connect.
const CONNECT_PAUSE: Duration = Duration::from_millis(10);

/// The connection to one QEMU, shared by its devices.
pub struct QtestBus {
    line: Mutex<Line>,
}

struct Line {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
    posted: u32,
    next_bar: u64,
    answer: String,
}

impl fmt::Debug for QtestBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QtestBus").finish_non_exhaustive()
    }
}

impl Line {
    /// Read one answer; the part after `OK `.
    fn answer(&mut self) -> io::Result<&str> {
        self.answer.clear();
        if self.reader.read_line(&mut self.answer)? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "QEMU has ended"));
        }
        let line = self.answer.trim_end();
        line.strip_prefix("OK").map(str::trim_start).ok_or_else(|| io::Error::other(format!("QEMU answered {line:?}")))
    }

    fn settle(&mut self) -> io::Result<()> {
        while self.posted > 0 {
            self.answer()?;
            self.posted -= 1;
        }
        Ok(())
    }

    fn ask(&mut self, command: fmt::Arguments<'_>) -> io::Result<&str> {
        self.settle()?;
        let text = format!("{command}\n");
        self.writer.write_all(text.as_bytes())?;
        self.answer()
    }

    fn ask_number(&mut self, command: fmt::Arguments<'_>) -> io::Result<u64> {
        let text = self.ask(command)?;
        let digits = text.strip_prefix("0x").unwrap_or(text);
        u64::from_str_radix(digits, 16).map_err(|_| io::Error::other(format!("{text:?} is no number")))
    }

    fn post(&mut self, command: &[u8]) -> io::Result<()> {
        if self.posted >= MAX_POSTED {
            self.settle()?;
        }
        self.writer.write_all(command)?;
        self.posted += 1;
        Ok(())
    }
}

impl QtestBus {
    /// Connect to the socket of `-qtest unix:SOCKET,server=on,wait=off`, which may not exist yet.
    ///
    /// # Errors
    /// [`TransportError::Connect`] when it does not accept within `timeout`.
    pub fn connect(socket: &Path, timeout: Duration) -> Result<Arc<Self>, TransportError> {
        let deadline = Instant::now() + timeout;
        let writer = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(cause) if Instant::now() >= deadline => {
                    return Err(TransportError::Connect {
                        socket: socket.display().to_string(),
                        cause: cause.to_string(),
                    });
                }
                Err(_) => std::thread::sleep(CONNECT_PAUSE),
            }
        };
        let reader = BufReader::new(writer.try_clone()?);
        let line = Line { reader, writer, posted: 0, next_bar: FIRST_BAR, answer: String::new() };
        Ok(Arc::new(Self { line: Mutex::new(line) }))
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wait until QEMU has acknowledged every kick.
    ///
    /// # Errors
    /// What the system says, or that QEMU has ended.
    pub fn settle(&self) -> io::Result<()> {
        self.line().settle()
    }

    /// Read a register of `bytes` bytes (1, 2, 4) at guest-physical `address`.
    fn read(&self, address: u64, bytes: u64) -> io::Result<u64> {
        let letter = width(bytes)?;
        self.line().ask_number(format_args!("read{letter} {address:#x}"))
    }

    fn write(&self, address: u64, bytes: u64, value: u64) -> io::Result<()> {
        let letter = width(bytes)?;
        self.line().ask(format_args!("write{letter} {address:#x} {value:#x}")).map(drop)
    }

    fn read_bytes(&self, address: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut line = self.line();
        let text = line.ask(format_args!("read {address:#x} {:#x}", buffer.len()))?;
        let digits = text.strip_prefix("0x").unwrap_or(text).as_bytes();
        if digits.len() != 2 * buffer.len() {
            return Err(io::Error::other(format!("{} digits for {} bytes", digits.len(), buffer.len())));
        }
        for (byte, pair) in buffer.iter_mut().zip(digits.chunks(2)) {
            let pair = std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
            *byte = pair.ok_or_else(|| io::Error::other("digits that are not hexadecimal"))?;
        }
        Ok(())
    }
}

fn width(bytes: u64) -> io::Result<char> {
    match bytes {
        1 => Ok('b'),
        2 => Ok('w'),
        4 => Ok('l'),
        _ => Err(io::Error::other("registers have 1, 2 or 4 bytes")),
    }
}

/// The configuration space of one PCI function on bus 0.
#[derive(Clone, Copy, Debug)]
struct Function {
    device: u8,
}

impl Function {
    fn select(self, register: u8) -> u32 {
        0x8000_0000 | u32::from(self.device) << 11 | u32::from(register & 0xfc)
    }

    fn read(self, bus: &QtestBus, register: u8) -> io::Result<u32> {
        let mut line = bus.line();
        line.ask(format_args!("outl 0xcf8 {:#x}", self.select(register)))?;
        let value = line.ask_number(format_args!("inl 0xcfc"))?;
        Ok(u32::try_from(value & 0xffff_ffff).unwrap_or(u32::MAX))
    }

    fn read_byte(self, bus: &QtestBus, register: u8) -> io::Result<u8> {
        Ok(self.read(bus, register)?.to_le_bytes()[usize::from(register & 3)])
    }

    fn write(self, bus: &QtestBus, register: u8, value: u32) -> io::Result<()> {
        let mut line = bus.line();
        line.ask(format_args!("outl 0xcf8 {:#x}", self.select(register)))?;
        line.ask(format_args!("outl 0xcfc {value:#x}")).map(drop)
    }

    /// Give the memory BAR `index` an address, and return it.
    fn place_bar(self, bus: &QtestBus, index: u8) -> io::Result<u64> {
        let register = 0x10 + 4 * index;
        self.write(bus, register, u32::MAX)?;
        let mask = self.read(bus, register)?;
        let size = u64::from(!(mask & !0xf)) + 1;
        let address = {
            let mut line = bus.line();
            let address = line.next_bar.next_multiple_of(size);
            line.next_bar = address + size;
            address
        };
        let low = u32::try_from(address).map_err(|_| io::Error::other("no room for a BAR below 4 GiB"))?;
        self.write(bus, register, low)?;
        if mask & 0x6 == 0x4 {
            self.write(bus, register + 4, 0)?;
        }
        Ok(address)
    }
}

/// Register blocks of a virtio-pci device, as guest-physical addresses.
#[derive(Clone, Copy, Debug, Default)]
struct Blocks {
    common: u64,
    notify: u64,
    notify_multiplier: u64,
    device: u64,
}

/// Offsets in the common configuration block (virtio 1.2 §4.1.4.3).
mod common {
    pub(super) const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub(super) const DEVICE_FEATURE: u64 = 0x04;
    pub(super) const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub(super) const DRIVER_FEATURE: u64 = 0x0c;
    pub(super) const NUM_QUEUES: u64 = 0x12;
    pub(super) const STATUS: u64 = 0x14;
    pub(super) const QUEUE_SELECT: u64 = 0x16;
    pub(super) const QUEUE_SIZE: u64 = 0x18;
    pub(super) const QUEUE_ENABLE: u64 = 0x1c;
    pub(super) const QUEUE_NOTIFY_OFF: u64 = 0x1e;
    pub(super) const QUEUE_DESC: u64 = 0x20;
    pub(super) const QUEUE_DRIVER: u64 = 0x28;
    pub(super) const QUEUE_DEVICE: u64 = 0x30;
}

const STATUS_ACKNOWLEDGE: u64 = 1;
const STATUS_DRIVER: u64 = 2;
const STATUS_DRIVER_OK: u64 = 4;
const STATUS_FEATURES_OK: u64 = 8;

/// PCI vendor of virtio devices.
const VIRTIO_VENDOR: u32 = 0x1af4;
/// The PCI capability that a vendor defines for itself.
const VENDOR_CAPABILITY: u8 = 0x09;

/// A modern virtio-pci device on bus 0.
#[derive(Debug)]
pub struct QtestDevice {
    bus: Arc<QtestBus>,
    blocks: Blocks,
    offered: u64,
    negotiated: u64,
    queues: usize,
    running: bool,
}

impl QtestDevice {
    /// Place and reset the device with PCI device number `device` (0 to 31).
    ///
    /// # Errors
    /// [`TransportError::Missing`] when there is no modern virtio device, [`TransportError::Message`] when QEMU does
    /// not answer.
    pub fn open(bus: &Arc<QtestBus>, device: u8) -> Result<Self, TransportError> {
        let function = Function { device };
        let blocks = message("finding a device", find_blocks(bus, function))?
            .ok_or(TransportError::Missing("virtio 1.0 over PCI at this address"))?;
        let mut device = Self { bus: Arc::clone(bus), blocks, offered: 0, negotiated: 0, queues: 0, running: false };
        message("reading a device's features", device.begin())?;
        Ok(device)
    }

    fn get(&self, offset: u64, bytes: u64) -> io::Result<u64> {
        self.bus.read(self.blocks.common + offset, bytes)
    }

    fn set(&self, offset: u64, bytes: u64, value: u64) -> io::Result<()> {
        self.bus.write(self.blocks.common + offset, bytes, value)
    }

    /// Reset, and come as far as the choice of features.
    fn begin(&mut self) -> io::Result<()> {
        self.running = false;
        self.set(common::STATUS, 1, 0)?;
        self.set(common::STATUS, 1, STATUS_ACKNOWLEDGE | STATUS_DRIVER)?;
        self.offered = 0;
        for half in [0, 1] {
            self.set(common::DEVICE_FEATURE_SELECT, 4, half)?;
            self.offered |= self.get(common::DEVICE_FEATURE, 4)? << (32 * half);
        }
        self.queues = usize::try_from(self.get(common::NUM_QUEUES, 2)?).unwrap_or(0);
        Ok(())
    }

    fn accept(&mut self) -> io::Result<bool> {
        for half in [0, 1] {
            self.set(common::DRIVER_FEATURE_SELECT, 4, half)?;
            self.set(common::DRIVER_FEATURE, 4, self.negotiated >> (32 * half) & 0xffff_ffff)?;
        }
        self.set(common::STATUS, 1, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK)?;
        Ok(self.get(common::STATUS, 1)? & STATUS_FEATURES_OK != 0)
    }

    fn start(&mut self, index: usize, ring: &RingPlacement, size: u16) -> io::Result<QtestDoorbell> {
        if !self.running && self.get(common::STATUS, 1)? & STATUS_FEATURES_OK == 0 {
            // A stop reset the device.
            self.begin()?;
            self.accept()?;
        }
        self.set(common::QUEUE_SELECT, 2, index as u64)?;
        self.set(common::QUEUE_SIZE, 2, u64::from(size))?;
        for (offset, part) in [
            (common::QUEUE_DESC, ring.descriptors),
            (common::QUEUE_DRIVER, ring.available),
            (common::QUEUE_DEVICE, ring.used),
        ] {
            self.set(offset, 4, part.device.0 & 0xffff_ffff)?;
            self.set(offset + 4, 4, part.device.0 >> 32)?;
        }
        self.set(common::QUEUE_ENABLE, 2, 1)?;
        let offset = self.get(common::QUEUE_NOTIFY_OFF, 2)?;
        let status = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK;
        self.set(common::STATUS, 1, status)?;
        self.running = true;
        let address = self.blocks.notify + offset * self.blocks.notify_multiplier;
        let command = format!("writew {address:#x} {index:#x}\n").into_bytes();
        Ok(QtestDoorbell { bus: Arc::clone(&self.bus), command })
    }
}

/// Find the blocks of a virtio device by its vendor capabilities, and give their BARs addresses.
fn find_blocks(bus: &QtestBus, function: Function) -> io::Result<Option<Blocks>> {
    if function.read(bus, 0)? & 0xffff != VIRTIO_VENDOR {
        return Ok(None);
    }
    let mut bars = [None; 6];
    let mut blocks = Blocks::default();
    let mut at = function.read_byte(bus, 0x34)? & 0xfc;
    // The list cannot be longer than the space it lies in.
    for _ in 0..48 {
        if at == 0 {
            break;
        }
        if function.read_byte(bus, at)? == VENDOR_CAPABILITY {
            let kind = function.read_byte(bus, at + 3)?;
            let bar = function.read_byte(bus, at + 4)?;
            let offset = u64::from(function.read(bus, at + 8)?);
            if let (1..=4, Some(place)) = (kind, bars.get_mut(usize::from(bar))) {
                let base = match *place {
                    Some(base) => base,
                    None => *place.insert(function.place_bar(bus, bar)?),
                };
                match kind {
                    1 => blocks.common = base + offset,
                    2 => {
                        blocks.notify = base + offset;
                        blocks.notify_multiplier = u64::from(function.read(bus, at + 16)?);
                    }
                    4 => blocks.device = base + offset,
                    _ => {}
                }
            }
        }
        at = function.read_byte(bus, at + 1)? & 0xfc;
    }
    // Memory space and bus mastering on.
    let command = function.read(bus, 4)? & 0xffff;
    function.write(bus, 4, command | 0x6)?;
    Ok((blocks.common != 0 && blocks.notify != 0).then_some(blocks))
}

impl Transport for QtestDevice {
    fn offered(&self) -> u64 {
        self.offered
    }

    fn negotiate(&mut self, wanted: u64) -> Result<u64, TransportError> {
        self.negotiated = wanted & self.offered;
        if message("choosing a device's features", self.accept())? {
            Ok(self.negotiated)
        } else {
            Err(TransportError::Missing("this choice of features"))
        }
    }

    fn queue_count(&self) -> usize {
        self.queues
    }

    fn read_config(&mut self, offset: u32, buffer: &mut [u8]) -> Result<(), TransportError> {
        message("reading a device's configuration", self.bus.read_bytes(self.blocks.device + u64::from(offset), buffer))
    }

    fn write_config(&mut self, offset: u32, bytes: &[u8]) -> Result<(), TransportError> {
        let start = self.blocks.device + u64::from(offset);
        let mut each = bytes.iter().enumerate();
        let written = each.try_for_each(|(at, byte)| self.bus.write(start + at as u64, 1, u64::from(*byte)));
        message("writing a device's configuration", written)
    }

    /// PCI cannot start a ring anywhere but at its beginning: `base` must be 0.
    fn start_queue(
        &mut self,
        index: usize,
        ring: &RingPlacement,
        size: u16,
        base: u16,
    ) -> Result<Arc<dyn Doorbell>, TransportError> {
        if index >= self.queues {
            return Err(TransportError::NoQueue { index, count: self.queues });
        }
        if base != 0 {
            return Err(TransportError::Missing("a start in the middle of a ring, which PCI does not have"));
        }
        Ok(Arc::new(message("starting a queue", self.start(index, ring, size))?))
    }

    /// Resets the whole device, as a driver that leaves does; the answer is always 0.
    fn stop_queue(&mut self, index: usize) -> Result<u16, TransportError> {
        if index >= self.queues {
            return Err(TransportError::NoQueue { index, count: self.queues });
        }
        self.running = false;
        message("resetting a device", self.set(common::STATUS, 1, 0))?;
        Ok(0)
    }

    /// A reset: the connection belongs to the machine, not to the device.
    fn reconnect(&mut self) -> Result<(), TransportError> {
        self.running = false;
        message("resetting a device", self.set(common::STATUS, 1, 0))
    }
}

/// A kick that is posted without waiting for its acknowledgement.
#[derive(Debug)]
struct QtestDoorbell {
    bus: Arc<QtestBus>,
    command: Vec<u8>,
}

impl Doorbell for QtestDoorbell {
    fn ring(&self) -> io::Result<()> {
        self.bus.line().post(&self.command)
    }

    fn wait(&self, _timeout: Duration) -> io::Result<bool> {
        std::thread::yield_now();
        Ok(false)
    }
}

fn message<T>(message: &'static str, result: io::Result<T>) -> Result<T, TransportError> {
    result.map_err(|error| TransportError::Message { message, cause: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// A QEMU that answers `answer` to each line, and returns the lines when the connection ends.
    fn fake(answer: &'static str) -> (tempfile::TempDir, Arc<QtestBus>, std::thread::JoinHandle<Vec<String>>) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("qtest.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let qemu = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let reader = BufReader::new(stream.try_clone().unwrap());
            let answered = reader.lines().map_while(|line| {
                let line = line.ok()?;
                writeln!(stream, "{answer}").ok()?;
                Some(line)
            });
            answered.collect()
        });
        let bus = QtestBus::connect(&socket, Duration::from_secs(10)).unwrap();
        (folder, bus, qemu)
    }

    #[test]
    fn kicks_do_not_wait_and_none_gets_lost() {
        let (_folder, bus, qemu) = fake("OK");
        let doorbell = QtestDoorbell { bus: Arc::clone(&bus), command: b"writew 0x1000 0x0\n".to_vec() };
        for _ in 0..1000 {
            doorbell.ring().unwrap();
        }
        bus.settle().unwrap();
        drop((doorbell, bus));
        assert_eq!(qemu.join().unwrap(), vec!["writew 0x1000 0x0"; 1000]);
    }

    #[test]
    fn answers_are_read_as_numbers_and_bytes() {
        let (_folder, bus, _qemu) = fake("OK 0x0102");
        assert_eq!(bus.read(0x10, 2).unwrap(), 0x102);
        let mut bytes = [0; 2];
        bus.read_bytes(0x20, &mut bytes).unwrap();
        assert_eq!(bytes, [1, 2]);
        assert!(bus.read_bytes(0x20, &mut [0; 3]).is_err(), "an answer of another length");
    }

    #[test]
    fn a_refusal_is_an_error() {
        let (_folder, bus, _qemu) = fake("FAIL no such thing");
        assert!(bus.write(0, 1, 0).unwrap_err().to_string().contains("no such thing"));
    }
}
