//! Decoding a request from the bytes a driver sent (virtio 1.2 §5.13.6).

use super::{
    AttachFlags, AttachRequest, DetachRequest, Head, MapFlags, MapRequest, ProbeRequest, T_ATTACH, T_DETACH, T_MAP,
    T_PROBE, T_UNMAP, Tail, UnmapRequest,
};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// The most bytes of a readable part that decoding looks at; a device need copy no more than these out of guest memory.
pub const MAX_READABLE_BYTES: usize = size_of::<ProbeRequest>();

/// A well-formed request. Whether its values are allowed is for the device to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Attach an endpoint to a domain.
    Attach {
        /// Domain id.
        domain: u32,
        /// Endpoint id.
        endpoint: u32,
        /// Flags, unknown bits included.
        flags: AttachFlags,
        /// Whether a reserved byte of the body is not zero; the answer is then `INVAL` (virtio 1.2 §5.13.6.3.2).
        reserved_nonzero: bool,
    },
    /// Detach an endpoint from a domain.
    Detach {
        /// Domain id.
        domain: u32,
        /// Endpoint id.
        endpoint: u32,
    },
    /// Map a range of a domain.
    Map {
        /// Domain id.
        domain: u32,
        /// First IOVA. May exceed `virt_end`.
        virt_start: u64,
        /// Last IOVA (inclusive).
        virt_end: u64,
        /// Guest-physical address of the first byte.
        phys_start: u64,
        /// Flags, unknown bits included.
        flags: MapFlags,
    },
    /// Remove the mappings within a range of a domain.
    Unmap {
        /// Domain id.
        domain: u32,
        /// First IOVA. May exceed `virt_end`.
        virt_start: u64,
        /// Last IOVA (inclusive).
        virt_end: u64,
    },
    /// Report the properties of an endpoint.
    Probe {
        /// Endpoint id.
        endpoint: u32,
    },
}

/// Why bytes are not a request. Either way the chain goes back with nothing written and used length 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The type is none of the five (virtio 1.2 §5.13.6.2).
    #[error("request type {0} is unknown; virtio 1.2 defines 1 (ATTACH) to 5 (PROBE)")]
    UnknownType(u8),
    /// The readable part ends before the request does.
    #[error("the readable part has {got} bytes where the request needs {needed}; the driver's chain is malformed")]
    TooShort {
        /// Bytes that the head, or the request of this type, takes.
        needed: usize,
        /// Bytes present.
        got: usize,
    },
}

impl Request {
    /// Decodes the readable part of a chain.
    ///
    /// Bytes beyond the request are ignored, as are the reserved bytes of the head and all other reserved bytes but ATTACH's.
    ///
    /// # Errors
    /// [`ParseError::TooShort`] if the head or the body is incomplete, [`ParseError::UnknownType`] for a complete head of
    /// another type, whatever its length.
    #[inline]
    pub fn parse(readable: &[u8]) -> Result<Self, ParseError> {
        let head: &Head = view(readable)?;
        match head.kind {
            T_ATTACH => view(readable).map(|r: &AttachRequest| Self::Attach {
                domain: r.domain.get(),
                endpoint: r.endpoint.get(),
                flags: AttachFlags(r.flags.get()),
                reserved_nonzero: r.reserved != [0; 4],
            }),
            T_DETACH => view(readable)
                .map(|r: &DetachRequest| Self::Detach { domain: r.domain.get(), endpoint: r.endpoint.get() }),
            T_MAP => view(readable).map(|r: &MapRequest| Self::Map {
                domain: r.domain.get(),
                virt_start: r.virt_start.get(),
                virt_end: r.virt_end.get(),
                phys_start: r.phys_start.get(),
                flags: MapFlags(r.flags.get()),
            }),
            T_UNMAP => view(readable).map(|r: &UnmapRequest| Self::Unmap {
                domain: r.domain.get(),
                virt_start: r.virt_start.get(),
                virt_end: r.virt_end.get(),
            }),
            T_PROBE => view(readable).map(|r: &ProbeRequest| Self::Probe { endpoint: r.endpoint.get() }),
            other => Err(ParseError::UnknownType(other)),
        }
    }

    /// Offset of the [`Tail`] in the writable part, in bytes: `probe_size` for PROBE, else 0.
    #[must_use]
    pub const fn tail_offset(&self, probe_size: usize) -> usize {
        match self {
            Self::Probe { .. } => probe_size,
            _ => 0,
        }
    }

    /// Bytes that the device writes for a served request, which is also the used length.
    ///
    /// A driver may take an answer with any other used length for no answer at all.
    #[must_use]
    pub const fn answer_bytes(&self, probe_size: usize) -> usize {
        self.tail_offset(probe_size).saturating_add(Tail::SIZE)
    }
}

