//! `config`: what the daemon was told, in the words of its command line.

use std::fmt::Write;

use crate::config::{Content, ServeConfig, ShareConfig};
use crate::device::Mechanisms;

/// The text; what was left out is shown with what it means.
pub(super) fn text(config: &ServeConfig) -> String {
    let mut text = String::new();
    // A string takes whatever is written to it.
    if let Some(iommu) = &config.iommu {
        let _ = writeln!(
            text,
            "iommu socket={} at={} window={} boot-bypass={}",
            iommu.socket.display(),
            iommu.at,
            iommu.window,
            switch(iommu.boot_bypass)
        );
    }
    let _ = writeln!(text, "poll {:?}", config.poll);
    let Mechanisms { batching, coalescing, zero_copy } = config.mechanisms;
    for (name, on) in [("batching", batching), ("coalescing", coalescing), ("zero-copy", zero_copy)] {
        let _ = writeln!(text, "{name} {}", switch(on));
    }
    for share in &config.shares {
        let _ = writeln!(text, "{}", share_line(share));
    }
    text
}

fn share_line(share: &ShareConfig) -> String {
    let mut line = format!("share tag={}", share.tag);
    let mut add = |key: &str, value: &dyn std::fmt::Display| _ = write!(line, " {key}={value}");
    match &share.content {
        Content::Folder(path) => add("path", &path.display()),
        Content::State => add("state", &"on"),
    }
    if let Some(socket) = &share.socket {
        add("socket", &socket.display());
    }
    for address in &share.listen {
        add("listen", address);
    }
    if let Some(endpoint) = share.endpoint {
        add("endpoint", &endpoint);
    }
    add("iommu", &switch(share.iommu));
    add("readonly", &switch(share.readonly || share.content == Content::State));
    add("per-user", &switch(share.identity.per_user));
    add("msize", &share.limits.msize);
    add("max-fids", &share.limits.max_fids);
    line
}

fn switch(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}
