//! Capabilities: those of a file server run by root, and no others.

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};
use virtio_9p::Security;

use crate::config::{Content, ServeConfig, ShareConfig};

/// What passing files of any owner through takes.
const FILES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETFCAP);
/// What acting as a guest's users takes.
const USERS: CapabilitySet = CapabilitySet::SETUID.union(CapabilitySet::SETGID);

/// Cuts all sets of the calling thread, and of those that it starts, to what `config` needs.
pub(super) fn cut(config: &ServeConfig) -> Result<(), Errno> {
    let kept = needed(config);
    let has = capabilities(None)?;
    for capability in (has.permitted - kept).iter() {
        // A process without CAP_SETPCAP has nobody to pass them to: it cannot gain them by no_new_privs.
        match remove_capability_from_bounding_set(capability) {
            Ok(()) | Err(Errno::PERM | Errno::INVAL) => {}
            Err(cause) => return Err(cause),
        }
    }
    let permitted = has.permitted & kept;
    let cut = CapabilitySets { effective: has.effective & permitted, permitted, inheritable: CapabilitySet::empty() };
    set_capabilities(None, cut)?;
    set_no_new_privs(true)
}

fn needed(config: &ServeConfig) -> CapabilitySet {
    let any = |wish: &dyn Fn(&ShareConfig) -> bool| config.shares.iter().any(wish);
    let mut needed = FILES;
    if any(&|share| share.identity.per_user) {
        needed |= USERS;
    }
    // With the other security models special files are made as the server's own, or not at all.
    let passes_nodes = |share: &ShareConfig| share.identity.security != Security::MappedXattr && !share.readonly;
    if any(&|share| matches!(share.content, Content::Folder(_)) && passes_nodes(share)) {
        needed |= CapabilitySet::MKNOD;
    }
    if any(&|share| !share.listen.is_empty()) {
        needed |= CapabilitySet::NET_BIND_SERVICE;
    }
    needed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_unit_leaves_what_the_daemon_keeps() {
        let unit = include_str!("../../../packaging/calgaryd@.service");
        let names = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
        let named = |name: &str| CapabilitySet::from_name(name.strip_prefix("CAP_")?);
        let left: CapabilitySet = names.split(' ').map(|name| named(name).unwrap()).collect();
        assert_eq!(left, FILES | USERS | CapabilitySet::NET_BIND_SERVICE);
        assert!(unit.contains("PrivateDevices=yes"), "device nodes could be made");
    }
}
