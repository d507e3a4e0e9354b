//! virtio-iommu as the guest sees it (virtio 1.2 §5.13).
//!
//! - [`Config`]: the 40 bytes of configuration space;
//! - [`Request`]: a request decoded from the readable part of a chain; the wire structures of both directions stand beside it;
//! - [`Status`], [`Tail`]: the answer;
//! - [`ProbeBuffer`]: the properties that answer a PROBE;
//! - [`FaultEvent`]: one entry of the event queue.

mod config;
mod event;
mod flags;
mod probe;
mod request;
mod status;
mod wire;

pub use config::Config;
pub use event::{FaultEvent, FaultFlags, FaultReason};
pub use flags::{AttachFlags, MapFlags};
pub use probe::{
    PROPERTY_NONE, PROPERTY_RESV_MEM, ProbeBuffer, ProbeError, Properties, Property, ResvMemProperty, ResvMemSubtype,
};
pub use request::{MAX_READABLE_BYTES, ParseError, Request};
pub use status::{Status, Tail, UnknownStatus};
pub use wire::{
    AttachRequest, DetachRequest, Head, MapRequest, ProbeRequest, T_ATTACH, T_DETACH, T_MAP, T_PROBE, T_UNMAP,
    UnmapRequest,
};

/// Index of the queue that carries requests from the driver.
pub const REQUEST_QUEUE: usize = 0;
/// Index of the queue that carries fault events to the driver.
pub const EVENT_QUEUE: usize = 1;

/// Feature bits of this device, as masks of the 64-bit feature word (virtio 1.2 §5.13.3).
pub mod feature {
    /// `Config::input_range` is valid (bit 0).
    pub const INPUT_RANGE: u64 = 1 << 0;
    /// `Config::domain_range` is valid (bit 1).
    pub const DOMAIN_RANGE: u64 = 1 << 1;
    /// MAP and UNMAP exist (bit 2).
    pub const MAP_UNMAP: u64 = 1 << 2;
    /// Unattached endpoints bypass if negotiated (bit 3). Superseded by [`BYPASS_CONFIG`]; never offered together with it.
    pub const BYPASS: u64 = 1 << 3;
    /// PROBE exists and `Config::probe_size` is valid (bit 4).
    pub const PROBE: u64 = 1 << 4;
    /// The MAP flag [`MapFlags::MMIO`](super::MapFlags::MMIO) may be used (bit 5).
    pub const MMIO: u64 = 1 << 5;
    /// `Config::bypass` may be written and ATTACH may ask for bypass (bit 6).
    pub const BYPASS_CONFIG: u64 = 1 << 6;
}

#[cfg(test)]
mod tests {
    use super::feature;

    #[test]
    fn feature_masks_carry_the_specified_bit_numbers() {
        let in_order = [
            feature::INPUT_RANGE,
            feature::DOMAIN_RANGE,
            feature::MAP_UNMAP,
            feature::BYPASS,
            feature::PROBE,
            feature::MMIO,
            feature::BYPASS_CONFIG,
        ];
        for (bit, mask) in in_order.into_iter().enumerate() {
            assert_eq!(mask, 1 << bit);
        }
    }
}
