//! The devices offer what the contract says.

use std::collections::BTreeSet;
use std::sync::Arc;

use calgaryd::device::PollPolicy;
use calgaryd::device::iommu::{Iommu, IommuDevice};
use calgaryd::device::share::{Attachment, ShareDevice};
use calgaryd::transport::Device;
use iommu_calgary::TableSize;
use virtio_9p::synthetic::{Directory, Synthetic};
use virtio_9p::{Options, Server};

use crate::driver::ENDPOINT;

const CONTRACT: &str = include_str!("../../../frontend-spec/SPEC.md");

/// The bits of one column of the table of features in which it says one of `offered`.
fn contract(column: usize, offered: &[&str]) -> BTreeSet<u32> {
    let rows = CONTRACT.lines().skip_while(|line| !line.starts_with("| bit | name | virtio-iommu |")).skip(2);
    rows.take_while(|line| line.starts_with('|'))
        .filter_map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            offered.contains(&cells[column]).then(|| cells[1].parse().unwrap())
        })
        .collect()
}

fn offered(device: &dyn Device) -> BTreeSet<u32> {
    (0..64).filter(|bit| device.features() >> bit & 1 == 1).collect()
}

#[test]
fn the_iommu_offers_what_the_contract_says() {
    let iommu = Arc::new(Iommu::new(TableSize::MiB32, false).unwrap());
    assert_eq!(offered(&IommuDevice::new(iommu, PollPolicy::Off)), contract(3, &["yes"]));
}

#[test]
fn shares_offer_what_the_contract_says() {
    let share = |attachment| {
        let server = Server::new(Synthetic::new(Directory::new()), Options::default());
        ShareDevice::new(&"home".parse().unwrap(), server, 65536, attachment, PollPolicy::Off).unwrap()
    };
    let iommu = Arc::new(Iommu::new(TableSize::MiB32, false).unwrap());
    let phb = iommu.add_endpoint(ENDPOINT).unwrap();
    let behind = Attachment::Behind { iommu, endpoint: ENDPOINT, phb };
    assert_eq!(offered(&share(Attachment::Direct)), contract(4, &["yes", "unless translated"]));
    assert_eq!(offered(&share(behind)), contract(4, &["yes", "if translated"]));
}
