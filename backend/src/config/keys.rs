//! The keys of a share: one vocabulary for the command line and for whatever else holds `key = value` pairs.

use std::path::PathBuf;

use frontend_spec::ninep::MountTag;
use frontend_spec::pci::Bdf;
use virtio_9p::limits::{MAX_MSIZE, MIN_DESCRIPTORS, MIN_MSIZE};

use super::share::{Content, ShareConfig, ShareIdentity, ShareLimits};
use super::values;
use crate::listen::ListenAddress;
use crate::transport::TransportKind;

/// What [`ShareKeys::set`] knows.
const KNOWN: &str = "tag, path, state, socket, transport, listen, allow-remote, endpoint, iommu, readonly, direct, security, \
                     keep-symlinks, uid-map, gid-map, squash, umask, per-user, msize, max-fids, max-descriptors, \
                     max-lock-owners, max-xattr-bytes, max-parked-locks and max-inflight";

/// A share on its way from `key = value` pairs to a [`ShareConfig`].
///
/// ```
/// use calgaryd::config::ShareKeys;
///
/// let mut keys = ShareKeys::default();
/// for (key, value) in [("tag", "home"), ("path", "/srv/home"), ("socket", "/run/home.sock"), ("umask", "0022")] {
///     keys.set(key, Some(value))?;
/// }
/// assert_eq!(keys.finish()?.identity.umask, 0o022);
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Default)]
pub struct ShareKeys {
    tag: Option<MountTag>,
    path: Option<PathBuf>,
    state: bool,
    socket: Option<PathBuf>,
    transport: Option<TransportKind>,
    listen: Vec<ListenAddress>,
    allow_remote: bool,
    endpoint: Option<Bdf>,
    iommu: Option<bool>,
    readonly: bool,
    direct: bool,
    identity: ShareIdentity,
    limits: ShareLimits,
}

