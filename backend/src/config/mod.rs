//! What the daemon is told to do, and whether it can be done.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use frontend_spec::ByteSize;
use frontend_spec::ninep::MountTag;
use frontend_spec::pci::Bdf;
use iommu_calgary::TableSize;

use crate::device::{Mechanisms, PollPolicy};
use crate::listen::ListenAddress;
use crate::transport::TransportKind;

mod keys;
mod share;
mod values;

pub use keys::{ShareKeys, parse_share};
pub use share::{Content, ShareConfig, ShareIdentity, ShareLimits};

/// Everything `serve` needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServeConfig {
    /// The IOMMU, if there is one.
    pub iommu: Option<IommuConfig>,
    /// The shares.
    pub shares: Vec<ShareConfig>,
    /// When a thread looks for work instead of sleeping.
    pub poll: PollPolicy,
    /// What makes them fast.
    pub mechanisms: Mechanisms,
}

/// The virtio-iommu device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IommuConfig {
    /// Socket that the VMM connects to.
    pub socket: PathBuf,
    /// What is spoken there.
    pub transport: TransportKind,
    /// Where the VMM places the device.
    pub at: Bdf,
    /// IOVA space of each domain.
    pub window: TableSize,
    /// Whether an endpoint that no driver has attached reaches memory untranslated.
    pub boot_bypass: bool,
    /// Parts of the window that no driver may use.
    pub reserved: Vec<AddressRange>,
}

/// A range of addresses, both ends inclusive; as text `0-0x3fffffff`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    /// The first address.
    pub first: u64,
    /// The last address.
    pub last: u64,
}

/// Most reserved ranges: the answer to PROBE has 512 bytes, and 24 for each range.
const MAX_RESERVED: usize = 16;
/// First and last addresses of the regions that every IOMMU reserves.
const ALWAYS_RESERVED: [(u64, u64); 2] = [(0xa_0000, 0xf_ffff), (0xfee0_0000, 0xfeef_ffff)];

impl std::fmt::Display for AddressRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x}-{:#x}", self.first, self.last)
    }
}

impl std::str::FromStr for AddressRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        };
        text.split_once('-')
            .and_then(|(first, last)| Some(Self { first: number(first)?, last: number(last)? }))
            .filter(|range| range.first <= range.last && range.first % 4096 == 0 && range.last % 4096 == 4095)
            .ok_or_else(|| format!("{text:?} is no range of 4 KiB pages; write FIRST-LAST, such as 0-0x3fffffff"))
    }
}

/// Why a configuration cannot be served. Each message is one line that says what to change.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is nothing to serve.
    #[error("nothing to serve; give --share tag=NAME,path=DIR,socket=SOCKET, --iommu SOCKET, or both")]
    Empty,
    /// A share wants an IOMMU that is not there.
    #[error("share {0} has iommu=on but there is no IOMMU; add --iommu SOCKET or say iommu=off")]
    NoIommu(MountTag),
    /// A share behind the IOMMU has no id there.
    #[error("share {0} is behind the IOMMU and needs its PCI address; add endpoint=BB:DD.F, such as endpoint=00:06.0")]
    NoEndpoint(MountTag),
    /// Two devices have one socket.
    #[error("socket {0} is used twice; each device needs its own")]
    SocketTwice(PathBuf),
    /// Two shares listen on one address.
    #[error("address {0} is used twice; each share needs its own")]
    AddressTwice(ListenAddress),
    /// A share listens where other machines reach it.
    #[error(
        "share {tag}: other machines can reach {address}, and 9P has no authentication; listen on 127.0.0.1, or add \
         allow-remote if everybody there may have this share"
    )]
    Remote {
        /// The share.
        tag: MountTag,
        /// The address.
        address: ListenAddress,
    },
    /// A share that is no device has a place among them.
    #[error("share {0} has a PCI address or iommu=on but is no device; add socket=SOCKET")]
    NoDevice(MountTag),
    /// Two shares have one tag.
    #[error("tag {0} is used twice; a guest tells shares apart by their tags")]
    TagTwice(MountTag),
    /// Two devices have one PCI address.
    #[error("PCI address {0} is used twice; give each device its own endpoint=BB:DD.F")]
    EndpointTwice(Bdf),
    /// A share sits where the IOMMU is.
    #[error(
        "share {tag} has the IOMMU's own PCI address {at}; choose another endpoint=BB:DD.F or move the IOMMU with --iommu-at"
    )]
    EndpointIsIommu {
        /// The share.
        tag: MountTag,
        /// The address.
        at: Bdf,
    },
    /// A reserved range meets another one.
    #[error(
        "the reserved range {0} meets another one or a part of 0xa0000-0xfffff or 0xfee00000-0xfeefffff, which are always reserved; leave it out or join them"
    )]
    Reserved(AddressRange),
    /// There are more reserved ranges than a driver can be told of.
    #[error("there are {0} reserved ranges and {MAX_RESERVED} at most; join some")]
    TooManyReserved(usize),
    /// What is said of a share's owners does not go together.
    #[error("share {tag}: {what}")]
    Identity {
        /// The share.
        tag: MountTag,
        /// What to change.
        what: &'static str,
    },
    /// A folder cannot be served.
    #[error("share {tag}: cannot read folder {path}: {cause}; share a folder that calgaryd's user can read")]
    Folder {
        /// The share.
        tag: MountTag,
        /// Its folder.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
}

