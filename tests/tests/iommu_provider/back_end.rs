//! The back end: an IOMMU whose guest is a stream of letters.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};

use frontend_spec::provider::{
    EndpointChange, Entry, Fault, Limits, Refusal, Request, Reset, Space, Start, Synced, Update, UpdateReply,
};
use frontend_spec::zerocopy::IntoBytes;
use rustix::event::{PollFd, PollFlags, poll};

use crate::wire::{receive, send};

/// The variable that makes this program a back end, and names the generation of its state.
pub(crate) const GENERATION: &str = "CALGARY_PROVIDER_GENERATION";
pub(crate) const ENDPOINT: u32 = 0x30;
/// An IOVA that is mapped from the beginning.
pub(crate) const KEPT: u64 = 0x1000;
/// An IOVA that the guest maps by `m` and unmaps by `u`.
pub(crate) const LATER: u64 = 0x4000;
const SPACE: u32 = 1;
const PAGE: u64 = 0x1000;

/// The guest's end of its queue: a letter for each request, and the same one when it is completed.
pub(crate) struct Guest(pub(crate) UnixStream);

impl Guest {
    pub(crate) fn request(&mut self, letter: u8) {
        self.0.write_all(&[letter]).unwrap();
    }

    pub(crate) fn completed(&mut self, letter: u8) {
        let mut found = [0];
        self.0.read_exact(&mut found).unwrap();
        assert_eq!(char::from(found[0]), char::from(letter));
    }

    pub(crate) fn event(&mut self) -> Fault {
        let mut bytes = [0; size_of::<Fault>()];
        self.0.read_exact(&mut bytes).unwrap();
        Fault::decode(&bytes).unwrap()
    }
}

/// Serves one front end after the other on the listening socket that is standard input, until it is killed.
pub(crate) fn run(generation: u64) {
    let listener = UnixListener::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    let mut mappings = BTreeMap::from([(KEPT, 0x10_0000)]);
    loop {
        let [socket, channel, guest] = [(); 3].map(|()| listener.accept().unwrap().0);
        Session { socket, channel, guest, generation, mappings: &mut mappings, unacknowledged: None }.serve();
    }
}

struct Session<'a> {
    socket: UnixStream,
    channel: UnixStream,
    guest: UnixStream,
    generation: u64,
    mappings: &'a mut BTreeMap<u64, u64>,
    /// The guest's request that waits for the front end.
    unacknowledged: Option<u8>,
}

impl Session<'_> {
    /// Works until the front end leaves.
    fn serve(mut self) {
        loop {
            let [socket, channel, guest] = {
                let streams = [&self.socket, &self.channel, &self.guest];
                let mut fds = streams.map(|stream| PollFd::new(stream, PollFlags::IN));
                poll(&mut fds, None).unwrap();
                fds.map(|fd| !fd.revents().is_empty())
            };
            let goes_on = if socket {
                self.on_socket()
            } else if channel {
                self.on_channel()
            } else {
                guest && self.on_guest()
            };
            if !goes_on {
                return;
            }
        }
    }

    fn push(&mut self, need_reply: bool, entries: Vec<Entry>) {
        send(&mut self.channel, Request::Update, false, need_reply, &Update { entries }.encode());
    }

    fn on_socket(&mut self) -> bool {
        let Ok(message) = receive(&mut self.socket) else { return false };
        let answer = match message.header.request {
            Request::GetLimits => Limits {
                page_size_mask: PAGE.into(),
                iova_first: 0.into(),
                iova_last: 0xfff_ffff.into(),
                spaces: 16.into(),
                update_entries: 64.into(),
                generation: self.generation.into(),
            }
            .as_bytes()
            .to_vec(),
            Request::Endpoint => {
                EndpointChange::decode(&message.payload).unwrap().op().unwrap();
                0_u64.as_bytes().to_vec()
            }
            Request::Start => {
                Start::decode(&message.payload).unwrap();
                0_u64.as_bytes().to_vec()
            }
            Request::Fault => {
                self.guest.write_all(&[b"f", message.payload.as_slice()].concat()).unwrap();
                return true;
            }
            Request::Reset => {
                Reset::decode(&message.payload).unwrap().cause().unwrap();
                self.mappings.clear();
                let unbind = Entry::Bind { endpoint: ENDPOINT, space: Space::Blocked };
                self.push(true, vec![unbind, Entry::Free { space: SPACE }]);
                // Nothing else is in flight: the answer is the one to this update.
                let answer = receive(&mut self.channel).unwrap().payload;
                assert_eq!(UpdateReply::decode(answer.as_slice().try_into().unwrap()).unwrap().refusal, None);
                0_u64.as_bytes().to_vec()
            }
            other => panic!("{other:?} on the socket"),
        };
        send(&mut self.socket, message.header.request, true, false, &answer);
        if message.header.request == Request::Start {
            self.tell_all();
        }
        true
    }

    /// All of the state, from nothing.
    fn tell_all(&mut self) {
        let map = |(&iova, &gpa): (&u64, &u64)| map(iova, gpa);
        let mut entries = vec![Entry::Create { space: SPACE }];
        entries.extend(self.mappings.iter().map(map));
        entries.push(Entry::Bind { endpoint: ENDPOINT, space: Space::Translated(SPACE) });
        self.push(false, entries);
        let synced = Synced { generation: self.generation.into() };
        send(&mut self.channel, Request::Synced, false, false, synced.as_bytes());
    }

    /// An acknowledgement: what the guest asked for is true now.
    fn on_channel(&mut self) -> bool {
        let Ok(message) = receive(&mut self.channel) else { return false };
        assert!(message.header.reply);
        let reply = UpdateReply::decode(message.payload.as_slice().try_into().unwrap()).unwrap();
        let letter = self.unacknowledged.take().unwrap();
        let expected = (letter == b'x').then_some(Refusal::Overlap);
        assert_eq!(reply.refusal, expected);
        self.guest.write_all(&[letter]).unwrap();
        true
    }

    fn on_guest(&mut self) -> bool {
        let mut letter = [0];
        if self.guest.read_exact(&mut letter).is_err() {
            return false;
        }
        match letter[0] {
            // A request that concerns no translation.
            b'p' => {}
            b'm' => {
                self.mappings.insert(LATER, 0x20_0000);
                self.push(false, vec![map(LATER, 0x20_0000)]);
            }
            b'u' => {
                self.mappings.remove(&LATER);
                self.push(true, vec![Entry::Unmap { space: SPACE, iova: LATER, size: PAGE }]);
                self.unacknowledged = Some(b'u');
                return true;
            }
            // A back end that is wrong about its own state.
            _ => {
                self.push(true, vec![map(0x8000, 0), map(KEPT, 0)]);
                self.unacknowledged = Some(b'x');
                return true;
            }
        }
        self.guest.write_all(&letter).unwrap();
        true
    }
}

fn map(iova: u64, gpa: u64) -> Entry {
    Entry::Map { space: SPACE, iova, size: PAGE, gpa, read: true, write: true }
}
