//! The device models without a transport: rings in memory of this process.

mod configuration;
mod cut_off;
mod driver;
mod features;
mod out_of_reach;
mod side_core;
mod useless_event_buffers;