impl ServeConfig {
    /// Checks everything that can be checked without starting anything.
    ///
    /// # Errors
    /// The first thing that stands in the way.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.iommu.is_none() && self.shares.is_empty() {
            return Err(ConfigError::Empty);
        }
        if let Some(iommu) = self.iommu.as_ref().filter(|iommu| iommu.reserved.len() > MAX_RESERVED) {
            return Err(ConfigError::TooManyReserved(iommu.reserved.len()));
        }
        if let Some(range) = self.iommu.iter().find_map(|iommu| clash(&iommu.reserved)) {
            return Err(ConfigError::Reserved(range));
        }
        let mut sockets: HashSet<&Path> = self.iommu.iter().map(|iommu| iommu.socket.as_path()).collect();
        let mut ports = HashSet::new();
        let mut tags = HashSet::new();
        let mut addresses = HashSet::new();
        for share in &self.shares {
            let tag = || share.tag.clone();
            if let Some(socket) = &share.socket
                && !sockets.insert(socket)
            {
                return Err(ConfigError::SocketTwice(socket.clone()));
            }
            for address in &share.listen {
                match address {
                    ListenAddress::Unix(path) if !sockets.insert(path) => {
                        return Err(ConfigError::SocketTwice(path.clone()));
                    }
                    ListenAddress::Tcp(port) if port.port() != 0 && !ports.insert(*port) => {
                        return Err(ConfigError::AddressTwice(address.clone()));
                    }
                    _ if address.is_remote() && !share.allow_remote => {
                        return Err(ConfigError::Remote { tag: tag(), address: address.clone() });
                    }
                    _ => {}
                }
            }
            if share.socket.is_none() && (share.endpoint.is_some() || share.iommu) {
                return Err(ConfigError::NoDevice(tag()));
            }
            if !tags.insert(share.tag.as_str()) {
                return Err(ConfigError::TagTwice(tag()));
            }
            if share.iommu && self.iommu.is_none() {
                return Err(ConfigError::NoIommu(tag()));
            }
            if share.iommu && share.endpoint.is_none() {
                return Err(ConfigError::NoEndpoint(tag()));
            }
            if let Some(at) = share.endpoint {
                if self.iommu.as_ref().is_some_and(|iommu| iommu.at == at) {
                    return Err(ConfigError::EndpointIsIommu { tag: tag(), at });
                }
                if !addresses.insert(at) {
                    return Err(ConfigError::EndpointTwice(at));
                }
            }
            if let Some(what) = share.identity.contradiction() {
                return Err(ConfigError::Identity { tag: tag(), what });
            }
            if let Content::Folder(path) = &share.content
                && let Err(cause) = std::fs::read_dir(path)
            {
                return Err(ConfigError::Folder { tag: tag(), path: path.clone(), cause });
            }
        }
        Ok(())
    }
}

/// The first of `ranges` that meets another one, or only a part of a region that is always reserved.
fn clash(ranges: &[AddressRange]) -> Option<AddressRange> {
    let own = ALWAYS_RESERVED.map(|(first, last)| AddressRange { first, last });
    ranges.iter().enumerate().find_map(|(index, range)| {
        let meets = |other: &AddressRange| range.first <= other.last && other.first <= range.last;
        let covers = |other: &AddressRange| range.first <= other.first && other.last <= range.last;
        let found = ranges[..index].iter().any(meets) || own.iter().any(|own| meets(own) && !covers(own));
        found.then_some(*range)
    })
}

