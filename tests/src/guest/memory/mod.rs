//! Guest RAM: a shared file mapped here and announced to the device, and the pages in it.

mod pages;
mod ram;

pub use pages::{PagePool, PagesExhausted};
pub use ram::{GuestMemory, MemoryError, RamRegion};
