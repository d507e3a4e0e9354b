//! Devices at work while translations come and go: nobody ever reaches a page that the guest has taken back.
//!
//! The guest notes for each real page which IOVA it lends it to. It takes a page back only after the commit. So a device
//! that reaches a page must find it lent to the very IOVA that led there, for as long as its epoch or pin lasts.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use iommu_calgary::{
    Access, Calgary, DomainId, DomainKind, EndpointId, Fences, Iova, Limits, PAGE_SIZE, Permissions, Phb, RealAddr,
    TableSize,
};

use crate::rig::{D1, NIC, PATIENT, Rig};

const ENDPOINTS: u32 = 2;
const WORKERS_PER_ENDPOINT: u64 = 2;
const IOVA_PAGES: u64 = 16;
const REAL_PAGES: u64 = 64;
const ROUNDS: u64 = 10_000;
const MOST_ROUNDS: u64 = 10_000_000;

/// For each real page the domain and IOVA that it is lent to, or [`TAKEN_BACK`].
struct Ownership(Vec<AtomicU64>);

const TAKEN_BACK: u64 = u64::MAX;

impl Ownership {
    fn loan(domain: DomainId, iova: Iova) -> u64 {
        (u64::from(domain.0) << 32) | (iova.0 / PAGE_SIZE)
    }

    fn of(&self, real: RealAddr) -> &AtomicU64 {
        &self.0[usize::try_from(real.0 / PAGE_SIZE).unwrap()]
    }

    /// The endpoint of a device may be in the domain of its own number or in the shared one.
    fn check(&self, endpoint: EndpointId, iova: Iova, real: RealAddr) {
        let owner = self.of(real).load(Ordering::Relaxed);
        let expected = [DomainId(endpoint.0), SHARED].map(|domain| Self::loan(domain, iova));
        assert!(expected.contains(&owner), "{iova} of {endpoint} reached {real}, lent to {owner:#x}");
    }
}

const SHARED: DomainId = DomainId(100);

/// A small generator, so that a run can be repeated.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// Counts in `reached` how often it found a mapping.
fn device(phb: &std::sync::Arc<Phb>, pages: &Ownership, stop: &AtomicBool, reached: &AtomicU64, seed: u64) {
    let mut dice = Dice(seed);
    let mut port = phb.new_port();
    let pins = phb.new_pins();
    while !stop.load(Ordering::Relaxed) {
        let iova = Iova(dice.roll(IOVA_PAGES) * PAGE_SIZE);
        let epoch = port.enter();
        let Ok(run) = epoch.translate(iova, 3 * PAGE_SIZE, Access::Read) else {
            continue;
        };
        for offset in (0..run.len).step_by(4096) {
            pages.check(phb.endpoint(), Iova(iova.0 + offset), RealAddr(run.real.0 + offset));
        }
        reached.fetch_add(1, Ordering::Relaxed);
        if dice.roll(8) == 0 {
            epoch.pin(&pins, iova, run.len);
            drop(epoch);
            if dice.roll(4) == 0 {
                thread::yield_now();
            }
            for offset in (0..run.len).step_by(4096) {
                pages.check(phb.endpoint(), Iova(iova.0 + offset), RealAddr(run.real.0 + offset));
            }
            pins.release();
        } else {
            // Far longer than a device should stay, so that a commit which does not wait gets ahead.
            if dice.roll(16) == 0 {
                thread::yield_now();
            }
            for offset in (0..run.len).step_by(4096) {
                pages.check(phb.endpoint(), Iova(iova.0 + offset), RealAddr(run.real.0 + offset));
            }
        }
    }
}

/// The driver's side: what it has mapped, by domain and IOVA page, and which real pages are free.
struct Guest<'a> {
    iommu: Calgary,
    pages: &'a Ownership,
    mapped: Vec<(DomainId, u64, u64)>,
    free: Vec<u64>,
    dice: Dice,
}

impl Guest<'_> {
    fn domain_of(&self, endpoint: u32) -> Option<DomainId> {
        self.iommu.endpoint_domain(EndpointId(endpoint))
    }

    fn map(&mut self, domain: DomainId) {
        let iova_page = self.dice.roll(IOVA_PAGES);
        let Some(real_page) = self.free.pop() else {
            return;
        };
        let (iova, real) = (Iova(iova_page * PAGE_SIZE), RealAddr(real_page * PAGE_SIZE));
        self.pages.of(real).store(Ownership::loan(domain, iova), Ordering::Relaxed);
        let last = Iova(iova.0 + PAGE_SIZE - 1);
        if self.iommu.map(domain, iova, last, real, Permissions::READ).is_ok() {
            self.mapped.push((domain, iova_page, real_page));
            assert_eq!(self.iommu.commit(PATIENT).broken, []);
        } else {
            self.pages.of(real).store(TAKEN_BACK, Ordering::Relaxed);
            self.free.push(real_page);
        }
    }

    /// Unmaps what `choose` selects, or lets it vanish with its domain; takes the pages back after the commit.
    fn take_back(&mut self, choose: impl Fn(&(DomainId, u64, u64)) -> bool) {
        let mut taken = Vec::new();
        self.mapped.retain(|mapping| {
            let chosen = choose(mapping);
            if chosen {
                taken.push(*mapping);
            }
            !chosen
        });
        for (domain, iova_page, _) in &taken {
            let first = Iova(iova_page * PAGE_SIZE);
            // The domain may have died with its last endpoint.
            let _ = self.iommu.unmap(*domain, first, Iova(first.0 + PAGE_SIZE - 1));
        }
        assert_eq!(self.iommu.commit(PATIENT).broken, []);
        for (_, _, real_page) in taken {
            self.pages.of(RealAddr(real_page * PAGE_SIZE)).store(TAKEN_BACK, Ordering::Relaxed);
            self.free.insert(0, real_page);
        }
    }

    fn attach(&mut self, endpoint: u32, domain: DomainId) {
        self.iommu.attach(domain, EndpointId(endpoint), DomainKind::Translated).unwrap();
        let alive: Vec<DomainId> = self.iommu.domains().collect();
        self.take_back(|(domain, _, _)| !alive.contains(domain));
    }

    fn round(&mut self) {
        let endpoint = u32::try_from(self.dice.roll(u64::from(ENDPOINTS))).unwrap();
        match self.dice.roll(64) {
            0 => {
                let domain = if self.dice.roll(2) == 0 { SHARED } else { DomainId(endpoint) };
                self.attach(endpoint, domain);
            }
            1..40 => {
                if let Some(domain) = self.domain_of(endpoint) {
                    self.map(domain);
                }
            }
            _ => {
                let victim = self.dice.roll(IOVA_PAGES);
                self.take_back(|(_, iova_page, _)| *iova_page == victim);
            }
        }
    }
}

