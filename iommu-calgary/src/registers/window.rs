//! Access to a chip's registers.

use super::{Register32, Register64};

/// A chip's register window. Values are in host order: an implementation over memory swaps bytes, because the chip is
/// big-endian.
///
/// # Contract
/// - Accesses reach the chip in the order of the calls, each as one access of the register's width.
/// - Writes are posted: a write may still be under way when it returns. A read of the same chip returns only after all
///   earlier writes have arrived, so whoever depends on a write reads back first.
/// - Reading may change the chip's state (PMCR of CalIOC2), so an implementation neither adds nor saves a read.
///
/// Methods take `&mut self`: one driver owns the window, and its sequences must not interleave with another's.
pub trait RegisterWindow {
    /// Reads a 32-bit register.
    fn read32(&mut self, register: Register32) -> u32;
    /// Writes a 32-bit register.
    fn write32(&mut self, register: Register32, value: u32);
    /// Reads a 64-bit register.
    fn read64(&mut self, register: Register64) -> u64;
    /// Writes a 64-bit register.
    fn write64(&mut self, register: Register64, value: u64);
}
