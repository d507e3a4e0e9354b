//! Headers and the payloads of fixed size (SPEC.md 18 and 19).

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U32, U64},
};

use super::MAX_ENTRIES;

const VERSION: u32 = 1;
const VERSION_MASK: u32 = 3;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

/// What a message is. The same number means one thing on the socket and another on the back end's channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Request {
    /// Socket: ask for [`Limits`].
    GetLimits = 0x1000,
    /// Socket: an [`EndpointChange`].
    Endpoint = 0x1001,
    /// Socket: [`Start`].
    Start = 0x1002,
    /// Socket: a [`Fault`].
    Fault = 0x1003,
    /// Socket: [`Reset`].
    Reset = 0x1004,
    /// Channel: an [`Update`](super::Update).
    Update = 0x1100,
    /// Channel: [`Synced`].
    Synced = 0x1101,
}

impl Request {
    const ALL: [Self; 7] =
        [Self::GetLimits, Self::Endpoint, Self::Start, Self::Fault, Self::Reset, Self::Update, Self::Synced];
}

/// Why bytes are no message. The receiver closes the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The number is unknown.
    #[error("request {0:#x} is not known; both sides must have negotiated the extension")]
    Request(u32),
    /// The flags name another version, or bits that nobody has defined.
    #[error("the flags {0:#x} are not those of version 1")]
    Flags(u32),
    /// The payload has another size than the request.
    #[error("a payload of {0} bytes does not belong to this request")]
    Size(usize),
    /// A field has a value that nobody has defined, or a reserved one is not 0.
    #[error("a field holds {0:#x}, which means nothing")]
    Value(u64),
}

/// The 12 bytes before every payload, those of vhost-user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub request: Request,
    /// Whether it answers a message of this request.
    pub reply: bool,
    /// Whether an answer is wanted.
    pub need_reply: bool,
    /// Bytes that follow.
    pub size: u32,
}

impl Header {
    /// Bytes of a header.
    pub const SIZE: usize = 12;

    /// The bytes.
    #[must_use]
    pub fn encode(self) -> [u8; Self::SIZE] {
        let flags = VERSION | if self.reply { REPLY } else { 0 } | if self.need_reply { NEED_REPLY } else { 0 };
        let mut bytes = [0; Self::SIZE];
        for (field, word) in bytes.chunks_exact_mut(4).zip([self.request as u32, flags, self.size]) {
            field.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The header that `bytes` are.
    ///
    /// # Errors
    /// [`MessageError::Request`], [`MessageError::Flags`].
    pub fn decode(bytes: [u8; Self::SIZE]) -> Result<Self, MessageError> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let (number, flags, size) = (word(0), word(4), word(8));
        let request = Request::ALL.into_iter().find(|request| *request as u32 == number);
        let request = request.ok_or(MessageError::Request(number))?;
        if flags & VERSION_MASK != VERSION || flags & !(VERSION_MASK | REPLY | NEED_REPLY) != 0 {
            return Err(MessageError::Flags(flags));
        }
        Ok(Self { request, reply: flags & REPLY != 0, need_reply: flags & NEED_REPLY != 0, size })
    }
}

macro_rules! payload {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
        #[repr(C)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }

        impl $name {
            /// The payload that `bytes` are; the size must be exact.
            ///
            /// # Errors
            /// [`MessageError::Size`], [`MessageError::Value`].
            pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
                let found = Self::read_from_bytes(bytes).map_err(|_| MessageError::Size(bytes.len()))?;
                found.undefined().map_or(Ok(found), |value| Err(MessageError::Value(value)))
            }
        }
    };
}

payload! {
    /// The answer to GET_LIMITS, 40 bytes.
    Limits {
        /// Sizes of a page that every IOVA, size and address is a multiple of; the lowest bit counts.
        page_size_mask: U64,
        /// First IOVA that can be mapped.
        iova_first: U64,
        /// Last IOVA that can be mapped.
        iova_last: U64,
        /// Most spaces at a time, besides the two that always exist.
        spaces: U32,
        /// Most entries of one UPDATE, 1 to [`MAX_ENTRIES`](super::MAX_ENTRIES).
        update_entries: U32,
        /// Names the state that the back end has; never 0, and another one after the state was lost.
        generation: U64,
    }
}