impl ShareKeys {
    /// Takes one pair. The switches `state`, `readonly`, `direct`, `allow-remote`, `keep-symlinks` and `per-user` need no value; a repeated
    /// `listen`, `uid-map` or `gid-map` adds to it, and any other key that is repeated replaces what was said before.
    ///
    /// # Errors
    /// A line that says what is wrong with the pair.
    pub fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), String> {
        let needed =
            || value.filter(|value| !value.is_empty()).ok_or_else(|| format!("{key} needs a value: {key}=..."));
        let switch = || value.map_or(Ok(true), |value| values::switch(key, value));
        let count = |least| needed().and_then(|value| values::number(key, value, least));
        let Self { identity, limits, .. } = self;
        match key {
            "tag" => self.tag = Some(needed()?.parse::<MountTag>().map_err(|cause| cause.to_string())?),
            "path" => self.path = Some(PathBuf::from(needed()?)),
            "state" => self.state = switch()?,
            "socket" => self.socket = Some(PathBuf::from(needed()?)),
            "transport" => self.transport = Some(needed()?.parse()?),
            "listen" => self.listen.push(needed()?.parse()?),
            "allow-remote" => self.allow_remote = switch()?,
            "endpoint" => self.endpoint = Some(needed()?.parse::<Bdf>().map_err(|cause| cause.to_string())?),
            "iommu" => self.iommu = Some(values::switch(key, needed()?)?),
            "readonly" => self.readonly = switch()?,
            "direct" => self.direct = switch()?,
            "security" => identity.security = values::security(key, needed()?)?,
            "keep-symlinks" => identity.keep_symlinks = switch()?,
            "uid-map" => values::id_runs(key, needed()?, &mut identity.uid_map)?,
            "gid-map" => values::id_runs(key, needed()?, &mut identity.gid_map)?,
            "squash" => identity.squash = Some(values::owner(key, needed()?)?),
            "umask" => identity.umask = values::umask(key, needed()?)?,
            "per-user" => identity.per_user = switch()?,
            "msize" => {
                let size = values::size(key, needed()?, u64::from(MIN_MSIZE), u64::from(MAX_MSIZE))?;
                limits.msize = u32::try_from(size).unwrap_or(MAX_MSIZE);
            }
            "max-fids" => limits.max_fids = count(1)?,
            "max-descriptors" => limits.max_descriptors = Some(count(MIN_DESCRIPTORS)?),
            "max-lock-owners" => limits.max_lock_owners = Some(count(1)?),
            "max-xattr-bytes" => {
                let size = values::size(key, needed()?, 0, u64::from(u32::MAX))?;
                limits.max_xattr_bytes = usize::try_from(size).unwrap_or(usize::MAX);
            }
            "max-parked-locks" => limits.max_parked_locks = count(0)?,
            "max-inflight" => limits.max_inflight = count(1)?,
            _ => return Err(format!("unknown key {key:?}; known are {KNOWN}")),
        }
        Ok(())
    }

    /// The share. `iommu` is on if an endpoint was given, unless it was said otherwise.
    ///
    /// # Errors
    /// A line that names the key that is missing.
    pub fn finish(self) -> Result<ShareConfig, String> {
        let missing = |key: &str| {
            format!("{key}= is missing; a share needs tag=NAME,path=DIR and socket=SOCKET, listen=ADDRESS or both")
        };
        let tag = self.tag.ok_or_else(|| missing("tag"))?;
        let content = match (self.path, self.state) {
            (Some(path), false) => Content::Folder(path),
            (None, true) => Content::State,
            (None, false) => return Err(missing("path")),
            (Some(_), true) => {
                return Err("state shows the daemon's own state and has no path; leave one out".to_owned());
            }
        };
        if self.state && self.identity != ShareIdentity::default() {
            return Err(
                "state shows files that nobody owns; leave out keys such as security, umask and squash".to_owned()
            );
        }
        if self.socket.is_none() && self.listen.is_empty() {
            return Err(missing("socket"));
        }
        Ok(ShareConfig {
            tag,
            content,
            socket: self.socket,
            transport: self.transport,
            listen: self.listen,
            allow_remote: self.allow_remote,
            iommu: self.iommu.unwrap_or(self.endpoint.is_some()),
            endpoint: self.endpoint,
            readonly: self.readonly,
            direct: self.direct,
            identity: self.identity,
            limits: self.limits,
        })
    }
}

/// Reads `tag=NAME,path=DIR,socket=SOCKET[,KEY=VALUE...]`, with the keys of [`ShareKeys`]. A comma within a value is
/// doubled.
///
/// # Errors
/// A line that says what is wrong with which part.
pub fn parse_share(text: &str) -> Result<ShareConfig, String> {
    let mut keys = ShareKeys::default();
    for part in split_commas(text) {
        match part.split_once('=') {
            Some((key, value)) => keys.set(key, Some(value))?,
            None => keys.set(&part, None)?,
        }
    }
    keys.finish()
}

