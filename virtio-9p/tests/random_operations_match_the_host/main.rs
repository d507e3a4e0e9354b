//! A random sequence of operations has the same results and leaves the same tree, whether it goes through the server or
//! straight to the host's file system.
//!
//! `P9_SEQUENCES` is the number of sequences (200 if it is not set), `P9_SEED` the seed (0), so that a long run can be cut into
//! several with seeds of their own. The long run:
//!
//! ```text
//! P9_SEQUENCES=10000 cargo test --release -p virtio-9p --test random_operations_match_the_host
//! ```
//!
//! `TMPDIR` chooses the file system.

#[path = "../client/mod.rs"]
mod client;

mod found;
mod operation;
mod served;
mod straight;
mod tree;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::str::FromStr;

use client::connect_with;
use operation::{KINDS, Kind, Op, op};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use straight::Straight;
use virtio_9p::{Options, PassthroughOptions};

fn setting<T: FromStr>(name: &str, otherwise: T) -> T {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

/// Runs one sequence on both sides and counts what went well.
fn compare(ops: &[Op], successes: &RefCell<BTreeMap<Kind, u32>>) -> Result<(), TestCaseError> {
    let (served, direct) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut options = PassthroughOptions::default();
    if ops.len().is_multiple_of(2) {
        // Hardly any: files are closed and opened again all the time.
        options.max_descriptors = 8;
    }
    let client = connect_with(served.path(), Options::default(), options);
    let mut host = Straight::new(direct.path());
    for op in ops {
        let ours = served::serve(&client, served.path(), op);
        let theirs = host.perform(op);
        if ours.is_ok() {
            *successes.borrow_mut().entry(op.kind).or_default() += 1;
        }
        prop_assert_eq!(ours, theirs, "{:?}", op);
        prop_assert_eq!(client.server.fid_count(), 1 + host.slots_in_use(), "{:?}", op);
    }
    prop_assert_eq!(tree::snapshot(served.path()), tree::snapshot(direct.path()));
    Ok(())
}

#[test]
fn results_and_trees_are_the_same() {
    assert!(KINDS.len() >= 50);
    rustix::process::umask(rustix::fs::Mode::empty());
    let sequences = setting("P9_SEQUENCES", 200);
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&setting("P9_SEED", 0_u64).to_le_bytes());
    let config = Config { failure_persistence: None, max_shrink_iters: 20_000, ..Config::with_cases(sequences) };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
    let successes = RefCell::default();
    runner
        .run(&proptest::collection::vec(op(), 1..200), |ops| compare(&ops, &successes))
        .unwrap_or_else(|failure| panic!("{failure}"));
    let successes = successes.into_inner();
    for (_, kind) in KINDS {
        let count = successes.get(kind).copied().unwrap_or(0);
        eprintln!("{kind:?}: {count} succeeded");
        // Only root makes devices and gives files away.
        let privileged = matches!(kind, Kind::MknodDevice | Kind::CreateForGroup | Kind::MkdirForGroup);
        assert!(sequences < 2000 || count > 0 || privileged && !client::is_root(), "{kind:?} never succeeds");
    }
}
