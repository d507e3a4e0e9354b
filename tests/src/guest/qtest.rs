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

use super::transport::{Doorbell, TransportError};
use super::virtio_pci::{PciFunction, VirtioPci};

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

/// A PCI function on bus 0.
#[derive(Clone, Debug)]
pub struct QtestFunction {
    bus: Arc<QtestBus>,
    device: u8,
}

impl QtestFunction {
    fn select(&self, register: u8) -> u32 {
        0x8000_0000 | u32::from(self.device) << 11 | u32::from(register & 0xfc)
    }
}

impl PciFunction for QtestFunction {
    fn read_config(&self, register: u8) -> io::Result<u32> {
        let mut line = self.bus.line();
        line.ask(format_args!("outl 0xcf8 {:#x}", self.select(register)))?;
        let value = line.ask_number(format_args!("inl 0xcfc"))?;
        Ok(u32::try_from(value & 0xffff_ffff).unwrap_or(u32::MAX))
    }

    fn write_config(&self, register: u8, value: u32) -> io::Result<()> {
        let mut line = self.bus.line();
        line.ask(format_args!("outl 0xcf8 {:#x}", self.select(register)))?;
        line.ask(format_args!("outl 0xcfc {value:#x}")).map(drop)
    }

    fn place_bar(&self, index: u8) -> io::Result<u64> {
        let register = 0x10 + 4 * index;
        self.write_config(register, u32::MAX)?;
        let mask = self.read_config(register)?;
        let size = u64::from(!(mask & !0xf)) + 1;
        let address = {
            let mut line = self.bus.line();
            let address = line.next_bar.next_multiple_of(size);
            line.next_bar = address + size;
            address
        };
        let low = u32::try_from(address).map_err(|_| io::Error::other("no room for a BAR below 4 GiB"))?;
        self.write_config(register, low)?;
        if mask & 0x6 == 0x4 {
            self.write_config(register + 4, 0)?;
        }
        Ok(address)
    }

    fn read(&self, address: u64, bytes: u64) -> io::Result<u64> {
        self.bus.read(address, bytes)
    }

    fn write(&self, address: u64, bytes: u64, value: u64) -> io::Result<()> {
        self.bus.write(address, bytes, value)
    }

    fn read_bytes(&self, address: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.bus.read_bytes(address, buffer)
    }

    fn doorbell(&self, queue: u16, address: u64) -> io::Result<Arc<dyn Doorbell>> {
        let command = format!("writew {address:#x} {queue:#x}\n").into_bytes();
        Ok(Arc::new(QtestDoorbell { bus: Arc::clone(&self.bus), command }))
    }
}

/// A modern virtio-pci device on bus 0.
pub type QtestDevice = VirtioPci<QtestFunction>;

impl QtestDevice {
    /// Place and reset the device with PCI device number `device` (0 to 31).
    ///
    /// # Errors
    /// [`TransportError::Missing`] when there is no modern virtio device, [`TransportError::Message`] when QEMU does
    /// not answer.
    pub fn open(bus: &Arc<QtestBus>, device: u8) -> Result<Self, TransportError> {
        Self::begin_with(QtestFunction { bus: Arc::clone(bus), device })
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
