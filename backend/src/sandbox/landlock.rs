//! Landlock: which files the process may open and change, and which ports it may bind.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus,
};

use super::paths::Paths;

/// The newest rights that are handled; an older kernel handles what it knows.
const RIGHTS: ABI = ABI::V5;

/// How much of it this kernel enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Enforced {
    Fully,
    Partially,
    Not,
}

/// Confines the calling thread and those that it starts.
pub(super) fn enter(paths: &Paths) -> Result<Enforced, String> {
    let status = rules(paths).and_then(|rules| rules.restrict_self().map_err(|cause| cause.to_string()))?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Enforced::Fully,
        RulesetStatus::PartiallyEnforced => Enforced::Partially,
        RulesetStatus::NotEnforced => Enforced::Not,
    })
}

fn rules(paths: &Paths) -> Result<RulesetCreated, String> {
    let all = AccessFs::from_all(RIGHTS);
    let text = |cause: landlock::RulesetError| cause.to_string();
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)
        .and_then(|rules| rules.handle_access(AccessNet::from_all(RIGHTS)))
        .and_then(Ruleset::create)
        .map_err(text)?;
    for (folder, writable) in &paths.folders {
        rules = allow(rules, folder, if *writable { all } else { AccessFs::from_read(RIGHTS) })?;
    }
    for folder in &paths.sockets {
        rules = allow(rules, folder, AccessFs::MakeSock | AccessFs::RemoveFile)?;
    }
    // Open files are reached again through /proc/self/fd; that the target may be opened is another rule's matter.
    rules = allow(rules, Path::new("/proc"), AccessFs::ReadFile | AccessFs::ReadDir)?;
    for path in &paths.system {
        rules = allow(rules, path, AccessFs::ReadFile | AccessFs::ReadDir)?;
    }
    for port in &paths.ports {
        rules = rules.add_rule(NetPort::new(*port, AccessNet::BindTcp)).map_err(text)?;
    }
    Ok(rules)
}

/// Allows `access` below `path`. What is not there needs no rule; whoever needs it will say so.
fn allow(rules: RulesetCreated, path: &Path, access: BitFlags<AccessFs>) -> Result<RulesetCreated, String> {
    match PathFd::new(path) {
        Ok(folder) => rules.add_rule(PathBeneath::new(folder, access)).map_err(|cause| cause.to_string()),
        Err(_) => Ok(rules),
    }
}
