//! A device without anything to do, for tests of what carries devices, and an interrupt for tests of devices.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Device, Identity, Interrupt};
use crate::memory::GuestRam;
use crate::ring::RingLayout;

/// Nobody hears it.
pub(crate) struct Deaf;

impl Interrupt for Deaf {
    fn signal(&self) {}
}

type Hook<T> = Box<dyn Fn() -> T + Send + Sync>;

/// See the module.
pub(crate) struct Idle {
    identity: Identity,
    on_reset: Hook<()>,
    has_settled: Hook<bool>,
    /// It cannot be served once.
    pub(crate) is_refused: AtomicBool,
}

impl Idle {
    /// A device that does `on_reset` at each reset, which is done at once.
    pub(crate) fn new(on_reset: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            identity: Identity { name: "idle".to_owned(), virtio_id: 9, queue_sizes: vec![8] },
            on_reset: Box::new(on_reset),
            has_settled: Box::new(|| true),
            is_refused: AtomicBool::new(false),
        }
    }

    /// The same, whose resets are done when `has_settled` says so.
    pub(crate) fn settling(self, has_settled: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { has_settled: Box::new(has_settled), ..self }
    }
}

impl Device for Idle {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn features(&self) -> u64 {
        0
    }

    fn ack_features(&self, _: u64) {}

    fn read_config(&self, _: u32, bytes: &mut [u8]) {
        bytes.fill(0);
    }

    fn write_config(&self, _: u32, _: &[u8]) {}

    fn set_memory(&self, _: Arc<GuestRam>) {}

    fn activate(&self, _: usize, _: RingLayout, _: u16, _: Arc<dyn Interrupt>) {}

    fn stop(&self, _: usize) -> Option<u16> {
        None
    }

    fn service(&self, _: usize) {}

    fn wake_fd(&self) -> Option<RawFd> {
        // No epoll takes -1.
        self.is_refused.swap(false, Ordering::Relaxed).then_some(-1)
    }

    fn reset(&self) {
        (self.on_reset)();
    }

    fn has_settled(&self) -> bool {
        (self.has_settled)()
    }
}
