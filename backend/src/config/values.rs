//! The values that keys take, as people write them.

use frontend_spec::ByteSize;
use virtio_9p::{IdRange, Security};

/// Reads `on` or `off`.
pub(super) fn switch(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("{key}={value} is neither on nor off")),
    }
}

/// Reads a whole number of at least `least`.
pub(super) fn number(key: &str, value: &str, least: usize) -> Result<usize, String> {
    value
        .parse()
        .ok()
        .filter(|number| *number >= least)
        .ok_or_else(|| format!("{key}={value} is no whole number of at least {least}"))
}

/// Reads a size such as `512K`, within `[least, most]` bytes.
pub(super) fn size(key: &str, value: &str, least: u64, most: u64) -> Result<u64, String> {
    let size: ByteSize = value.parse().map_err(|cause| format!("{key}: {cause}"))?;
    if (least..=most).contains(&size.bytes()) {
        return Ok(size.bytes());
    }
    let [least, most] = [least, most].map(ByteSize::from_bytes);
    Err(format!("{key}={value} is out of range; give {least} to {most}"))
}

/// Reads a security model by the name that QEMU gives it.
pub(super) fn security(key: &str, value: &str) -> Result<Security, String> {
    match value {
        "passthrough" => Ok(Security::Passthrough),
        "mapped-xattr" => Ok(Security::MappedXattr),
        "none" => Ok(Security::None),
        _ => Err(format!("{key}={value} is unknown; choose passthrough, mapped-xattr or none")),
    }
}

/// Reads `UID:GID`.
pub(super) fn owner(key: &str, value: &str) -> Result<(u32, u32), String> {
    value
        .split_once(':')
        .and_then(|(uid, gid)| Some((id(uid)?, id(gid)?)))
        .ok_or_else(|| format!("{key}={value} is no owner; write UID:GID, such as {key}=1000:1000"))
}

/// Reads permission bits in octal, at most 0777.
pub(super) fn umask(key: &str, value: &str) -> Result<u32, String> {
    Some(value)
        .filter(|value| value.bytes().all(|digit| digit.is_ascii_digit()))
        .and_then(|value| u32::from_str_radix(value, 8).ok())
        .filter(|bits| *bits <= 0o777)
        .ok_or_else(|| format!("{key}={value} is no umask; write octal digits of at most 0777, such as {key}=0022"))
}

/// Reads runs of ids, `GUEST:HOST:COUNT`, joined by `+`, and adds them to `map`.
pub(super) fn id_runs(key: &str, value: &str, map: &mut Vec<IdRange>) -> Result<(), String> {
    for text in value.split('+') {
        let run = run(text).ok_or_else(|| {
            format!("{key}={text} is no run of ids; write GUEST:HOST:COUNT, such as {key}=0:100000:65536")
        })?;
        let meets = |a: u32, b: u32, count: u32| a < b.saturating_add(count) && b < a.saturating_add(run.count);
        if map
            .iter()
            .any(|other| meets(run.client, other.client, other.count) || meets(run.host, other.host, other.count))
        {
            return Err(format!("{key}={text} overlaps another run; each id can have one counterpart"));
        }
        map.push(run);
    }
    Ok(())
}

fn run(text: &str) -> Option<IdRange> {
    let mut parts = text.split(':');
    let mut next = || parts.next().and_then(id);
    let run = IdRange { client: next()?, host: next()?, count: next()? };
    let fits = |first: u32| first.checked_add(run.count).is_some();
    (parts.next().is_none() && run.count > 0 && fits(run.client) && fits(run.host)).then_some(run)
}

/// An id: any 32-bit number but the last, which means "none".
fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_ids_are_read_joined_or_repeated() {
        let mut map = Vec::new();
        id_runs("uid-map", "0:100000:65536+70000:7:1", &mut map).unwrap();
        id_runs("uid-map", "80000:8:2", &mut map).unwrap();
        assert_eq!(map.len(), 3);
        assert_eq!(map[1], IdRange { client: 70_000, host: 7, count: 1 });
    }

    #[test]
    fn runs_that_say_two_things_or_nothing_are_refused() {
        let refuse = |value: &str| id_runs("uid-map", value, &mut Vec::new()).unwrap_err();
        for wrong in
            ["", "0", "0:1", "0:1:0", "0:1:2:3", "a:b:c", "0:4294967295:1", "4294967294:0:2", "-1:0:1", "0:0:1+"]
        {
            assert!(refuse(wrong).contains("GUEST:HOST:COUNT"), "{wrong}");
        }
        assert!(refuse("0:1000:10+9:5000:1").contains("overlaps"));
        assert!(refuse("0:1000:10+50:1009:1").contains("overlaps"));
        assert!(id_runs("uid-map", "0:1000:10+10:1010:1", &mut Vec::new()).is_ok());
    }

    #[test]
    fn owners_masks_and_numbers_have_edges() {
        assert_eq!(owner("squash", "1000:100"), Ok((1000, 100)));
        for wrong in ["1000", "1000:", ":", "a:b", "1:2:3", "4294967295:0"] {
            assert!(owner("squash", wrong).unwrap_err().contains("UID:GID"), "{wrong}");
        }
        assert_eq!((umask("umask", "0022"), umask("umask", "777")), (Ok(0o022), Ok(0o777)));
        for wrong in ["", "8", "1000", "0o22", "+22"] {
            assert!(umask("umask", wrong).unwrap_err().contains("octal"), "{wrong}");
        }
        assert_eq!(number("max-fids", "1", 1), Ok(1));
        assert!(number("max-fids", "0", 1).unwrap_err().contains("at least 1"));
        assert_eq!(size("msize", "4K", 4096, 1 << 30), Ok(4096));
        assert!(size("msize", "4095", 4096, 1 << 30).unwrap_err().contains("4K to 1G"));
        assert!(size("msize", "2G", 4096, 1 << 30).unwrap_err().contains("4K to 1G"));
    }
}
