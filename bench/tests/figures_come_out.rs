//! The command, without peers: every server of this project's own does every kind of work, and the results are whole.

use std::process::Command;

use serde_json::Value;

/// Runs the command; `None` where client and server cannot have a processor each.
fn run(args: &[&str]) -> Option<Value> {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        eprintln!("skipped: one processor");
        return None;
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_calgary-bench"));
    let output = command.args(args).args(["--quick", "--rounds", "1", "--no-peers", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

fn peers(report: &Value) -> Vec<&str> {
    report["peers"].as_array().unwrap().iter().map(|peer| peer.as_str().unwrap()).collect()
}

#[test]
fn a_comparison_has_every_point_and_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page");
    let Some(report) = run(&["compare", "--report", page.to_str().unwrap()]) else { return };
    let points = report["iommu"]["points"].as_array().unwrap();
    assert_eq!(points.len(), 4);
    assert!(points.iter().all(|point| point["wall"]["median"].as_f64().unwrap() > 0.0));
    let expected = [
        "calgaryd",
        "calgaryd kept",
        "calgaryd strict, data",
        "calgaryd strict, one kick",
        "calgaryd strict",
        "our core",
        "system calls",
    ];
    assert_eq!(peers(&report["files"]), expected);
    for part in ["iommu", "files"] {
        let idle = report[part]["idle"].as_array().unwrap();
        assert!(idle.iter().any(|one| one["peer"] == "calgaryd" && one["share"].as_f64().is_some()), "{part}");
    }
    let points = report["files"]["points"].as_array().unwrap();
    assert!(points.iter().all(|point| point["cpu"]["median"].as_f64().is_some()));
    let of_strict = points.iter().filter(|point| point["peer"] == "calgaryd strict").count();
    assert_eq!(of_strict, 12, "one for each row");
    let html = std::fs::read_to_string(page.join("index.html")).unwrap();
    assert!(html.contains("<svg") && html.contains("getattr"));
    assert!(page.join("plot-01.svg").exists() && page.join("report.json").exists());
}

#[test]
fn the_price_of_safety_has_all_modes() {
    let Some(report) = run(&["price-of-safety"]) else { return };
    let peers = peers(&report);
    for way in ["", " passthrough", " kept", " lazy", " strict, data", " strict, one kick"] {
        let way = &*format!("calgaryd{way}");
        assert!(peers.contains(&way), "{peers:?}");
    }
    for mechanism in ["polling", "batching", "coalescing", "zero copy"] {
        assert!(peers.iter().any(|peer| peer.ends_with(&format!("no {mechanism}"))), "{peers:?}");
    }
    let points = report["points"].as_array().unwrap();
    assert_eq!(points.len(), 12 * peers.len(), "each way has each row");
}

#[test]
fn a_daemon_that_does_not_start_is_quoted() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_calgary-bench"));
    let output = command.args(["iommu", "--quick", "--no-peers", "--daemon-arg=--no-such-thing"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("--no-such-thing") || said.contains("a processor each"), "{said}");
}

#[test]
fn a_cache_that_cannot_be_had_costs_the_peers_only() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_calgary-bench"));
    let output =
        command.args(["iommu", "--quick", "--rounds", "1"]).env("CALGARY_CACHE", "/dev/null/no").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("every peer is left out") || said.contains("a processor each"), "{said}");
    if !said.contains("a processor each") {
        assert!(output.status.success(), "{said}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("per kick"));
    }
}

#[test]
fn tables_come_in_markdown() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_calgary-bench"));
    let output = command.args(["iommu", "--quick", "--rounds", "1", "--no-peers", "--markdown"]).output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() || shown.contains("| 128 | 65536 |"), "{shown}");
}
