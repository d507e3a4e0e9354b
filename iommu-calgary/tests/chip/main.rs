//! The PHB driver on the chip model.

#[path = "../machine/mod.rs"]
mod machine;

mod random;
mod scenarios;
mod watchdog;
mod watched;

use iommu_calgary::chip::model::Model;
use iommu_calgary::{DomainId, DomainKind, EndpointId, Request};

use machine::Machine;

/// No rule was broken that keeps devices apart; the report names what was.
fn assert_clean(machine: &mut Machine<Model>) {
    let shown: Vec<_> = machine.model().unsafe_violations().map(ToString::to_string).collect();
    assert!(shown.is_empty(), "{} violations:\n{}", shown.len(), shown[..shown.len().min(10)].join("\n"));
}

fn bypass(phb: u32, domain: u32) -> Request {
    Request::Attach { domain: DomainId(domain), endpoint: EndpointId(phb), kind: DomainKind::Bypass }
}
