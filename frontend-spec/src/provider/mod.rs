//! The vhost-user extension by which a VMM lets an IOMMU in another process translate for all its devices: `SPEC.md`,
//! sections 17 to 25, as types. The daemon does not speak it yet; the encodings and the front end's rules are here so
//! that both sides can be written against something that runs.
//!
//! - [`Header`] and [`Request`]: what precedes every message, and the numbers;
//! - [`Limits`], [`EndpointChange`], [`Start`], [`Fault`], [`Reset`]: payloads that the front end sends or asks for;
//! - [`Update`] and [`Synced`]: what the back end pushes; [`Entry`] is one change;
//! - [`FrontEnd`]: what a front end knows, and how it takes updates.

mod front_end;
mod message;
mod update;

pub use front_end::{FrontEnd, State, Translation};
pub use message::{
    EndpointChange, EndpointOp, Fault, Header, Limits, MessageError, Request, Reset, ResetCause, Start, Synced,
};
pub use update::{Entry, MAX_ENTRIES, Refusal, Space, Update, UpdateReply};

/// Bit of the protocol features: the back end provides translations (provisional number).
pub const PROTOCOL_F_IOMMU_PROVIDER: u64 = 1 << 32;
/// Bit of the protocol features: SET_VRING_ADDR carries ring addresses as the driver wrote them (provisional number).
pub const PROTOCOL_F_RING_IOVA: u64 = 1 << 33;
/// Bit 1 of the flags of SET_VRING_ADDR, required with [`PROTOCOL_F_RING_IOVA`].
pub const VRING_F_IOVA: u32 = 1 << 1;
