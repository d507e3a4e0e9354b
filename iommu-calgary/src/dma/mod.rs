//! The data plane: how a device of this process goes through the tables, and how it is known that it does no longer.

mod fence;
mod phb;
mod pins;
mod port;
pub(crate) mod protocol;
mod quiesce;
mod registry;

pub use fence::Fences;
pub use phb::Phb;
pub use pins::PinSet;
pub use port::{DmaPort, Epoch, Fault, FaultReason, Run};

pub(crate) use phb::Reprogrammed;
pub(crate) use protocol::Scope;
pub(crate) use quiesce::{Quiesce, Rosters};
