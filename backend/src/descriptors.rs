//! What the process may open, and how much of it each share gets.

use log::warn;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::{Content, ServeConfig, ShareConfig};

/// Descriptors wanted, for all shares together.
const WANTED: u64 = 1 << 20;
/// Descriptors kept for sockets, events, guest memory, tables, and the steps of requests; a quarter where there are few.
const OWN: usize = 1024;

/// The shares want more descriptors than there are.
#[derive(Debug, thiserror::Error)]
#[error(
    "the shares ask for {asked} descriptors, but this process can give them {available}; lower max-descriptors= or raise the \
     limit of open files (ulimit -n)"
)]
pub struct TooManyDescriptors {
    asked: usize,
    available: usize,
}

/// Raises the soft limit of open files as far as it is useful and allowed; returns what it is then.
pub(crate) fn raise_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(WANTED, |maximum| maximum.min(WANTED));
    let mut reached = limit.current.map_or(WANTED, |current| current.min(WANTED));
    if reached < wanted {
        let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
        match setrlimit(Resource::Nofile, raised) {
            Ok(()) => reached = wanted,
            Err(cause) => warn!("cannot raise the limit of open files to {wanted}: {cause}"),
        }
    }
    usize::try_from(reached).unwrap_or(usize::MAX)
}

/// The descriptors of each share of `config`, in its order: what it asks for, or an equal part of what the others leave of
/// `limit`.
///
/// # Errors
/// They ask for more than there are.
pub(crate) fn shares_of(config: &ServeConfig, limit: usize) -> Result<Vec<usize>, TooManyDescriptors> {
    let available = limit - OWN.min(limit / 4);
    // The daemon's state is no folder and takes none.
    let wish = |share: &ShareConfig| match share.content {
        Content::Folder(_) => share.limits.max_descriptors,
        Content::State => Some(0),
    };
    let wishes = || config.shares.iter().map(wish);
    let without = wishes().filter(Option::is_none).count();
    // A share without a wish gets some even if there are many.
    let least = virtio_9p::limits::MIN_DESCRIPTORS;
    let asked = wishes().map(|wish| wish.unwrap_or(least)).fold(0, usize::saturating_add);
    if asked > available {
        return Err(TooManyDescriptors { asked, available });
    }
    let left = available - wishes().flatten().sum::<usize>();
    Ok(wishes().map(|wish| wish.unwrap_or(left / without.max(1))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse_share;

    fn config(wishes: &[&str]) -> ServeConfig {
        let shares = wishes.iter().map(|keys| parse_share(&format!("tag=a,path=/,socket=/s{keys}")).unwrap()).collect();
        ServeConfig { iommu: None, shares, ..ServeConfig::default() }
    }

    #[test]
    fn shares_get_what_they_ask_for_or_an_equal_part_of_the_rest() {
        let shares = shares_of(&config(&["", ",max-descriptors=100", ""]), 1024).unwrap();
        assert_eq!(shares, [334, 100, 334]);
        assert_eq!(shares_of(&config(&[""]), 1 << 20).unwrap(), [(1 << 20) - 1024]);
    }

    #[test]
    fn more_than_there_are_is_refused_with_both_numbers() {
        let refused =
            shares_of(&config(&[",max-descriptors=700", ",max-descriptors=69"]), 1024).unwrap_err().to_string();
        assert!(refused.contains("769") && refused.contains("768"), "{refused}");
        assert!(shares_of(&config(&[",max-descriptors=700", ",max-descriptors=68"]), 1024).is_ok());
        assert!(shares_of(&config(&[",max-descriptors=768", ""]), 1024).is_err(), "nothing is left for the second");
        assert!(shares_of(&config(&[",max-descriptors=18446744073709551615", ",max-descriptors=9"]), 1024).is_err());
    }
}