payload! {
    /// The front end has, or no longer has, an endpoint: 16 bytes.
    EndpointChange {
        /// Its id, as in virtio-iommu requests.
        endpoint: U32,
        /// An [`EndpointOp`].
        op: U32,
        /// Bit 0: a MAP that this endpoint can see counts only when it is acknowledged, because it can fail.
        flags: U32,
        /// 0.
        reserved: U32,
    }
}

/// What happens to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum EndpointOp {
    /// It is there, bound to [`Space::Blocked`](super::Space::Blocked).
    Add = 1,
    /// It is gone; none of its accesses is under way.
    Remove = 2,
}

payload! {
    /// Asks the back end to tell its state and every change from now on: 16 bytes.
    Start {
        /// The generation of the state that the front end holds; 0 if none.
        generation: U64,
        /// 0.
        reserved: U64,
    }
}

payload! {
    /// An access that was refused: 32 bytes.
    Fault {
        /// Whose it was.
        endpoint: U32,
        /// The space it was bound to.
        space: U32,
        /// The first IOVA that was refused.
        address: U64,
        /// 1 a read, 2 a write.
        flags: U32,
        /// 1 no space, 2 no mapping or no permission, 0 anything else.
        reason: U32,
        /// Refused accesses that this report stands for, at least 1.
        count: U32,
        /// 0.
        reserved: U32,
    }
}

payload! {
    /// The guest or the machine was reset: 8 bytes.
    Reset {
        /// A [`ResetCause`].
        cause: U32,
        /// 0.
        reserved: U32,
    }
}

/// What was reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ResetCause {
    /// The virtio-iommu, by its driver: `bypass` stays as it is.
    Device = 1,
    /// The whole machine: `bypass` is what was configured.
    System = 2,
}

payload! {
    /// The front end knows all of the state: 8 bytes.
    Synced {
        /// Its generation.
        generation: U64,
    }
}

impl Limits {
    fn undefined(&self) -> Option<u64> {
        let entries = self.update_entries.get();
        let [mask, first, last] = [self.page_size_mask, self.iova_first, self.iova_last].map(U64::get);
        if mask == 0 || self.generation.get() == 0 {
            return Some(0);
        }
        let in_one = usize::try_from(entries).is_ok_and(|entries| (1..=MAX_ENTRIES).contains(&entries));
        (!in_one).then_some(entries.into()).or((first > last).then_some(first))
    }
}

impl Start {
    fn undefined(&self) -> Option<u64> {
        Some(self.reserved.get()).filter(|reserved| *reserved != 0)
    }
}

impl Fault {
    fn undefined(&self) -> Option<u64> {
        let [flags, reason, count, reserved] = [self.flags, self.reason, self.count, self.reserved].map(U32::get);
        let wrong =
            [(flags, !matches!(flags, 1 | 2)), (reason, reason > 2), (count, count == 0), (reserved, reserved != 0)];
        wrong.into_iter().find(|(_, wrong)| *wrong).map(|(value, _)| value.into())
    }
}

impl Synced {
    fn undefined(&self) -> Option<u64> {
        Some(self.generation.get()).filter(|generation| *generation == 0)
    }
}

impl EndpointChange {
    /// Flag: a MAP that this endpoint can see counts only when it is acknowledged.
    pub const MAPS_ACKNOWLEDGED: u32 = 1;

    fn undefined(&self) -> Option<u64> {
        self.op().is_err().then_some(self.op.get().into())
    }

    /// What happens to the endpoint.
    ///
    /// # Errors
    /// [`MessageError::Value`].
    pub fn op(&self) -> Result<EndpointOp, MessageError> {
        match (self.op.get(), self.flags.get() & !Self::MAPS_ACKNOWLEDGED, self.reserved.get()) {
            (1, 0, 0) => Ok(EndpointOp::Add),
            (2, 0, 0) => Ok(EndpointOp::Remove),
            (op, ..) => Err(MessageError::Value(op.into())),
        }
    }
}

impl Reset {
    fn undefined(&self) -> Option<u64> {
        self.cause().is_err().then_some(self.cause.get().into())
    }

