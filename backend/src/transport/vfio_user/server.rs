//! Commands and their answers.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use vfio_bindings::bindings::vfio::{
    VFIO_DEVICE_FLAGS_PCI, VFIO_DEVICE_FLAGS_RESET, VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE,
};
use zerocopy::IntoBytes;

use super::channel::{Channel, Message, front};
use super::function::{Function, Outcome, REGIONS};
use super::interrupts::KINDS;
use super::lane::Reply;
use super::version::{self, Agreement};
use super::wire::{
    Command, DeviceInfo, DmaMap, DmaUnmap, Errno, Header, IoFd, IrqInfo, MAX_DATA, RegionAccess, RegionInfo,
    RegionIoFds, SetIrqs, ShortWrite, flag,
};

/// One client's session with one function.
pub(super) struct Server {
    channel: Arc<Channel>,
    function: Function,
    agreement: Option<Agreement>,
}

/// How a command ends.
enum Answer {
    /// With this payload.
    Payload(Vec<u8>),
    /// The lane answers.
    Later,
    /// The answer is out already.
    Sent,
}

/// Bytes of a structure, for its `argsz`.
fn argsz<T>() -> u32 {
    u32::try_from(size_of::<T>()).unwrap_or(u32::MAX)
}

impl Server {
    pub(super) fn new(channel: Arc<Channel>, function: Function) -> Self {
        Self { channel, function, agreement: None }
    }

    /// Does what `message` asks, and answers unless the lane will.
    pub(super) fn handle(&mut self, message: Message) {
        let Message { header, payload, fds, excess_fds } = message;
        // A reply answers nothing that was asked: this side asks nothing.
        if header.flags.get() & flag::KIND != 0 {
            return;
        }
        let answer = if excess_fds { Err(Errno::TOO_MANY) } else { self.dispatch(&header, &payload, fds) };
        if !header.wants_reply() {
            return;
        }
        match answer {
            Ok(Answer::Payload(payload)) => self.channel.reply(&header, &[&payload], &[]),
            Ok(Answer::Later | Answer::Sent) => {}
            Err(errno) => self.channel.fail(&header, errno),
        }
    }

    fn dispatch(&mut self, header: &Header, payload: &[u8], fds: Vec<OwnedFd>) -> Result<Answer, Errno> {
        let command = Command::from_number(header.command.get()).ok_or(Errno::UNKNOWN)?;
        if command == Command::Version {
            self.agreement = Some(version::agree(payload)?);
            return Ok(Answer::Payload(version::answer()));
        }
        let agreement = self.agreement.ok_or(Errno::INVALID)?;
        // The only two that take descriptors; others come to an end here.
        let fds = if matches!(command, Command::DmaMap | Command::DeviceSetIrqs) { fds } else { Vec::new() };
        let later = |payload: &[u8]| -> Reply { header.wants_reply().then(|| (*header, payload.to_vec())) };
        match command {
            Command::Version => unreachable!("handled above"),
            Command::DmaMap => {
                let (request, _): (DmaMap, _) = front(payload)?;
                let mut fds = fds.into_iter();
                let (fd, more) = (fds.next(), fds.next());
                if more.is_some() {
                    return Err(Errno::INVALID);
                }
                self.function.map(&request, fd, later(&[]))?;
                Ok(Answer::Later)
            }
            Command::DmaUnmap => {
                let (request, _): (DmaUnmap, _) = front(payload)?;
                self.function.unmap(&request, later(request.as_bytes()))?;
                Ok(Answer::Later)
            }
            Command::DeviceGetInfo => {
                let _: (DeviceInfo, _) = front(payload)?;
                let info = DeviceInfo {
                    argsz: argsz::<DeviceInfo>().into(),
                    flags: (VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET).into(),
                    regions: REGIONS.into(),
                    irqs: KINDS.into(),
                };
                Ok(Answer::Payload(info.as_bytes().to_vec()))
            }
            Command::DeviceGetRegionInfo => region_info(payload),
            Command::DeviceGetRegionIoFds => self.region_io_fds(header, payload, agreement),
            Command::DeviceGetIrqInfo => {
                let (request, _): (IrqInfo, _) = front(payload)?;
                let info = self.function.interrupts().info(request.index.get())?;
                Ok(Answer::Payload(info.as_bytes().to_vec()))
            }
            Command::DeviceSetIrqs => {
                let (request, data): (SetIrqs, _) = front(payload)?;
                self.function.interrupts().set(&request, data, fds)?;
                Ok(Answer::Payload(Vec::new()))
            }
            Command::RegionRead => self.region_read(payload),
            Command::RegionWrite => {
                let (access, data): (RegionAccess, _) = front(payload)?;
                let data = counted(&access, data)?;
                let reply = later(access.as_bytes());
                match self.function.write(access.region.get(), access.offset.get(), data, reply)? {
                    Outcome::Done => Ok(Answer::Payload(access.as_bytes().to_vec())),
                    Outcome::Later => Ok(Answer::Later),
                }
            }
            Command::RegionWriteMulti => self.region_write_multi(payload),
            Command::DeviceReset => {
                self.function.reset(later(&[]));
                Ok(Answer::Later)
            }
        }
    }

