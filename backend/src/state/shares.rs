//! `shares/TAG`: what the device of a share and the clients of its stream sockets do.

use std::sync::Arc;

use virtio_9p::synthetic::{Directory, File};
use virtio_9p::wire::Fid;
use virtio_9p::{FidUse, Stats};

use super::Sources;
use super::text::{MAX_LINES, Text};
use crate::device::share::ShareDevice;
use crate::listen::{Clients, Session};

/// One share.
#[derive(Clone)]
struct Share {
    /// As [`Clients`] name it.
    name: Arc<str>,
    device: Option<Arc<ShareDevice>>,
    clients: Arc<Clients>,
}

pub(super) fn directory(sources: &Sources) -> Directory {
    sources.config.shares.iter().fold(Directory::new(), |directory, share| {
        let device = sources.devices.iter().find(|(tag, _)| *tag == share.tag).map(|(_, device)| device.clone());
        let share_of = Share { name: share.client_name().into(), device, clients: sources.clients.clone() };
        let (counted, listed) = (share_of.clone(), share_of);
        let files = Directory::new()
            .with("stats", File::of(move || counted.stats()))
            .with("fids", File::of(move || listed.fids()));
        directory.with(share.tag.to_string(), files)
    })
}

impl Share {
    fn sessions(&self) -> impl Iterator<Item = (u64, Arc<dyn Session>)> {
        self.clients
            .sessions()
            .into_iter()
            .filter(|(_, name, _)| *name == self.name)
            .map(|(number, _, session)| (number, session))
    }

    fn stats(&self) -> Vec<u8> {
        let mut text = Text::default();
        if let Some(device) = &self.device {
            let queue = device.stats();
            for (name, value) in [
                ("device kicks", queue.kicks),
                ("device interrupts", queue.interrupts),
                ("device dropped", queue.dropped),
                ("device faults", queue.faults),
            ] {
                text.counter(name, value);
            }
            served(&mut text, "device", &device.server().stats(), device.server().fid_count());
        }
        for (number, session) in self.sessions() {
            served(&mut text, &format!("client-{number}"), &session.stats(), session.fid_count());
        }
        text.finish()
    }

    fn fids(&self) -> Vec<u8> {
        let mut text = Text::default();
        let mut list = |who: &str, fids: Vec<(Fid, FidUse)>| {
            for (fid, used) in fids {
                let used = match used {
                    FidUse::Walked => "walked",
                    FidUse::Open => "open",
                    FidUse::Xattr => "xattr",
                };
                text.line(format_args!("{who} {} {used}", fid.0));
            }
        };
        if let Some(device) = &self.device {
            list("device", device.server().fids(MAX_LINES));
        }
        for (number, session) in self.sessions() {
            list(&format!("client-{number}"), session.fids(MAX_LINES));
        }
        text.finish()
    }
}

/// What a session has done.
fn served(text: &mut Text, who: &str, stats: &Stats, fids: usize) {
    for (name, value) in [
        ("fids", fids as u64),
        ("requests", stats.total()),
        ("errors", stats.errors),
        ("bytes-read", stats.bytes_read),
        ("bytes-written", stats.bytes_written),
    ] {
        text.line(format_args!("{who} {name} {value}"));
    }
    for (name, count) in stats.by_name() {
        text.line(format_args!("{who} request-{name} {count}"));
    }
}