#[test]
fn no_device_reaches_a_page_that_was_taken_back() {
    lend_and_take_back(Fences::Symmetric);
}

/// Where the kernel refuses `membarrier`, this is the test above once more.
#[test]
fn no_device_reaches_a_page_that_was_taken_back_with_asymmetric_fences() {
    lend_and_take_back(Fences::Asymmetric);
}

fn lend_and_take_back(fences: Fences) {
    let pages = Ownership((0..REAL_PAGES).map(|_| AtomicU64::new(TAKEN_BACK)).collect());
    let mut iommu = Calgary::new(TableSize::MiB32, Limits { fences, ..Limits::default() }).unwrap();
    let phbs: Vec<_> = (0..ENDPOINTS).map(|id| iommu.add_endpoint(EndpointId(id)).unwrap()).collect();
    let mut guest =
        Guest { iommu, pages: &pages, mapped: Vec::new(), free: (0..REAL_PAGES).collect(), dice: Dice(0x9e37_79b9) };
    for endpoint in 0..ENDPOINTS {
        guest.attach(endpoint, SHARED);
    }
    let (stop, reached) = (AtomicBool::new(false), AtomicU64::new(0));
    let workers = u64::from(ENDPOINTS) * WORKERS_PER_ENDPOINT;
    let start = Barrier::new(usize::try_from(workers).unwrap() + 1);
    thread::scope(|scope| {
        let (pages, stop, start, reached) = (&pages, &stop, &start, &reached);
        let devices: Vec<_> = (0..workers)
            .map(|worker| {
                let phb = &phbs[usize::try_from(worker % u64::from(ENDPOINTS)).unwrap()];
                scope.spawn(move || {
                    start.wait();
                    device(phb, pages, stop, reached, worker + 1);
                })
            })
            .collect();
        start.wait();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..MOST_ROUNDS {
                guest.round();
                if round >= ROUNDS {
                    // On a machine that is busy elsewhere the devices may not have run yet.
                    if reached.load(Ordering::Relaxed) > 0 {
                        break;
                    }
                    thread::yield_now();
                }
            }
        }));
        stop.store(true, Ordering::Relaxed);
        for device in devices {
            device.join().unwrap();
        }
        outcome.unwrap();
    });
    assert!(reached.into_inner() > 0, "the devices never found a mapping");
}

fn spin(times: u32) {
    for _ in 0..times {
        std::hint::spin_loop();
    }
}

/// As above, boiled down to one page and very short epochs, so that entering and unmapping collide often.
#[test]
fn entering_and_unmapping_at_the_same_moment_never_both_win() {
    collide(Fences::Symmetric, 100_000);
}

#[test]
fn entering_and_unmapping_at_the_same_moment_never_both_win_with_asymmetric_fences() {
    collide(Fences::Asymmetric, 50_000);
}

fn collide(fences: Fences, rounds: u64) {
    let mut rig = Rig::with(TableSize::MiB32, Limits { fences, ..Limits::default() });
    rig.iommu.attach(D1, NIC, DomainKind::Translated).unwrap();
    rig.commit();
    let met = AtomicU64::new(0);
    let (lent, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let device = scope.spawn(|| {
            let mut port = rig.nic.new_port();
            while !stop.load(Ordering::Relaxed) {
                let epoch = port.enter();
                if epoch.translate(Iova(0), 1, Access::Read).is_ok() {
                    met.fetch_add(1, Ordering::Relaxed);
                    for _ in 0..100 {
                        assert!(lent.load(Ordering::Relaxed));
                    }
                }
            }
        });
        for round in 0..MOST_ROUNDS {
            if round >= rounds {
                if met.load(Ordering::Relaxed) > 0 {
                    break;
                }
                thread::yield_now();
            }
            lent.store(true, Ordering::Relaxed);
            rig.iommu.map(D1, Iova(0), Iova(0xfff), RealAddr(0x1000), Permissions::READ).unwrap();
            rig.iommu.commit(PATIENT);
            spin(u32::try_from(round % 97).unwrap());
            rig.iommu.unmap(D1, Iova(0), Iova(0xfff)).unwrap();
            rig.iommu.commit(PATIENT);
            lent.store(false, Ordering::Relaxed);
            // Long enough for the device to see it before the next round lends the page again.
            spin(60);
            if device.is_finished() {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(met.into_inner() > 0, "the device never found the page");
}
