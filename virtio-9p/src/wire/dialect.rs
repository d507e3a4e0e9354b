//! The dialects of 9P, and which of them a client gets.

/// A dialect of 9P.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// 9P2000, as in Plan 9's manual: errors and users are strings.
    Plan9,
    /// 9P2000.u: 9P2000 with Unix's numbers, links and special files.
    Unix,
    /// 9P2000.L: Linux's own requests.
    Linux,
}

impl Dialect {
    /// What `Tversion` and `Rversion` call it.
    pub fn version(self) -> &'static [u8] {
        match self {
            Dialect::Plan9 => b"9P2000",
            Dialect::Unix => b"9P2000.u",
            Dialect::Linux => b"9P2000.L",
        }
    }

    /// What a client gets that asks for `version`; `None` if it shares no dialect with this crate.
    ///
    /// Suffixes after the dialect are declined (`9P2000.L.x` becomes 9P2000.L). As version(5) has it, an unknown suffix
    /// of 9P2000 and any later `9Pnnnn` fall back to 9P2000.
    pub fn offered(version: &[u8]) -> Option<Dialect> {
        let mut parts = version.strip_prefix(b"9P")?.split(|byte| *byte == b'.');
        let year = std::str::from_utf8(parts.next()?).ok()?;
        if year.len() < 4 || !year.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let year: u32 = year.parse().ok()?;
        match (year, parts.next()) {
            (2000, Some(b"u")) => Some(Dialect::Unix),
            (2000, Some(b"L")) => Some(Dialect::Linux),
            (2000.., _) => Some(Dialect::Plan9),
            _ => None,
        }
    }

    /// Whether messages end with the fields that 9P2000.u added.
    pub fn has_unix_fields(self) -> bool {
        self != Dialect::Plan9
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_declined_and_later_versions_fall_back() {
        for (asked, got) in [
            (&b"9P2000"[..], Some(Dialect::Plan9)),
            (b"9P2000.u", Some(Dialect::Unix)),
            (b"9P2000.L", Some(Dialect::Linux)),
            (b"9P2000.L.Google.7", Some(Dialect::Linux)),
            (b"9P2000.u.x", Some(Dialect::Unix)),
            (b"9P2000.x", Some(Dialect::Plan9)),
            (b"9P2000.Lx", Some(Dialect::Plan9)),
            (b"9P2000.", Some(Dialect::Plan9)),
            (b"9P2001.L", Some(Dialect::Plan9)),
            (b"9P20000", Some(Dialect::Plan9)),
            (b"9P1999", None),
            (b"9P2000x", None),
            (b"9P", None),
            (b"9P.L", None),
            (b"9p2000", None),
            (b"9P+2000", None),
            (b"9P99999999999", None),
            (b"unknown", None),
            (b"", None),
        ] {
            assert_eq!(Dialect::offered(asked), got, "{:?}", String::from_utf8_lossy(asked));
        }
        for dialect in [Dialect::Plan9, Dialect::Unix, Dialect::Linux] {
            assert_eq!(Dialect::offered(dialect.version()), Some(dialect));
        }
    }
}
