//! A virtio-iommu that keeps a map of pages.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use super::backend::{Chain, Model};

/// One domain: page number to (page number, flags).
type Pages = BTreeMap<u64, (u64, u32)>;

#[derive(Debug, Default)]
pub(crate) struct FakeState {
    pub(crate) domains: BTreeMap<u32, Pages>,
    pub(crate) endpoints: BTreeMap<u32, u32>,
    /// Requests by type.
    pub(crate) requests: BTreeMap<u8, u64>,
    /// Pages of memory that were mapped, in the order of the requests.
    pub(crate) mapped: Vec<u64>,
    /// Reported at the next kick of the event queue, last one first.
    pub(crate) events: Vec<[u8; 24]>,
    pub(crate) bypass: u8,
    pub(crate) resets: u32,
}

#[derive(Debug)]
pub(crate) struct FakeIommu {
    pub(crate) offered: u64,
    state: Mutex<FakeState>,
}

impl FakeIommu {
    pub(crate) const PROBE_BYTES: usize = 64;
    pub(crate) const LAST_IOVA: u64 = (32 << 20) - 1;

    pub(crate) fn new() -> Self {
        // VERSION_1, EVENT_IDX, INDIRECT, BYPASS_CONFIG, PROBE, MAP_UNMAP, both ranges.
        let offered = 1 << 32 | 1 << 29 | 1 << 28 | 0b101_0111;
        Self { offered, state: Mutex::default() }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, FakeState> {
        self.state.lock().unwrap()
    }

    pub(crate) fn translate(&self, endpoint: u32, address: u64, write: bool) -> Option<u64> {
        let state = self.state();
        let pages = state.domains.get(state.endpoints.get(&endpoint)?)?;
        let (page, flags) = pages.get(&(address / 4096))?;
        let needed = if write { 2 } else { 1 };
        (flags & needed != 0).then_some(page * 4096 + address % 4096)
    }

    fn status(&self, request: &[u8]) -> Option<u8> {
        let u32_at = |at: usize| u32::from_le_bytes(request[at..at + 4].try_into().unwrap());
        let u64_at = |at: usize| u64::from_le_bytes(request[at..at + 8].try_into().unwrap());
        let mut state = self.state();
        *state.requests.entry(request[0]).or_default() += 1;
        let domain = u32_at(4);
        match (request[0], request.len()) {
            (1, 20) => {
                state.endpoints.insert(u32_at(8), domain);
                state.domains.entry(domain).or_default();
            }
            (2, 20) => {
                if state.endpoints.remove(&u32_at(8)).is_none() {
                    return Some(4);
                }
            }
            (3, 36) => {
                let (first, last, target) = (u64_at(8), u64_at(16), u64_at(24));
                state.mapped.push(target / 4096);
                let Some(pages) = state.domains.get_mut(&domain) else { return Some(6) };
                if first % 4096 != 0 || last % 4096 != 4095 || target % 4096 != 0 || last > Self::LAST_IOVA {
                    return Some(5);
                }
                let range = first / 4096..=last / 4096;
                if pages.range(range.clone()).next().is_some() {
                    return Some(4);
                }
                pages.extend(range.map(|page| (page, (page - first / 4096 + target / 4096, u32_at(32)))));
            }
            (4, 28) => {
                let (first, last) = (u64_at(8), u64_at(16));
                let Some(pages) = state.domains.get_mut(&domain) else { return Some(6) };
                pages.retain(|page, _| *page < first / 4096 || *page > last / 4096);
            }
            _ => return None,
        }
        Some(0)
    }
}

impl Model for FakeIommu {
    fn queues(&self) -> usize {
        2
    }

    fn features(&self) -> u64 {
        self.offered
    }

    fn config(&self) -> Vec<u8> {
        let mut config = Vec::new();
        config.extend(0x1000_u64.to_le_bytes());
        config.extend(0_u64.to_le_bytes());
        config.extend(Self::LAST_IOVA.to_le_bytes());
        config.extend(0_u32.to_le_bytes());
        config.extend(15_u32.to_le_bytes());
        config.extend(64_u32.to_le_bytes());
        config.extend([self.state().bypass, 0, 0, 0]);
        config
    }

    fn write_config(&self, offset: u32, bytes: &[u8]) {
        if offset == 36 {
            self.state().bypass = bytes[0];
        }
    }

    fn serve(&self, chain: Chain) -> Vec<(Chain, Vec<u8>)> {
        if chain.queue == 1 {
            let event = self.state().events.pop();
            // Without a fault the buffer is lost to this device, which never asks for it again.
            return event.map(|event| (chain, event.to_vec())).into_iter().collect();
        }
        if chain.readable.first() == Some(&5) {
            let mut reply = vec![1, 0, 20, 0, 1, 0, 0, 0];
            reply.extend(0x1f0_0000_u64.to_le_bytes());
            reply.extend(0x1ff_ffff_u64.to_le_bytes());
            reply.resize(Self::PROBE_BYTES + 4, 0);
            return vec![(chain, reply)];
        }
        let reply = self.status(&chain.readable).map_or_else(Vec::new, |status| vec![status, 0, 0, 0]);
        vec![(chain, reply)]
    }

    fn reset(&self) {
        let mut state = self.state();
        state.domains.clear();
        state.endpoints.clear();
        state.resets += 1;
    }
}
