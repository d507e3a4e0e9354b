//! `iommu/domains/N`.

use std::fmt::Write;
use std::sync::Arc;

use iommu_calgary::{DomainId, DomainKind, inspect};
use virtio_9p::synthetic::{Directory, File};

use super::iommu::endpoint_name;
use super::mappings;
use super::text::{MAX_LINES, Text};
use crate::device::iommu::Iommu;

/// The domains that exist when somebody looks.
pub(super) fn directory(iommu: &Arc<Iommu>) -> Directory {
    let (listed, found) = (iommu.clone(), iommu.clone());
    Directory::new().listing(
        move || listed.inspect(|calgary| calgary.domains().map(|domain| domain.0.to_string()).collect()),
        move |name| {
            let domain = DomainId(name.parse().ok().filter(|number: &u32| number.to_string() == name)?);
            let exists = found.inspect(|calgary| calgary.domain_kind(domain).is_some());
            exists.then(|| domain_directory(&found, domain).into())
        },
    )
}

fn domain_directory(iommu: &Arc<Iommu>, domain: DomainId) -> Directory {
    let file = |read: fn(&Iommu, DomainId) -> Vec<u8>| {
        let iommu = iommu.clone();
        File::of(move || read(&iommu, domain))
    };
    Directory::new().with("mappings", file(mappings::text)).with("table", file(table)).with("stats", file(stats))
}

/// The table as the chip sees it, as `calgaryd tce dump` shows it. It is read while it may change: each entry is one that
/// was there at some time.
fn table(iommu: &Iommu, domain: DomainId) -> Vec<u8> {
    let table = iommu.inspect(|calgary| calgary.domain(domain).map(|space| space.table().clone()));
    let Some(table) = table else { return Vec::new() };
    match inspect::read_image(&*table).and_then(|image| inspect::dump(&image)) {
        Ok(mut dump) => {
            let more = dump.ranges.len().saturating_sub(MAX_LINES);
            dump.ranges.truncate(MAX_LINES);
            let mut text = format!("{dump}\n");
            if more > 0 {
                // A string takes whatever is written to it.
                let _ = writeln!(text, "and {more} more ranges");
            }
            text.into_bytes()
        }
        Err(cause) => format!("{cause}\n").into_bytes(),
    }
}

fn stats(iommu: &Iommu, domain: DomainId) -> Vec<u8> {
    let looked = iommu.inspect(|calgary| {
        let kind = calgary.domain_kind(domain)?;
        let attached = calgary.endpoints().filter(|endpoint| calgary.endpoint_domain(*endpoint) == Some(domain));
        let endpoints: Vec<String> = attached.map(|endpoint| endpoint_name(endpoint.0)).collect();
        Some((kind, calgary.live_mappings_of(domain), endpoints))
    });
    let Some((kind, live, endpoints)) = looked else { return Vec::new() };
    let mut text = Text::default();
    let kind = match kind {
        DomainKind::Translated => "translated",
        DomainKind::Bypass => "bypass",
    };
    text.line(format_args!("kind {kind}"));
    text.line(format_args!("endpoints {}", endpoints.join(" ")));
    text.counter("mappings", live);
    text.counter("pages", mappings::pages(iommu, domain));
    text.finish()
}
