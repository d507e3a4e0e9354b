//! The messages of the vfio-user protocol (version 0.0) as bytes, in the byte order of the machine, which both sides share.
//!
//! What the protocol takes over from VFIO is named by `vfio-bindings`; of what is its own `vfio_user` makes
//! only the numbers of the commands public.

use zerocopy::native_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Largest payload of a region access, in bytes; no region is larger.
pub const MAX_DATA: u32 = 16 * 1024;
/// Largest message that is read, header included. Nothing a client has to say is longer.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// Most descriptors that come with one message.
pub const MAX_FDS: usize = 16;

/// Bits of [`Header::flags`].
pub mod flag {
    /// Which of the two kinds of message it is: 0 a command, 1 a reply.
    pub const KIND: u32 = 0xf;
    /// The message is a reply.
    pub const REPLY: u32 = 1;
    /// The sender of the command wants no reply.
    pub const NO_REPLY: u32 = 1 << 4;
    /// The reply tells of a failure; [`super::Header::error`] says which.
    pub const ERROR: u32 = 1 << 5;
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Command {
    /// Protocol version and capabilities; comes first.
    Version = 1,
    /// Makes guest memory reachable.
    DmaMap = 2,
    /// Takes guest memory away.
    DmaUnmap = 3,
    /// Numbers of regions and interrupt kinds.
    DeviceGetInfo = 4,
    /// Size and access of one region.
    DeviceGetRegionInfo = 5,
    /// Descriptors that stand for writes to a region.
    DeviceGetRegionIoFds = 6,
    /// Number of interrupts of one kind.
    DeviceGetIrqInfo = 7,
    /// Connects, masks or triggers interrupts.
    DeviceSetIrqs = 8,
    /// Reads a region.
    RegionRead = 9,
    /// Writes a region.
    RegionWrite = 10,
    /// Resets the function.
    DeviceReset = 13,
    /// Several short writes at once.
    RegionWriteMulti = 15,
}

impl Command {
    const ALL: [Self; 12] = [
        Self::Version,
        Self::DmaMap,
        Self::DmaUnmap,
        Self::DeviceGetInfo,
        Self::DeviceGetRegionInfo,
        Self::DeviceGetRegionIoFds,
        Self::DeviceGetIrqInfo,
        Self::DeviceSetIrqs,
        Self::RegionRead,
        Self::RegionWrite,
        Self::DeviceReset,
        Self::RegionWriteMulti,
    ];

    /// The command with this number, if this server knows it.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|command| *command as u16 == number)
    }
}

/// What every message begins with, 16 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Chosen by the sender of a command, repeated in the reply.
    pub id: U16,
    /// Number of the [`Command`].
    pub command: U16,
    /// Bytes of the message, this header included.
    pub size: U32,
    /// Bits of [`flag`].
    pub flags: U32,
    /// In a reply with [`flag::ERROR`], an errno.
    pub error: U32,
}

impl Header {
    /// Bytes of a header.
    pub const SIZE: usize = size_of::<Self>();

    /// The header of the reply to `self` with `payload` bytes behind it.
    #[must_use]
    pub fn reply(&self, payload: usize) -> Self {
        let size = u32::try_from(Self::SIZE + payload).unwrap_or(u32::MAX);
        Self { size: size.into(), flags: flag::REPLY.into(), error: 0.into(), ..*self }
    }

    /// The header that is the whole of a failed reply to `self`.
    #[must_use]
    pub fn failure(&self, errno: Errno) -> Self {
        Self { flags: (flag::REPLY | flag::ERROR).into(), error: errno.0.into(), ..self.reply(0) }
    }

    /// Whether the sender wants to hear of the outcome.
    #[must_use]
    pub fn wants_reply(&self) -> bool {
        self.flags.get() & flag::NO_REPLY == 0
    }
}

/// Why a command failed, as the client reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(u32);

impl Errno {
    /// The request makes no sense.
    pub const INVALID: Self = Self(libc::EINVAL as u32);
    /// The command is unknown.
    pub const UNKNOWN: Self = Self(libc::ENOSYS as u32);
    /// The command is known but not this form of it.
    pub const UNSUPPORTED: Self = Self(libc::EOPNOTSUPP as u32);
    /// The range is taken.
    pub const EXISTS: Self = Self(libc::EEXIST as u32);
    /// There are too many of them.
    pub const TOO_MANY: Self = Self(libc::ENOSPC as u32);
    /// The message or access is too large.
    pub const TOO_BIG: Self = Self(libc::E2BIG as u32);
    /// The system refused.
    pub const NO_MEMORY: Self = Self(libc::ENOMEM as u32);

    /// The number.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }
}

macro_rules! payload {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $kind:ty,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
        #[repr(C)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $kind,)+
        }
    };
}

payload! {
    /// Front of [`Command::Version`], both ways; a JSON text with a final NUL may follow.
    Version {
        /// Major version.
        major: U16,
        /// Minor version.
        minor: U16,
    }
}

payload! {
    /// [`Command::DmaMap`].
    DmaMap {
        /// Bytes of this structure.
        argsz: U32,
        /// Bits `VFIO_DMA_MAP_FLAG_*` of VFIO.
        flags: U32,
        /// Where in the descriptor's file the memory starts, in bytes.
        offset: U64,
        /// First guest-physical address.
        address: U64,
        /// Bytes.
        size: U64,
    }
}

payload! {
    /// [`Command::DmaUnmap`], repeated in the reply.
    DmaUnmap {
        /// Bytes of this structure.
        argsz: U32,
        /// Bits `VFIO_DMA_UNMAP_FLAG_*` of VFIO.
        flags: U32,
        /// First guest-physical address.
        address: U64,
        /// Bytes.
        size: U64,
    }
}

