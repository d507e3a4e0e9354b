//! What both sides tell each other before anything else.

use serde::{Deserialize, Serialize};
use zerocopy::IntoBytes;

use super::channel::front;
use super::dma_maps::MAX_MAPS;
use super::wire::{Errno, MAX_DATA, MAX_FDS, Version};

/// Major version spoken; there is no other yet.
const MAJOR: u16 = 0;
/// Minor version spoken. What later ones add is migration, which no device here has.
const MINOR: u16 = 0;
/// Descriptors that a client takes with a message if it does not say.
const USUAL_FDS: usize = 1;

/// What the client says that matters here.
#[derive(Debug, Default, Deserialize)]
struct Proposal {
    #[serde(default)]
    capabilities: ClientCapabilities,
}

#[derive(Debug, Default, Deserialize)]
struct ClientCapabilities {
    max_msg_fds: Option<usize>,
}

#[derive(Debug, Serialize)]
struct Answer {
    capabilities: ServerCapabilities,
}

#[derive(Debug, Serialize)]
struct ServerCapabilities {
    max_msg_fds: usize,
    max_data_xfer_size: u32,
    max_dma_maps: usize,
    pgsizes: u64,
    write_multiple: bool,
}

/// What the two sides have agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Agreement {
    /// Descriptors that the client takes with one message.
    pub(super) client_fds: usize,
}

/// Reads the client's proposal.
///
/// # Errors
/// Another major version, or a text that is no JSON.
pub(super) fn agree(payload: &[u8]) -> Result<Agreement, Errno> {
    let (version, text): (Version, _) = front(payload)?;
    if version.major.get() != MAJOR {
        return Err(Errno::UNSUPPORTED);
    }
    let text = text.strip_suffix(&[0]).unwrap_or(text);
    let proposal: Proposal = match text {
        [] => Proposal::default(),
        text => serde_json::from_slice(text).map_err(|_| Errno::INVALID)?,
    };
    Ok(Agreement { client_fds: proposal.capabilities.max_msg_fds.unwrap_or(USUAL_FDS).min(MAX_FDS) })
}

/// The payload of the answer.
pub(super) fn answer() -> Vec<u8> {
    let capabilities = ServerCapabilities {
        max_msg_fds: MAX_FDS,
        max_data_xfer_size: MAX_DATA,
        max_dma_maps: MAX_MAPS,
        pgsizes: iommu_calgary::PAGE_SIZE,
        write_multiple: true,
    };
    let mut bytes = Version { major: MAJOR.into(), minor: MINOR.into() }.as_bytes().to_vec();
    // A structure of numbers has no way to fail.
    bytes.extend(serde_json::to_vec(&Answer { capabilities }).unwrap_or_default());
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proposal(text: &str) -> Result<Agreement, Errno> {
        agree(&[&[0, 0, 1, 0], text.as_bytes(), &[0]].concat())
    }

    #[test]
    fn a_proposal_is_read() {
        let agreed =
            proposal(r#"{"capabilities":{"max_msg_fds":8,"max_data_xfer_size":1048576,"migration":{"pgsize":4096}}}"#);
        assert_eq!(agreed, Ok(Agreement { client_fds: 8 }));
        assert_eq!(proposal("{}"), Ok(Agreement { client_fds: 1 }));
        assert_eq!(agree(&[0, 0, 0, 0]), Ok(Agreement { client_fds: 1 }));
    }

    #[test]
    fn what_is_no_proposal_is_refused() {
        assert_eq!(agree(&[0, 0]), Err(Errno::INVALID));
        assert_eq!(agree(&[1, 0, 0, 0]), Err(Errno::UNSUPPORTED));
        assert_eq!(proposal("{"), Err(Errno::INVALID));
        assert_eq!(proposal("[]{}"), Err(Errno::INVALID));
        assert_eq!(proposal(&"[".repeat(60_000)), Err(Errno::INVALID), "depth has a bound");
    }

    #[test]
    fn the_answer_ends_with_a_nul() {
        let answer = answer();
        assert_eq!(answer[..4], [0, 0, 0, 0]);
        let text = std::str::from_utf8(&answer[4..answer.len() - 1]).unwrap();
        assert_eq!(
            text,
            r#"{"capabilities":{"max_msg_fds":16,"max_data_xfer_size":16384,"max_dma_maps":512,"pgsizes":4096,"write_multiple":true}}"#
        );
        assert_eq!(answer.last(), Some(&0));
    }
}
