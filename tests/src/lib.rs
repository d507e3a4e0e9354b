//! The driver side of both devices, the virtual machine bundle and cross-crate tests.

pub mod guest;
pub mod posix;
pub mod vm;
