//! The device models without a transport: rings in memory of this process.

mod driver;
mod out_of_reach;
mod side_core;
