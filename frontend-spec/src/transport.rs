//! The protocols between a VMM and the daemon.

use core::{fmt, str::FromStr};

/// The protocols that carry a device to a VMM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TransportKind {
    /// The VMM has a virtio device of its own and hands its queues over.
    #[default]
    VhostUser,
    /// The daemon has the whole PCI function.
    VfioUser,
}

impl FromStr for TransportKind {
    type Err = String;

    /// `vhost-user` or `vfio-user`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "vhost-user" => Ok(Self::VhostUser),
            "vfio-user" => Ok(Self::VfioUser),
            _ => Err(format!("{text:?} is no transport; say vhost-user or vfio-user")),
        }
    }
}

impl fmt::Display for TransportKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::VhostUser => "vhost-user",
            Self::VfioUser => "vfio-user",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for kind in [TransportKind::VhostUser, TransportKind::VfioUser] {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert!("virtiofs".parse::<TransportKind>().unwrap_err().contains("vhost-user or vfio-user"));
    }
}
