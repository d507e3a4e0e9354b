//! `config`: what the daemon was told, in the words of its command line.

use std::fmt::Write;

use frontend_spec::ByteSize;
use virtio_9p::{IdRange, Security};

use crate::config::{Content, IommuConfig, ServeConfig, ShareConfig};
use crate::device::{Mechanisms, PollPolicy};

/// The text; what was left out is shown with what it means, and not at all if that is found out at the start.
pub(super) fn text(config: &ServeConfig) -> String {
    let iommu = config.iommu.iter().map(iommu_line);
    let poll = std::iter::once(format!("poll {}", poll(config.poll)));
    let mechanisms = mechanism_lines(config.mechanisms);
    let shares = config.shares.iter().map(share_line);
    iommu.chain(poll).chain(mechanisms).chain(shares).map(|line| line + "\n").collect()
}

fn mechanism_lines(Mechanisms { batching, coalescing, zero_copy }: Mechanisms) -> [String; 3] {
    [("no-batching", batching), ("no-coalescing", coalescing), ("no-zero-copy", zero_copy)]
        .map(|(option, used)| format!("{option} {}", switch(!used)))
}

fn iommu_line(iommu: &IommuConfig) -> String {
    let mut line = format!(
        "iommu socket={} transport={} at={} window={} boot-bypass={}",
        iommu.socket.display(),
        iommu.transport,
        iommu.at,
        ByteSize::from_bytes(iommu.window.window_bytes()),
        switch(iommu.boot_bypass)
    );
    for range in &iommu.reserved {
        // A string takes whatever is written to it.
        let _ = write!(line, " reserve={range}");
    }
    line
}

fn share_line(share: &ShareConfig) -> String {
    let ShareConfig { identity, limits, .. } = share;
    let mut line = format!("share tag={}", share.tag);
    let mut add = |key: &str, value: &dyn std::fmt::Display| _ = write!(line, " {key}={value}");
    match &share.content {
        Content::Folder(path) => add("path", &path.display()),
        Content::State => add("state", &"on"),
    }
    if let Some(socket) = &share.socket {
        add("socket", &socket.display());
    }
    if let Some(transport) = share.transport {
        add("transport", &transport);
    }
    for address in &share.listen {
        add("listen", address);
    }
    add("allow-remote", &switch(share.allow_remote));
    if let Some(endpoint) = share.endpoint {
        add("endpoint", &endpoint);
    }
    add("iommu", &switch(share.iommu));
    add("readonly", &switch(share.readonly || share.content == Content::State));
    add("direct", &switch(share.direct));
    add("security", &security(identity.security));
    add("keep-symlinks", &switch(identity.keep_symlinks));
    for (key, map) in [("uid-map", &identity.uid_map), ("gid-map", &identity.gid_map)] {
        for IdRange { client, host, count } in map {
            add(key, &format_args!("{client}:{host}:{count}"));
        }
    }
    if let Some((uid, gid)) = identity.squash {
        add("squash", &format_args!("{uid}:{gid}"));
    }
    add("umask", &format_args!("{:04o}", identity.umask));
    add("per-user", &switch(identity.per_user));
    add("msize", &limits.msize);
    add("max-fids", &limits.max_fids);
    for (key, limit) in [("max-descriptors", limits.max_descriptors), ("max-lock-owners", limits.max_lock_owners)] {
        if let Some(limit) = limit {
            add(key, &limit);
        }
    }
    add("max-xattr-bytes", &limits.max_xattr_bytes);
    add("max-parked-locks", &limits.max_parked_locks);
    add("max-inflight", &limits.max_inflight);
    line
}

fn switch(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

fn security(model: Security) -> &'static str {
    match model {
        Security::MappedXattr => "mapped-xattr",
        Security::None => "none",
        _ => "passthrough",
    }
}

fn poll(policy: PollPolicy) -> String {
    match policy {
        PollPolicy::Auto => "auto".to_owned(),
        PollPolicy::Off => "off".to_owned(),
        PollPolicy::Always => "always".to_owned(),
        PollPolicy::For(time) => format!("{}us", time.as_micros()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::parse_share;

    #[test]
    fn what_is_shown_of_a_share_means_the_same_on_the_command_line() {
        for told in [
            "tag=a,path=/srv/a,socket=/s",
            "tag=a,path=/srv/a,socket=/s,transport=vfio-user,endpoint=00:06.0,iommu=off,readonly,direct,security=none,\
             uid-map=0:1000:1+5:7:9,gid-map=1:2:3,umask=0027,per-user,msize=64K,max-fids=10,max-descriptors=9,\
             max-lock-owners=5,max-xattr-bytes=1M,max-parked-locks=0,max-inflight=3",
            "tag=a,path=/srv/a,listen=unix:/u,listen=tcp:0.0.0.0:1,allow-remote,security=mapped-xattr,keep-symlinks,\
             squash=1:2",
        ] {
            let share = parse_share(told).unwrap();
            let line = share_line(&share);
            let shown = line.strip_prefix("share ").unwrap().replace(' ', ",");
            assert_eq!(parse_share(&shown).unwrap(), share, "{line}");
        }
    }

    #[test]
    fn mechanisms_are_shown_as_they_were_told() {
        let mechanisms = Mechanisms { batching: false, coalescing: true, zero_copy: false };
        let shown = text(&ServeConfig { mechanisms, ..ServeConfig::default() });
        assert_eq!(shown, "poll auto\nno-batching on\nno-coalescing off\nno-zero-copy on\n");
    }

    #[test]
    fn ways_to_poll_are_shown_as_they_are_told() {
        for policy in [PollPolicy::Auto, PollPolicy::Off, PollPolicy::Always, PollPolicy::For(Duration::from_millis(2))]
        {
            assert_eq!(poll(policy).parse(), Ok(policy));
        }
    }
}
