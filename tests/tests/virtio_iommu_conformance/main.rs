//! virtio-iommu against virtio 1.2 §5.13, rule by rule, through the virtqueues of a daemon in this process.
//!
//! Each test is named by the id of its rule. The table at the end of frontend-spec's `SPEC.md` lists the rules and what
//! the daemon does where the specification leaves it a choice. What an endpoint can reach is seen by DMA of the share
//! behind it: see [`endpoint`].

mod attach;
mod bypass;
mod detach;
mod endpoint;
mod events;
mod features_and_configuration;
mod framing;
mod guest;
mod map;
mod model;
mod probe;
mod random_batches;
mod reset;
mod rig;
mod unmap;