/// Reads an IOVA window such as `256M`.
///
/// # Errors
/// A line naming the eight sizes.
pub fn parse_window(text: &str) -> Result<TableSize, String> {
    let size: ByteSize = text.parse().map_err(|cause: frontend_spec::ByteSizeError| cause.to_string())?;
    TableSize::from_window_bytes(size.bytes()).ok_or_else(|| {
        let sizes: Vec<String> =
            TableSize::ALL.iter().map(|size| ByteSize::from_bytes(size.window_bytes()).to_string()).collect();
        format!("a Calgary table cannot span {size}; choose one of {}", sizes.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serving(shares: &[&str]) -> ServeConfig {
        let iommu = IommuConfig {
            socket: "/run/i".into(),
            transport: TransportKind::default(),
            at: "00:05.0".parse().unwrap(),
            window: parse_window("256M").unwrap(),
            boot_bypass: false,
            reserved: Vec::new(),
        };
        ServeConfig {
            iommu: Some(iommu),
            shares: shares.iter().map(|text| parse_share(text).unwrap()).collect(),
            ..ServeConfig::default()
        }
    }

    #[test]
    fn ranges_are_whole_pages() {
        assert_eq!("0-0x3fffffff".parse(), Ok(AddressRange { first: 0, last: 0x3fff_ffff }));
        for wrong in ["", "0", "0-0x1000", "0x800-0xfff", "0x2000-0xfff", "a-b", "-0xfff"] {
            assert!(wrong.parse::<AddressRange>().unwrap_err().contains("FIRST-LAST"), "{wrong}");
        }
    }

    #[test]
    fn windows_are_the_tables_sizes() {
        assert!(parse_window("100M").unwrap_err().contains("32M, 64M, 128M, 256M, 512M, 1G, 2G, 4G"));
    }

    #[test]
    fn conflicts_are_found_before_anything_starts() {
        let message = |shares: &[&str]| serving(shares).validate().unwrap_err().to_string();
        assert!(message(&["tag=a,path=/,socket=/run/i"]).contains("used twice"));
        assert!(message(&["tag=a,path=/,socket=/1", "tag=a,path=/,socket=/2"]).contains("tag a is used twice"));
        assert!(message(&["tag=a,path=/,socket=/1,iommu=on"]).contains("needs its PCI address"));
        assert!(message(&["tag=a,path=/,socket=/1,endpoint=00:05.0"]).contains("IOMMU's own"));
        assert!(
            message(&["tag=a,path=/,socket=/1,endpoint=00:06.0", "tag=b,path=/,socket=/2,endpoint=00:06.0"])
                .contains("00:06.0 is used twice")
        );
        assert!(message(&["tag=a,path=/nowhere/at/all,socket=/1"]).contains("cannot read folder"));
        assert!(message(&["tag=a,path=/,socket=/1,listen=unix:/1"]).contains("/1 is used twice"));
        let twice = "listen=tcp:127.0.0.1:9";
        assert!(message(&[&format!("tag=a,path=/,{twice},{twice}")]).contains("tcp:127.0.0.1:9 is used twice"));
        assert!(message(&["tag=a,path=/,listen=tcp:0.0.0.0:9"]).contains("no authentication"));
        assert!(serving(&["tag=a,path=/,listen=tcp:0.0.0.0:9,allow-remote"]).validate().is_ok());
        assert!(message(&["tag=a,path=/,listen=unix:/1,endpoint=00:06.0"]).contains("add socket=SOCKET"));
        for (keys, hint) in [
            ("security=mapped-xattr,per-user", "leave it out or choose security=passthrough"),
            ("security=mapped-xattr,gid-map=0:1:1", "leave uid-map and gid-map out"),
            ("squash=0:0,uid-map=0:1:1", "leave out either"),
            ("keep-symlinks", "security=mapped-xattr only"),
        ] {
            let message = message(&[&format!("tag=a,path=/,socket=/1,{keys}")]);
            assert!(message.contains(hint), "{keys}: {message}");
        }
        let mut without = serving(&["tag=a,path=/,socket=/1,endpoint=00:06.0"]);
        without.iommu = None;
        assert!(without.validate().unwrap_err().to_string().contains("there is no IOMMU"));
        without.shares.clear();
        assert!(matches!(without.validate(), Err(ConfigError::Empty)));
    }
}
