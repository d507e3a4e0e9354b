//! How the function interrupts: MSI-X vectors or the INTx line, carried by the client's eventfds.
//!
//! Masking a vector is the client's business: a masked vector is one without a descriptor. What fires meanwhile stays
//! pending here, shows in the pending bit array, and is delivered when a descriptor comes. The INTx line is a level: it
//! fires once, is masked by that, and fires again when it is unmasked with a cause still standing.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_INFO_AUTOMASKED, VFIO_IRQ_INFO_EVENTFD, VFIO_IRQ_INFO_MASKABLE, VFIO_IRQ_SET_ACTION_MASK,
    VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_ACTION_UNMASK, VFIO_IRQ_SET_DATA_BOOL, VFIO_IRQ_SET_DATA_EVENTFD,
    VFIO_IRQ_SET_DATA_NONE, VFIO_PCI_INTX_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX, VFIO_PCI_NUM_IRQS,
};

use super::wire::{Errno, IrqInfo, SetIrqs};
use crate::transport::Interrupt;
use crate::transport::eventfd::{adopt, fire};

/// Kinds of interrupt of a PCI function, numbered as VFIO does: INTx, MSI, MSI-X, errors, requests.
pub(super) const KINDS: u32 = VFIO_PCI_NUM_IRQS;
const INTX: u32 = VFIO_PCI_INTX_IRQ_INDEX;
const MSIX: u32 = VFIO_PCI_MSIX_IRQ_INDEX;

/// What a vector register holds where no vector is meant (virtio 1.2 §4.1.5.1.2).
pub(super) const NO_VECTOR: u16 = 0xffff;

/// ISR bit of queues (virtio 1.2 §4.1.4.5).
const ISR_QUEUE: u8 = 1;
/// ISR bit of configuration changes.
const ISR_CONFIG: u8 = 2;

/// The interrupts of one function.
#[derive(Debug)]
pub(super) struct Interrupts {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    vectors: Vec<Vector>,
    line: Line,
    isr: u8,
    /// The guest has switched MSI-X on in configuration space.
    msix_enabled: bool,
    /// Vector of each queue.
    queue_vectors: Vec<u16>,
    config_vector: u16,
    /// A queue contradicts itself.
    has_broken_queue: bool,
}

#[derive(Debug, Default)]
struct Vector {
    eventfd: Option<OwnedFd>,
    masked: bool,
    pending: bool,
}

#[derive(Debug, Default)]
struct Line {
    eventfd: Option<OwnedFd>,
    masked: bool,
}

impl Vector {
    fn fire(&mut self) {
        match &self.eventfd {
            Some(fd) if !self.masked => fire(fd),
            _ => self.pending = true,
        }
    }

    /// Delivers what waited, if it can be now.
    fn settle(&mut self) {
        if std::mem::take(&mut self.pending) {
            self.fire();
        }
    }
}

impl State {
    /// MSI-X is in use: the guest said so, or the client has connected vectors because the guest told it alone.
    fn uses_msix(&self) -> bool {
        self.msix_enabled || self.vectors.iter().any(|vector| vector.eventfd.is_some())
    }

    fn raise(&mut self, vector: u16, isr: u8) {
        if self.uses_msix() {
            if let Some(vector) = self.vectors.get_mut(usize::from(vector)) {
                vector.fire();
            }
            return;
        }
        self.isr |= isr;
        self.settle_line();
    }

    fn raise_config(&mut self) {
        self.raise(self.config_vector, ISR_CONFIG);
    }

    /// Fires the line if it has cause, and may.
    fn settle_line(&mut self) {
        if self.isr != 0
            && !self.line.masked
            && let Some(fd) = &self.line.eventfd
        {
            fire(fd);
            self.line.masked = true;
        }
    }
}

/// The vectors that a [`SetIrqs`] is about, and what to do to them.
struct Order {
    first: usize,
    /// One for each vector: whether it is meant.
    meant: Vec<bool>,
    action: u32,
}

