//! Where a client finds the server.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// A stream address: `unix:PATH` or `tcp:ADDRESS:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// A Unix stream socket at this path.
    Unix(PathBuf),
    /// A TCP port; port 0 lets the kernel choose one.
    Tcp(SocketAddr),
}

impl ListenAddress {
    /// Whether machines other than this one can reach it.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        match self {
            Self::Unix(_) => false,
            Self::Tcp(address) => !is_loopback(address.ip()),
        }
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

impl FromStr for ListenAddress {
    type Err = String;

    /// Numbers only: a name could mean another address tomorrow.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => Ok(Self::Unix(path.into())),
            Some(("tcp", address)) => match address.parse() {
                Ok(address) => Ok(Self::Tcp(address)),
                Err(_) => {
                    Err(format!("tcp:{address} is no address and port; write tcp:127.0.0.1:5640 or tcp:[::1]:5640"))
                }
            },
            _ => Err(format!("{text} is neither unix:PATH nor tcp:ADDRESS:PORT")),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(to, "unix:{}", path.display()),
            Self::Tcp(address) => write!(to, "tcp:{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_alike() {
        for text in ["unix:/run/a:b", "unix:relative", "tcp:127.0.0.1:5640", "tcp:[::1]:0"] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), text);
        }
        for (text, hint) in [
            ("/run/socket", "unix:PATH"),
            ("unix:", "unix:PATH"),
            ("tcp:5640", "127.0.0.1:5640"),
            ("tcp:localhost:5640", "127.0.0.1:5640"),
            ("udp:127.0.0.1:1", "tcp:ADDRESS:PORT"),
        ] {
            let message = text.parse::<ListenAddress>().unwrap_err();
            assert!(message.contains(hint), "{text}: {message}");
        }
    }

    #[test]
    fn loopback_is_told_from_the_rest() {
        let remote = |text: &str| text.parse::<ListenAddress>().unwrap().is_remote();
        for near in ["unix:/s", "tcp:127.0.0.1:1", "tcp:127.9.9.9:1", "tcp:[::1]:1", "tcp:[::ffff:127.0.0.1]:1"] {
            assert!(!remote(near), "{near}");
        }
        for far in ["tcp:0.0.0.0:1", "tcp:[::]:1", "tcp:192.0.2.1:1", "tcp:[::ffff:192.0.2.1]:1"] {
            assert!(remote(far), "{far}");
        }
    }
}