#[inline]
fn view<T: FromBytes + KnownLayout + Immutable + Unaligned>(readable: &[u8]) -> Result<&T, ParseError> {
    T::ref_from_prefix(readable)
        .map(|(value, _)| value)
        .map_err(|_| ParseError::TooShort { needed: size_of::<T>(), got: readable.len() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    fn one_of_each() -> Vec<(Vec<u8>, Request)> {
        vec![
            (
                AttachRequest::new(7, 0x30, AttachFlags::BYPASS).as_bytes().to_vec(),
                Request::Attach { domain: 7, endpoint: 0x30, flags: AttachFlags::BYPASS, reserved_nonzero: false },
            ),
            (DetachRequest::new(7, 0x30).as_bytes().to_vec(), Request::Detach { domain: 7, endpoint: 0x30 }),
            (
                MapRequest::new(7, 0x1000, 0x2fff, 0xa000, MapFlags(0x8000_0001)).as_bytes().to_vec(),
                Request::Map {
                    domain: 7,
                    virt_start: 0x1000,
                    virt_end: 0x2fff,
                    phys_start: 0xa000,
                    flags: MapFlags(0x8000_0001),
                },
            ),
            (
                UnmapRequest::new(7, 0, u64::MAX).as_bytes().to_vec(),
                Request::Unmap { domain: 7, virt_start: 0, virt_end: u64::MAX },
            ),
            (ProbeRequest::new(0x30).as_bytes().to_vec(), Request::Probe { endpoint: 0x30 }),
        ]
    }

    #[test]
    fn each_request_decodes_to_its_fields() {
        for (bytes, request) in one_of_each() {
            assert_eq!(Request::parse(&bytes), Ok(request));
        }
    }

    #[test]
    fn a_longer_readable_part_is_accepted() {
        for (mut bytes, request) in one_of_each() {
            bytes.extend([0xff; 5]);
            assert_eq!(Request::parse(&bytes), Ok(request));
        }
    }

    #[test]
    fn every_shorter_readable_part_is_too_short() {
        for (bytes, _) in one_of_each() {
            for got in 0..bytes.len() {
                let needed = if got < 4 { 4 } else { bytes.len() };
                assert_eq!(Request::parse(&bytes[..got]), Err(ParseError::TooShort { needed, got }));
            }
        }
    }

    #[test]
    fn reserved_bytes_of_the_head_are_ignored() {
        for (mut bytes, request) in one_of_each() {
            bytes[1..4].fill(0xff);
            assert_eq!(Request::parse(&bytes), Ok(request));
        }
    }

    #[test]
    fn only_attach_reports_reserved_bytes() {
        for byte in 16..20 {
            let mut bytes = AttachRequest::new(7, 0x30, AttachFlags::NONE).as_bytes().to_vec();
            bytes[byte] = 0x80;
            assert!(matches!(Request::parse(&bytes), Ok(Request::Attach { reserved_nonzero: true, .. })));
        }
        let mut detach = DetachRequest::new(7, 0x30);
        detach.reserved = [0xff; 8];
        assert_eq!(Request::parse(detach.as_bytes()), Ok(Request::Detach { domain: 7, endpoint: 0x30 }));
        let mut unmap = UnmapRequest::new(7, 0, 1);
        unmap.reserved = [0xff; 4];
        assert_eq!(Request::parse(unmap.as_bytes()), Ok(Request::Unmap { domain: 7, virt_start: 0, virt_end: 1 }));
        let mut probe = ProbeRequest::new(0x30);
        probe.reserved = [0xff; 64];
        assert_eq!(Request::parse(probe.as_bytes()), Ok(Request::Probe { endpoint: 0x30 }));
    }

    #[test]
    fn every_other_type_is_unknown_at_any_length() {
        for kind in (0..=u8::MAX).filter(|kind| !(1..=5).contains(kind)) {
            for length in [4, 5, 72, 100] {
                let mut bytes = vec![0; length];
                bytes[0] = kind;
                assert_eq!(Request::parse(&bytes), Err(ParseError::UnknownType(kind)));
            }
        }
    }

    #[test]
    fn the_answer_is_a_tail_alone_except_for_probe() {
        for (_, request) in one_of_each() {
            let (offset, length) = if matches!(request, Request::Probe { .. }) { (512, 516) } else { (0, 4) };
            assert_eq!(request.tail_offset(512), offset);
            assert_eq!(request.answer_bytes(512), length);
        }
    }

    #[test]
    fn no_request_is_longer_than_the_stated_maximum() {
        assert!(one_of_each().iter().all(|(bytes, _)| bytes.len() <= MAX_READABLE_BYTES));
        assert_eq!(MAX_READABLE_BYTES, 72);
    }
}
