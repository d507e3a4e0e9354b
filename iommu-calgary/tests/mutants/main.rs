//! Drivers with one fault each, on the adversarial model: every fault has to show as the rule that it breaks.
//!
//! Not a harness of tests but a program, so that its last line is the verdict. The faults are put between the driver and the hardware, so the driver itself is the one that is shipped. Each runs the
//! same day's work of two PHBs; without a fault that work breaks no rule.

#[path = "../machine/mod.rs"]
mod machine;

mod faulty;
mod work;

use std::process::ExitCode;

use iommu_calgary::chip::model::Rule;
use iommu_calgary::registers::Variant::{self, CalIoc2, Calgary};

use faulty::Fault;
use work::violations_of;

/// The fault, the chip, the rule that has to report it.
const MUTANTS: &[(Fault, Variant, Rule)] = &[
    (Fault::NoFlushOfMaps, Calgary, Rule::V3),
    (Fault::NoFlushOfUnmaps, Calgary, Rule::V3),
    (Fault::EverySecondFlushOnly, CalIoc2, Rule::V3),
    (Fault::NoInvalidation, Calgary, Rule::V1),
    (Fault::NoInvalidation, CalIoc2, Rule::V1),
    (Fault::InvalidationBeforeTheStores, Calgary, Rule::V1),
    (Fault::AcknowledgedBeforeTheWork, Calgary, Rule::V1),
    (Fault::ReuseBeforeInvalidation, Calgary, Rule::V2),
    (Fault::ReuseBeforeInvalidation, CalIoc2, Rule::V2),
    (Fault::PermissionsWidenedWithoutInvalidation, Calgary, Rule::V12),
    (Fault::SwappedEntry, Calgary, Rule::V4),
    (Fault::SwappedTar, Calgary, Rule::V5),
    (Fault::WrongSizeCode, CalIoc2, Rule::V5),
    (Fault::TornTar, Calgary, Rule::V5),
    (Fault::EnabledBeforeTheTable, Calgary, Rule::V5),
    (Fault::MisalignedTable, Calgary, Rule::V6),
    (Fault::ArbitrationLeftOn, Calgary, Rule::V7),
    (Fault::SplitsNotAwaited, Calgary, Rule::V7),
    (Fault::SoftStopSkipped, CalIoc2, Rule::V7),
    (Fault::SoftStopFaultIgnored, CalIoc2, Rule::V7),
    (Fault::HardStopNotEntered, CalIoc2, Rule::V7),
    (Fault::PollLimitIgnored, Calgary, Rule::V8),
    (Fault::PollLimitIgnored, CalIoc2, Rule::V8),
    (Fault::ArbitrationNotRestored, Calgary, Rule::V9),
    (Fault::SoftStopNotLeft, CalIoc2, Rule::V9),
    (Fault::EnableNotReadBack, Calgary, Rule::V10),
    (Fault::RestoreNotReadBack, Calgary, Rule::V10),
    (Fault::RestoreNotReadBack, CalIoc2, Rule::V10),
    (Fault::WindowOverlooked, Calgary, Rule::V11),
    (Fault::ReservedEntryBit, Calgary, Rule::V13),
    (Fault::ValidBitOfTar, Calgary, Rule::V13),
    (Fault::EntryBeyondMemory, Calgary, Rule::V13),
    (Fault::TableOfAnotherDomain, Calgary, Rule::V14),
    (Fault::EachLineFlushedTwice, Calgary, Rule::V15),
    (Fault::EachInvalidationTwice, CalIoc2, Rule::V15),
    (Fault::NeverEnabled, Calgary, Rule::Escape),
];

fn main() -> ExitCode {
    for variant in [Calgary, CalIoc2] {
        let violations = violations_of(None, variant);
        let shown: Vec<_> = violations.iter().map(ToString::to_string).collect();
        assert!(shown.is_empty(), "without a fault, {variant} reports:\n{}", shown.join("\n"));
    }
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let found: Vec<_> = MUTANTS.iter().map(|&(fault, variant, _)| violations_of(Some(fault), variant)).collect();
    std::panic::set_hook(hook);

    let mut killed = 0;
    for ((fault, variant, rule), violations) in MUTANTS.iter().zip(found) {
        let first = violations.iter().find(|violation| violation.rule == *rule);
        match first {
            Some(violation) => println!("killed   {fault:?} on {variant}: {violation}"),
            None => {
                let mut others: Vec<_> = violations.iter().map(|violation| violation.rule).collect();
                others.sort_unstable();
                others.dedup();
                println!("SURVIVED {fault:?} on {variant}: {rule:?} expected, {others:?} reported");
            }
        }
        killed += usize::from(first.is_some());
    }
    println!("mutants killed: {killed} of {}", MUTANTS.len());
    if killed == MUTANTS.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
