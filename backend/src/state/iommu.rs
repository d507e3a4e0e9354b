//! `iommu`: counters, faults, endpoints.

use std::sync::Arc;

use frontend_spec::pci::Bdf;
use iommu_calgary::EndpointId;
use virtio_9p::synthetic::{Directory, File};

use super::domains;
use super::text::Text;
use crate::device::iommu::Iommu;

pub(super) fn directory(iommu: &Arc<Iommu>) -> Directory {
    let file = |read: fn(&Iommu) -> Vec<u8>| {
        let iommu = iommu.clone();
        File::of(move || read(&iommu))
    };
    Directory::new()
        .with("stats", file(stats))
        .with("faults", file(faults))
        .with("domains", domains::directory(iommu))
        .with("endpoints", endpoints(iommu))
}

/// An endpoint's PCI address, or its number if it is none.
pub(super) fn endpoint_name(id: u32) -> String {
    u16::try_from(id).map_or_else(|_| format!("{id:#x}"), |number| Bdf::from_u16(number).to_string())
}

fn stats(iommu: &Iommu) -> Vec<u8> {
    let now = iommu.stats().snapshot();
    let mut text = Text::default();
    for (name, value) in [
        ("attaches", now.attaches),
        ("detaches", now.detaches),
        ("maps", now.maps),
        ("unmaps", now.unmaps),
        ("probes", now.probes),
        ("ok", now.ok),
        ("refused", now.refused),
        ("malformed", now.malformed),
        ("kicks", now.kicks),
        ("interrupts", now.interrupts),
        ("ring-errors", now.ring_errors),
        ("waits", now.waits),
        ("longest-wait-ns", now.longest_wait_ns),
        ("broken", now.broken),
        ("live-mappings", iommu.live_mappings()),
        ("window-bytes", iommu.window()),
        ("batches", now.batches),
        ("largest-batch", now.largest_batch),
    ] {
        text.counter(name, value);
    }
    for (class, count) in now.batch_sizes.into_iter().enumerate() {
        text.line(format_args!("batches-of-{}-and-more {count}", 1_u64 << class));
    }
    text.finish()
}

fn faults(iommu: &Iommu) -> Vec<u8> {
    let mut text = Text::default();
    for (reason, count) in iommu.faults().by_reason() {
        text.counter(&reason.to_lowercase().replace(' ', "-"), count);
    }
    text.counter("not-told", iommu.faults().dropped());
    text.finish()
}

/// A file for each endpoint; their number is small and fixed once the daemon serves.
fn endpoints(iommu: &Arc<Iommu>) -> Directory {
    let (listed, found) = (iommu.clone(), iommu.clone());
    Directory::new().listing(
        move || listed.inspect(|calgary| calgary.endpoints().map(|endpoint| endpoint_name(endpoint.0)).collect()),
        move |name| {
            let named = |endpoint: &EndpointId| endpoint_name(endpoint.0) == name;
            let endpoint = found.inspect(|calgary| calgary.endpoints().find(named))?;
            let iommu = found.clone();
            Some(File::of(move || endpoint_text(&iommu, endpoint)).into())
        },
    )
}

fn endpoint_text(iommu: &Iommu, endpoint: EndpointId) -> Vec<u8> {
    let (domain, broken) = iommu.inspect(|calgary| (calgary.endpoint_domain(endpoint), calgary.is_broken(endpoint)));
    let mut text = Text::default();
    match domain {
        Some(domain) => text.line(format_args!("domain {}", domain.0)),
        None => text.line(format_args!("domain none")),
    }
    text.line(format_args!("broken {}", if broken { "yes" } else { "no" }));
    text.finish()
}