    fn region_read(&mut self, payload: &[u8]) -> Result<Answer, Errno> {
        let (access, _): (RegionAccess, _) = front(payload)?;
        let count = access.count.get();
        if count > MAX_DATA {
            return Err(Errno::TOO_BIG);
        }
        let front = size_of::<RegionAccess>();
        let mut answer = vec![0; front + usize::try_from(count).unwrap_or(0)];
        answer[..front].copy_from_slice(access.as_bytes());
        self.function.read(access.region.get(), access.offset.get(), &mut answer[front..])?;
        Ok(Answer::Payload(answer))
    }

    fn region_write_multi(&mut self, payload: &[u8]) -> Result<Answer, Errno> {
        let (count, mut rest): (zerocopy::native_endian::U64, _) = front(payload)?;
        for _ in 0..count.get() {
            let (write, after): (ShortWrite, _) = front(rest)?;
            rest = after;
            let data = counted(&write.access, &write.data)?;
            // Answered once for all of them, when the last is on its way.
            let _ = self.function.write(write.access.region.get(), write.access.offset.get(), data, None)?;
        }
        Ok(Answer::Payload(count.as_bytes().to_vec()))
    }

    fn region_io_fds(&self, header: &Header, payload: &[u8], agreement: Agreement) -> Result<Answer, Errno> {
        let (request, _): (RegionIoFds, _) = front(payload)?;
        if request.index.get() >= REGIONS || request.flags.get() != 0 {
            return Err(Errno::INVALID);
        }
        let parts = self.function.io_fds(request.index.get());
        if parts.len() > agreement.client_fds {
            return Err(Errno::TOO_MANY);
        }
        let needed = argsz::<RegionIoFds>() + argsz::<IoFd>() * u32::try_from(parts.len()).unwrap_or(0);
        let fits = request.argsz.get() >= needed;
        let answer =
            RegionIoFds { argsz: needed.into(), count: u32::try_from(parts.len()).unwrap_or(0).into(), ..request };
        if !fits || parts.is_empty() {
            return Ok(Answer::Payload(answer.as_bytes().to_vec()));
        }
        if header.wants_reply() {
            let fds = self.function.doorbells().fds();
            self.channel.reply(header, &[answer.as_bytes(), parts.as_bytes()], &fds);
        }
        Ok(Answer::Sent)
    }
}

/// The data of a write, of which there must be as much as it says.
fn counted<'a>(access: &RegionAccess, data: &'a [u8]) -> Result<&'a [u8], Errno> {
    usize::try_from(access.count.get()).ok().and_then(|count| data.get(..count)).ok_or(Errno::INVALID)
}

/// What there is of a region. One that does not exist has no bytes.
fn region_info(payload: &[u8]) -> Result<Answer, Errno> {
    let (request, _): (RegionInfo, _) = front(payload)?;
    let index = request.index.get();
    if index >= REGIONS {
        return Err(Errno::INVALID);
    }
    let size = Function::region_size(index);
    let flags = if size == 0 { 0 } else { VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE };
    let info = RegionInfo {
        argsz: argsz::<RegionInfo>().into(),
        flags: flags.into(),
        index: index.into(),
        size: size.into(),
        ..RegionInfo::default()
    };
    Ok(Answer::Payload(info.as_bytes().to_vec()))
}