impl Interrupts {
    /// Interrupts of a function with `queues` queues: a vector for configuration changes and one for each queue.
    pub(super) fn new(queues: usize) -> Arc<Self> {
        let state = State {
            vectors: std::iter::repeat_with(Vector::default).take(queues + 1).collect(),
            line: Line::default(),
            isr: 0,
            msix_enabled: false,
            queue_vectors: vec![NO_VECTOR; queues],
            config_vector: NO_VECTOR,
            has_broken_queue: false,
        };
        Arc::new(Self { state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What there is of kind `index`.
    pub(super) fn info(&self, index: u32) -> Result<IrqInfo, Errno> {
        let (count, flags) = match index {
            INTX => (1, VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED),
            MSIX => (self.state().vectors.len(), VFIO_IRQ_INFO_EVENTFD),
            _ if index < KINDS => (0, 0),
            _ => return Err(Errno::INVALID),
        };
        Ok(IrqInfo {
            argsz: u32::try_from(size_of::<IrqInfo>()).unwrap_or_default().into(),
            flags: flags.into(),
            index: index.into(),
            count: u32::try_from(count).unwrap_or_default().into(),
        })
    }

    /// Does what `request` says, with the `data` behind it and the descriptors that came along.
    pub(super) fn set(&self, request: &SetIrqs, data: &[u8], fds: Vec<OwnedFd>) -> Result<(), Errno> {
        let mut state = self.state();
        let available = match request.index.get() {
            INTX => 1,
            MSIX => state.vectors.len(),
            _ => return Err(Errno::INVALID),
        };
        let flags = request.flags.get();
        let action = flags & (VFIO_IRQ_SET_ACTION_MASK | VFIO_IRQ_SET_ACTION_UNMASK | VFIO_IRQ_SET_ACTION_TRIGGER);
        let number = |number: u32| usize::try_from(number).map_err(|_| Errno::INVALID);
        let (first, count) = (number(request.start.get())?, number(request.count.get())?);
        if first.checked_add(count).is_none_or(|end| end > available) || action.count_ones() != 1 {
            return Err(Errno::INVALID);
        }
        match flags & !action {
            VFIO_IRQ_SET_DATA_NONE if fds.is_empty() => {
                if action == VFIO_IRQ_SET_ACTION_TRIGGER && (first, count) == (0, 0) {
                    state.disconnect(request.index.get());
                    return Ok(());
                }
                state.apply(request.index.get(), &Order { first, meant: vec![true; count], action });
            }
            VFIO_IRQ_SET_DATA_BOOL if fds.is_empty() => {
                let meant = data.get(..count).ok_or(Errno::INVALID)?.iter().map(|byte| *byte != 0).collect();
                state.apply(request.index.get(), &Order { first, meant, action });
            }
            VFIO_IRQ_SET_DATA_EVENTFD if action == VFIO_IRQ_SET_ACTION_TRIGGER => {
                let fds: Vec<Option<OwnedFd>> = match fds.len() {
                    0 => std::iter::repeat_with(|| None).take(count).collect(),
                    len if len == count => fds
                        .into_iter()
                        .map(|fd| adopt(fd).map(Some))
                        .collect::<Result<_, _>>()
                        .map_err(|_| Errno::INVALID)?,
                    _ => return Err(Errno::INVALID),
                };
                state.connect(request.index.get(), first, fds);
            }
            VFIO_IRQ_SET_DATA_EVENTFD => return Err(Errno::UNSUPPORTED),
            _ => return Err(Errno::INVALID),
        }
        Ok(())
    }

    /// The guest has switched MSI-X on or off.
    pub(super) fn enable_msix(&self, enabled: bool) {
        self.state().msix_enabled = enabled;
    }

    /// Reads the interrupt status, which clears it and lowers the line.
    pub(super) fn take_isr(&self) -> u8 {
        std::mem::take(&mut self.state().isr)
    }

    /// Whether the line has cause: the interrupt bit of the PCI status register.
    pub(super) fn line_is_raised(&self) -> bool {
        self.state().isr != 0
    }

    /// The pending bit array.
    pub(super) fn pending(&self) -> u64 {
        let bit = |(index, vector): (usize, &Vector)| u64::from(vector.pending) << index;
        self.state().vectors.iter().take(64).enumerate().map(bit).sum()
    }

    /// Vector of configuration changes.
    pub(super) fn config_vector(&self) -> u16 {
        self.state().config_vector
    }

    /// Chooses it; one that does not exist becomes [`NO_VECTOR`].
    pub(super) fn set_config_vector(&self, vector: u16) {
        let mut state = self.state();
        state.config_vector = state.existing(vector);
    }

    /// Vector of `queue`.
    pub(super) fn queue_vector(&self, queue: usize) -> u16 {
        self.state().queue_vectors.get(queue).copied().unwrap_or(NO_VECTOR)
    }

    /// Chooses it; one that does not exist becomes [`NO_VECTOR`].
    pub(super) fn set_queue_vector(&self, queue: usize, vector: u16) {
        let mut state = self.state();
        let vector = state.existing(vector);
        if let Some(slot) = state.queue_vectors.get_mut(queue) {
            *slot = vector;
        }
    }

    /// Tells the driver that configuration has changed.
    pub(super) fn signal_config(&self) {
        self.state().raise_config();
    }

    /// Whether a queue has contradicted itself since the last reset.
    pub(super) fn has_broken_queue(&self) -> bool {
        self.state().has_broken_queue
    }

    /// Forgets which vectors a driver chose; the client's descriptors stay.
    pub(super) fn reset(&self) {
        let mut state = self.state();
        state.config_vector = NO_VECTOR;
        state.queue_vectors.fill(NO_VECTOR);
    }

    /// Forgets what queues have said, once none runs any more.
    pub(super) fn forget_queues(&self) {
        let mut state = self.state();
        state.isr = 0;
        state.has_broken_queue = false;
        for vector in &mut state.vectors {
            vector.pending = false;
        }
    }
}

impl State {
    fn existing(&self, vector: u16) -> u16 {
        if usize::from(vector) < self.vectors.len() { vector } else { NO_VECTOR }
    }

    fn disconnect(&mut self, index: u32) {
        if index == INTX {
            self.line = Line::default();
        } else {
            for vector in &mut self.vectors {
                *vector = Vector::default();
            }
        }
    }

    fn connect(&mut self, index: u32, first: usize, fds: Vec<Option<OwnedFd>>) {
        if index == INTX {
            for fd in fds {
                self.line = Line { eventfd: fd, masked: false };
                self.settle_line();
            }
            return;
        }
        for (vector, fd) in self.vectors[first..].iter_mut().zip(fds) {
            vector.eventfd = fd;
            vector.settle();
        }
    }

    fn apply(&mut self, index: u32, order: &Order) {
        for (vector, _) in (order.first..).zip(&order.meant).filter(|(_, meant)| **meant) {
            match (index, order.action) {
                (INTX, VFIO_IRQ_SET_ACTION_TRIGGER) => {
                    if let Some(fd) = &self.line.eventfd {
                        fire(fd);
                    }
                }
                (INTX, action) => {
                    self.line.masked = action == VFIO_IRQ_SET_ACTION_MASK;
                    self.settle_line();
                }
                (_, VFIO_IRQ_SET_ACTION_TRIGGER) => self.vectors[vector].fire(),
                (_, action) => {
                    self.vectors[vector].masked = action == VFIO_IRQ_SET_ACTION_MASK;
                    self.vectors[vector].settle();
                }
            }
        }
    }
}

/// The interrupt of one queue, as a device sees it.
pub(super) struct QueueInterrupt {
    interrupts: Arc<Interrupts>,
    queue: usize,
}

impl QueueInterrupt {
    pub(super) fn new(interrupts: &Arc<Interrupts>, queue: usize) -> Self {
        Self { interrupts: Arc::clone(interrupts), queue }
    }
}

impl Interrupt for QueueInterrupt {
    fn signal(&self) {
        let mut state = self.interrupts.state();
        let vector = state.queue_vectors.get(self.queue).copied().unwrap_or(NO_VECTOR);
        state.raise(vector, ISR_QUEUE);
    }

    fn break_down(&self) {
        let mut state = self.interrupts.state();
        state.has_broken_queue = true;
        state.raise_config();
    }
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

    use super::*;

    fn fd(event: &EventFd) -> OwnedFd {
        use std::os::fd::{AsRawFd, BorrowedFd};
        // SAFETY: the event outlives the borrow, which ends in this function.
        unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }.try_clone_to_owned().unwrap()
    }

    fn request(index: u32, flags: u32, start: u32, count: u32) -> SetIrqs {
        SetIrqs { argsz: 20.into(), flags: flags.into(), index: index.into(), start: start.into(), count: count.into() }
    }

    const CONNECT: u32 = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;

    fn event() -> EventFd {
        EventFd::new(EFD_NONBLOCK).unwrap()
    }

    #[test]
    fn a_queue_fires_its_vector_and_waits_while_there_is_no_descriptor() {
        let interrupts = Interrupts::new(2);
        interrupts.enable_msix(true);
        interrupts.set_queue_vector(1, 2);
        let queue = QueueInterrupt::new(&interrupts, 1);
        queue.signal();
        assert_eq!(interrupts.pending(), 0b100);
        let event = event();
        interrupts.set(&request(MSIX, CONNECT, 2, 1), &[], vec![fd(&event)]).unwrap();
        assert_eq!(interrupts.pending(), 0);
        assert_eq!(event.read().unwrap(), 1, "what was pending is delivered");
        queue.signal();
        assert_eq!(event.read().unwrap(), 1);
        interrupts.set(&request(MSIX, CONNECT, 2, 1), &[], vec![]).unwrap();
        queue.signal();
        assert_eq!(interrupts.pending(), 0b100);
        assert_eq!(interrupts.take_isr(), 0, "the line is not used with MSI-X");
    }

    #[test]
    fn a_vector_that_does_not_exist_is_none() {
        let interrupts = Interrupts::new(1);
        interrupts.set_queue_vector(0, 2);
        interrupts.set_config_vector(7);
        assert_eq!((interrupts.queue_vector(0), interrupts.config_vector()), (NO_VECTOR, NO_VECTOR));
        interrupts.enable_msix(true);
        QueueInterrupt::new(&interrupts, 0).signal();
        assert_eq!(interrupts.pending(), 0);
    }

    #[test]
    fn the_line_is_a_level_that_masks_itself() {
        let interrupts = Interrupts::new(1);
        let event = event();
        interrupts.set(&request(INTX, CONNECT, 0, 1), &[], vec![fd(&event)]).unwrap();
        let queue = QueueInterrupt::new(&interrupts, 0);
        queue.signal();
        queue.signal();
        assert_eq!(event.read().unwrap(), 1, "masked after the first");
        let unmask = request(INTX, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK, 0, 1);
        interrupts.set(&unmask, &[], vec![]).unwrap();
        assert_eq!(event.read().unwrap(), 1, "its cause still stands");
        assert!(interrupts.line_is_raised());
        assert_eq!(interrupts.take_isr(), ISR_QUEUE);
        interrupts.set(&unmask, &[], vec![]).unwrap();
        assert!(event.read().is_err(), "no cause, no interrupt");
        interrupts.signal_config();
        assert_eq!((event.read().unwrap(), interrupts.take_isr()), (1, ISR_CONFIG));
    }

    #[test]
    fn masking_a_vector_holds_it_back() {
        let interrupts = Interrupts::new(1);
        let event = event();
        interrupts.set(&request(MSIX, CONNECT, 0, 1), &[], vec![fd(&event)]).unwrap();
        interrupts.set_config_vector(0);
        let order = |action| request(MSIX, VFIO_IRQ_SET_DATA_BOOL | action, 0, 2);
        interrupts.set(&order(VFIO_IRQ_SET_ACTION_MASK), &[1, 0], vec![]).unwrap();
        interrupts.signal_config();
        assert!(event.read().is_err());
        interrupts.set(&order(VFIO_IRQ_SET_ACTION_UNMASK), &[1, 0], vec![]).unwrap();
        assert_eq!(event.read().unwrap(), 1);
        interrupts.set(&order(VFIO_IRQ_SET_ACTION_TRIGGER), &[1, 0], vec![]).unwrap();
        assert_eq!(event.read().unwrap(), 1);
    }

    #[test]
    fn impossible_requests_change_nothing() {
        let interrupts = Interrupts::new(1);
        let trigger = VFIO_IRQ_SET_ACTION_TRIGGER;
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let cases = [
            (request(1, CONNECT, 0, 1), vec![]),
            (request(MSIX, CONNECT, 0, 3), vec![]),
            (request(MSIX, CONNECT, u32::MAX, 2), vec![]),
            (request(MSIX, CONNECT, 0, 2), vec![fd(&event())]),
            (request(MSIX, CONNECT, 0, 1), vec![null()]),
            (request(MSIX, trigger, 0, 1), vec![]),
            (request(MSIX, CONNECT | VFIO_IRQ_SET_ACTION_MASK, 0, 1), vec![]),
            (request(MSIX, VFIO_IRQ_SET_DATA_BOOL | trigger, 0, 2), vec![]),
            (request(MSIX, VFIO_IRQ_SET_DATA_NONE | trigger, 0, 1), vec![fd(&event())]),
            (request(INTX, VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_UNMASK, 0, 1), vec![fd(&event())]),
        ];
        for (request, fds) in cases {
            assert!(interrupts.set(&request, &[], fds).is_err(), "{request:?}");
        }
        assert!(!interrupts.state().uses_msix());
        assert_eq!(interrupts.info(KINDS), Err(Errno::INVALID));
        assert_eq!(interrupts.info(MSIX).unwrap().count.get(), 2);
    }
}