payload! {
    /// [`Command::DeviceGetInfo`], both ways.
    DeviceInfo {
        /// Bytes of this structure.
        argsz: U32,
        /// Bits `VFIO_DEVICE_FLAGS_*` of VFIO.
        flags: U32,
        /// Number of regions.
        regions: U32,
        /// Number of interrupt kinds.
        irqs: U32,
    }
}

payload! {
    /// [`Command::DeviceGetRegionInfo`], both ways.
    RegionInfo {
        /// Bytes of this structure.
        argsz: U32,
        /// Bits `VFIO_REGION_INFO_FLAG_*` of VFIO.
        flags: U32,
        /// Number of the region.
        index: U32,
        /// Where capabilities begin; 0 for none.
        cap_offset: U32,
        /// Bytes of the region; 0 if there is none.
        size: U64,
        /// Where in the descriptor's file it would be mapped.
        offset: U64,
    }
}

payload! {
    /// [`Command::DeviceGetRegionIoFds`], both ways; [`IoFd`]s follow in the reply.
    RegionIoFds {
        /// Bytes of the whole payload of the reply.
        argsz: U32,
        /// 0.
        flags: U32,
        /// Number of the region.
        index: U32,
        /// Number of [`IoFd`]s.
        count: U32,
    }
}

payload! {
    /// One descriptor that stands for writes to a part of a region.
    IoFd {
        /// Where the part begins in the region.
        offset: U64,
        /// Its bytes.
        size: U64,
        /// Which of the descriptors of the message.
        fd_index: U32,
        /// 0: an eventfd that a write makes readable.
        kind: U32,
        /// 0: any value counts.
        flags: U32,
        /// 0.
        padding: U32,
        /// Unused without a flag.
        datamatch: U64,
    }
}

payload! {
    /// [`Command::DeviceGetIrqInfo`], both ways.
    IrqInfo {
        /// Bytes of this structure.
        argsz: U32,
        /// Bits `VFIO_IRQ_INFO_*` of VFIO.
        flags: U32,
        /// Kind of interrupt.
        index: U32,
        /// Number of interrupts of this kind.
        count: U32,
    }
}

payload! {
    /// [`Command::DeviceSetIrqs`]; bytes or descriptors go with it.
    SetIrqs {
        /// Bytes of this structure and of the bytes behind it.
        argsz: U32,
        /// Bits `VFIO_IRQ_SET_*` of VFIO.
        flags: U32,
        /// Kind of interrupt.
        index: U32,
        /// First of them.
        start: U32,
        /// How many.
        count: U32,
    }
}

payload! {
    /// [`Command::RegionRead`] and [`Command::RegionWrite`], both ways; data follows a write and the reply to a read.
    RegionAccess {
        /// Where in the region.
        offset: U64,
        /// Number of the region.
        region: U32,
        /// Bytes of data.
        count: U32,
    }
}

payload! {
    /// One write of [`Command::RegionWriteMulti`], after a 64-bit count of them; at most 8 bytes.
    ShortWrite {
        /// Where, and how many bytes of `data` count.
        access: RegionAccess,
        /// The bytes.
        data: [u8; 8],
    }
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use vfio_bindings::bindings::vfio::{VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE};

    use super::*;

    #[test]
    fn a_header_is_read_as_the_protocol_lays_it_out() {
        let bytes = [0x34, 0x12, 10, 0, 0x22, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0];
        let header = Header::read_from_bytes(&bytes).unwrap();
        assert_eq!((header.id.get(), header.command.get(), header.size.get()), (0x1234, 10, 0x22));
        assert!(!header.wants_reply());
        assert_eq!(Command::from_number(header.command.get()), Some(Command::RegionWrite));
    }

    #[test]
    fn replies_repeat_id_and_command() {
        let header = Header { id: 7.into(), command: 9.into(), size: 32.into(), ..Header::default() };
        assert_eq!(header.reply(20).as_bytes(), [7, 0, 9, 0, 36, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        let failure = header.failure(Errno::INVALID);
        assert_eq!(failure.as_bytes(), [7, 0, 9, 0, 16, 0, 0, 0, 0x21, 0, 0, 0, 22, 0, 0, 0]);
    }

    #[test]
    fn unknown_commands_have_no_name() {
        for number in [0, 11, 12, 14, 16, u16::MAX] {
            assert_eq!(Command::from_number(number), None);
        }
    }

    #[test]
    fn payloads_have_the_sizes_of_the_protocol() {
        assert_eq!(size_of::<Version>(), 4);
        assert_eq!(size_of::<DmaMap>(), 32);
        assert_eq!(size_of::<DmaUnmap>(), 24);
        assert_eq!(size_of::<DeviceInfo>(), 16);
        assert_eq!(size_of::<RegionInfo>(), 32);
        assert_eq!(size_of::<RegionIoFds>(), 16);
        assert_eq!(size_of::<IoFd>(), 40);
        assert_eq!(size_of::<IrqInfo>(), 16);
        assert_eq!(size_of::<SetIrqs>(), 20);
        assert_eq!(size_of::<RegionAccess>(), 16);
        assert_eq!(size_of::<ShortWrite>(), 24);
    }

    #[test]
    fn a_dma_map_is_read_as_a_client_sends_it() {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&[32, 0, 0, 0, 3, 0, 0, 0]);
        bytes[9] = 0x10; // offset 0x1000
        bytes[18] = 0x10; // address 0x10_0000
        bytes[27] = 0x20; // size 0x2000_0000
        let map = DmaMap::read_from_bytes(&bytes).unwrap();
        assert_eq!(map.flags.get(), VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE);
        assert_eq!((map.offset.get(), map.address.get(), map.size.get()), (0x1000, 0x10_0000, 0x2000_0000));
    }
}