/// Splits at single commas; a doubled comma stands for one.
fn split_commas(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match (c, parts.last_mut()) {
            (',', Some(last)) if rest.peek() == Some(&',') => {
                rest.next();
                last.push(',');
            }
            (',', _) => parts.push(String::new()),
            (c, Some(last)) => last.push(c),
            (_, None) => {}
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use virtio_9p::{IdRange, Security};

    use super::*;

    const BASE: &str = "tag=a,path=/,socket=/s";

    fn share(text: &str) -> ShareConfig {
        parse_share(text).unwrap()
    }

    #[test]
    fn a_share_is_read_with_all_its_parts() {
        let share = share("tag=home,path=/srv/a,,b,socket=/run/s,endpoint=00:06.0,iommu=on,readonly,direct");
        assert_eq!(share.content, Content::Folder("/srv/a,b".into()));
        assert_eq!(share.endpoint.unwrap().to_u16(), 0x30);
        assert!(share.iommu && share.readonly && share.direct);
    }

    #[test]
    fn what_is_not_said_is_the_default() {
        assert_eq!(share(BASE), ShareConfig::new("a".parse().unwrap(), "/", "/s"));
    }

    #[test]
    fn an_endpoint_means_the_iommu_unless_it_is_off() {
        assert!(share("tag=a,path=/,socket=/s,endpoint=00:06.0").iommu);
        assert!(!share("tag=a,path=/,socket=/s,endpoint=00:06.0,iommu=off").iommu);
        assert!(!share(BASE).iommu);
    }

    #[test]
    fn a_share_may_listen_instead_or_as_well() {
        let share = share("tag=a,path=/,listen=unix:/run/a,listen=tcp:127.0.0.1:5640");
        assert_eq!((share.socket, share.listen.len(), share.allow_remote), (None, 2, false));
        let share = parse_share(&format!("{BASE},listen=tcp:0.0.0.0:5640,allow-remote")).unwrap();
        assert_eq!(parse_share("tag=calgary,state,listen=unix:/s").unwrap().content, Content::State);
        assert!(share.socket.is_some() && share.listen[0].is_remote() && share.allow_remote);
    }

    #[test]
    fn identity_and_limits_are_read() {
        let share = share(&format!(
            "{BASE},security=none,uid-map=0:1000:1,uid-map=1:2000:10,gid-map=0:5:1+9:9:1,umask=0027,per-user,msize=64K,\
             max-fids=10,max-descriptors=8,max-lock-owners=5,max-xattr-bytes=1M,max-parked-locks=0,max-inflight=3"
        ));
        let run = |client, host, count| IdRange { client, host, count };
        let identity = ShareIdentity {
            security: Security::None,
            uid_map: vec![run(0, 1000, 1), run(1, 2000, 10)],
            gid_map: vec![run(0, 5, 1), run(9, 9, 1)],
            umask: 0o027,
            per_user: true,
            ..ShareIdentity::default()
        };
        assert_eq!(share.identity, identity);
        let limits = ShareLimits {
            msize: 64 << 10,
            max_fids: 10,
            max_descriptors: Some(8),
            max_lock_owners: Some(5),
            max_xattr_bytes: 1 << 20,
            max_parked_locks: 0,
            max_inflight: 3,
        };
        assert_eq!(share.limits, limits);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, hint) in [
            ("path=/,socket=/s", "tag= is missing"),
            ("tag=a,path=/,socket=/s,iommu=maybe", "neither on nor off"),
            ("tag=a,path=/,socket=/s,colour=red", "unknown key \"colour\""),
            ("tag=a,path=,socket=/s", "path needs a value"),
            ("tag=a,path=/", "socket=SOCKET, listen=ADDRESS or both"),
            ("tag=a,path=/,listen=/s", "unix:PATH"),
            ("tag=a,path=/,state,socket=/s", "leave one out"),
            ("tag=a,state,squash=0:0,socket=/s", "nobody owns"),
            ("tag=this-tag-is-longer-than-thirty-one-bytes,path=/,socket=/s", "31"),
            ("tag=a,path=/,socket=/s,security=mapped", "passthrough, mapped-xattr or none"),
            ("tag=a,path=/,socket=/s,squash=root", "UID:GID"),
            ("tag=a,path=/,socket=/s,uid-map", "uid-map needs a value"),
            ("tag=a,path=/,socket=/s,msize=1K", "4K to 1G"),
            ("tag=a,path=/,socket=/s,max-descriptors=7", "at least 8"),
            ("tag=a,path=/,socket=/s,per-user=yes", "neither on nor off"),
        ] {
            let message = parse_share(text).unwrap_err();
            assert!(message.contains(hint), "{text}: {message}");
        }
    }

    #[test]
    fn every_known_key_is_named_and_taken() {
        for key in KNOWN.replace(" and ", ", ").split(", ") {
            let mut keys = ShareKeys::default();
            let answer = keys.set(key, Some("\u{0}"));
            assert!(!answer.is_err_and(|message| message.contains("unknown key")), "{key}");
        }
    }
}