    /// What was reset.
    ///
    /// # Errors
    /// [`MessageError::Value`].
    pub fn cause(&self) -> Result<ResetCause, MessageError> {
        match (self.cause.get(), self.reserved.get()) {
            (1, 0) => Ok(ResetCause::Device),
            (2, 0) => Ok(ResetCause::System),
            (cause, _) => Err(MessageError::Value(cause.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_have_the_written_sizes() {
        assert_eq!((size_of::<Limits>(), size_of::<EndpointChange>(), size_of::<Start>()), (40, 16, 16));
        assert_eq!((size_of::<Fault>(), size_of::<Reset>(), size_of::<Synced>()), (32, 8, 8));
        assert_eq!(Reset::decode(&[1; 7]), Err(MessageError::Size(7)));
        assert_eq!(Reset::decode(&[0; 9]), Err(MessageError::Size(9)));
    }

    #[test]
    fn a_header_is_these_bytes() {
        let header = Header { request: Request::Update, reply: false, need_reply: true, size: 48 };
        assert_eq!(header.encode(), [0, 0x11, 0, 0, 9, 0, 0, 0, 48, 0, 0, 0]);
        assert_eq!(Header::decode(header.encode()), Ok(header));
    }

    #[test]
    fn headers_of_others_are_refused() {
        assert_eq!(Header::decode([1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]), Err(MessageError::Request(1)));
        for flags in [0, 2, 0x11, 0xff] {
            let header = [0, 0x10, 0, 0, flags, 0, 0, 0, 0, 0, 0, 0];
            assert_eq!(Header::decode(header), Err(MessageError::Flags(flags.into())));
        }
    }

    #[test]
    fn values_without_a_meaning_are_refused() {
        let reset = |cause: u32, reserved: u32| Reset { cause: cause.into(), reserved: reserved.into() }.cause();
        assert_eq!((reset(1, 0), reset(2, 0)), (Ok(ResetCause::Device), Ok(ResetCause::System)));
        assert!(reset(0, 0).is_err() && reset(3, 0).is_err() && reset(1, 1).is_err());
        let change = |op: u32, flags: u32| {
            EndpointChange { op: op.into(), flags: flags.into(), ..EndpointChange::default() }.op()
        };
        assert_eq!((change(1, 1), change(2, 0)), (Ok(EndpointOp::Add), Ok(EndpointOp::Remove)));
        assert!(change(3, 0).is_err() && change(1, 2).is_err());
    }

    #[test]
    fn payloads_with_such_values_are_no_messages() {
        let refused = |value: u64| MessageError::Value(value);
        assert_eq!(Reset::decode(&[3, 0, 0, 0, 0, 0, 0, 0]), Err(refused(3)));
        assert_eq!(EndpointChange::decode(&[0; 16]), Err(refused(0)));
        assert_eq!(Start { generation: 5.into(), reserved: 1.into() }.undefined(), Some(1));
        assert_eq!(Synced::decode(&[0; 8]), Err(refused(0)));
        let fault = Fault { flags: 1.into(), reason: 2.into(), count: 1.into(), ..Fault::default() };
        assert_eq!(Fault::decode(fault.as_bytes()), Ok(fault));
        for wrong in [
            Fault { flags: 3.into(), ..fault },
            Fault { reason: 3.into(), ..fault },
            Fault { count: 0.into(), ..fault },
            Fault { reserved: 9.into(), ..fault },
        ] {
            assert!(Fault::decode(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
        let limits = Limits {
            page_size_mask: 0x1000.into(),
            iova_last: 0xffff.into(),
            update_entries: 1024.into(),
            generation: 1.into(),
            ..Limits::default()
        };
        assert_eq!(Limits::decode(limits.as_bytes()), Ok(limits));
        for wrong in [
            Limits { page_size_mask: 0.into(), ..limits },
            Limits { iova_first: 0x1_0000.into(), ..limits },
            Limits { update_entries: 0.into(), ..limits },
            Limits { update_entries: 1025.into(), ..limits },
            Limits { generation: 0.into(), ..limits },
        ] {
            assert!(Limits::decode(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
    }
}
