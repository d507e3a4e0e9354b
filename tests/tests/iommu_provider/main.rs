//! The IOMMU provider extension (frontend-spec, `SPEC.md` 17 to 24) between two processes: this test is the front end, and
//! the back end is this test's program once more.

mod back_end;
mod wire;

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command};

use frontend_spec::provider::{
    EndpointChange, EndpointOp, Fault, FrontEnd, Limits, Request, Reset, ResetCause, Start, State, Synced, Translation,
    Update, UpdateReply,
};
use frontend_spec::zerocopy::IntoBytes;
use tempfile::TempDir;

use back_end::{ENDPOINT, GENERATION, Guest, KEPT, LATER};
use wire::{Message, PATIENCE, receive, send, waiting};

/// A back end in another process. Dropping it kills it.
struct BackEnd {
    child: Child,
    socket: PathBuf,
    _folder: TempDir,
}

impl BackEnd {
    fn start(generation: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_other_process", "--nocapture"])
            .env(GENERATION, generation.to_string())
            .stdin(OwnedFd::from(listener))
            .spawn()
            .unwrap();
        Self { child, socket, _folder: folder }
    }

    /// The socket, the back end's channel, and what stands for the guest's queue.
    fn connect(&self) -> Connection {
        let [socket, channel, guest] = [(); 3].map(|()| {
            let stream = UnixStream::connect(&self.socket).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream
        });
        Connection { socket, channel, guest: Guest(guest) }
    }
}

impl Drop for BackEnd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test: what the other process runs.
#[test]
fn the_other_process() {
    if let Ok(generation) = std::env::var(GENERATION) {
        back_end::run(generation.parse().unwrap());
    }
}

struct Connection {
    socket: UnixStream,
    channel: UnixStream,
    guest: Guest,
}

impl Connection {
    /// Asks on the socket, serving the channel until the answer is there: the back end may need it for its answer.
    fn ask(&mut self, front_end: &mut FrontEnd, request: Request, payload: &[u8]) -> Vec<u8> {
        send(&mut self.socket, request, false, true, payload);
        while !waiting(&self.socket, &self.channel) {
            self.serve_channel(front_end);
        }
        let answer = receive(&mut self.socket).unwrap();
        assert!(answer.header.reply && answer.header.request == request);
        answer.payload
    }

    fn limits(&mut self) -> Limits {
        send(&mut self.socket, Request::GetLimits, false, true, &[]);
        Limits::decode(&receive(&mut self.socket).unwrap().payload).unwrap()
    }

    /// Takes one message of the back end and acknowledges it if that is wanted.
    fn serve_channel(&mut self, front_end: &mut FrontEnd) {
        let (message, answer) = self.take(front_end);
        if message.header.need_reply {
            send(&mut self.channel, message.header.request, true, false, &answer);
        }
    }

    /// Takes one message of the back end; returns it with the answer that is not sent yet.
    fn take(&mut self, front_end: &mut FrontEnd) -> (Message, Vec<u8>) {
        let message = receive(&mut self.channel).unwrap();
        let answer = match message.header.request {
            Request::Update => front_end.apply(&Update::decode(&message.payload).unwrap()).encode().to_vec(),
            Request::Synced => {
                front_end.synced(Synced::decode(&message.payload).unwrap().generation.get());
                0_u64.as_bytes().to_vec()
            }
            other => panic!("{other:?} on the channel"),
        };
        (message, answer)
    }

    /// Adds the endpoint and takes all of the back end's state.
    fn begin(&mut self, front_end: &mut FrontEnd) {
        let change =
            EndpointChange { endpoint: ENDPOINT.into(), op: (EndpointOp::Add as u32).into(), ..Default::default() };
        assert_eq!(self.ask(front_end, Request::Endpoint, change.as_bytes()), [0; 8]);
        front_end.add_endpoint(ENDPOINT);
        let start = Start { generation: front_end.generation().into(), ..Default::default() };
        front_end.start();
        assert_eq!(self.ask(front_end, Request::Start, start.as_bytes()), [0; 8]);
        while front_end.state() == State::Syncing {
            assert_eq!(front_end.translate(ENDPOINT, KEPT, false), Translation::Wait);
            self.serve_channel(front_end);
        }
    }

    /// An access by the rule of SPEC.md 20.5: what waits on the channel is applied before anything is refused.
    fn access(&mut self, front_end: &mut FrontEnd, iova: u64) -> Translation {
        loop {
            let found = front_end.translate(ENDPOINT, iova, false);
            if matches!(found, Translation::At(_)) || !wire::readable(&self.channel) {
                return found;
            }
            self.serve_channel(front_end);
        }
    }
}

fn connected(generation: u64) -> (BackEnd, Connection, FrontEnd) {
    let back_end = BackEnd::start(generation);
    let mut connection = back_end.connect();
    let limits = connection.limits();
    assert_eq!(limits.generation.get(), generation);
    let mut front_end = FrontEnd::new(&limits);
    connection.begin(&mut front_end);
    (back_end, connection, front_end)
}

#[test]
fn a_front_end_learns_the_state_and_translates() {
    let (_back_end, mut connection, mut front_end) = connected(7);
    assert_eq!((front_end.state(), front_end.generation()), (State::Running, 7));
    assert_eq!(connection.access(&mut front_end, KEPT + 5), Translation::At(0x10_0005));
}

#[test]
fn a_map_needs_no_answer_to_be_seen_by_the_access_that_follows() {
    let (_back_end, mut connection, mut front_end) = connected(1);
    assert_eq!(connection.access(&mut front_end, LATER), Translation::Refused { reason: 2 });
    // The guest sees its MAP completed; the front end has not looked at its channel since.
    connection.guest.request(b'm');
    connection.guest.completed(b'm');
    assert_eq!(front_end.translate(ENDPOINT, LATER, false), Translation::Refused { reason: 2 });
    assert_eq!(connection.access(&mut front_end, LATER), Translation::At(0x20_0000));
}

#[test]
fn an_unmap_completes_after_the_last_access() {
    let (_back_end, mut connection, mut front_end) = connected(1);
    connection.guest.request(b'm');
    connection.guest.completed(b'm');
    assert_eq!(connection.access(&mut front_end, LATER), Translation::At(0x20_0000));
    // This access is under way from here.
    connection.guest.request(b'u');
    let (message, answer) = connection.take(&mut front_end);
    assert!(message.header.need_reply);
    assert_eq!(front_end.translate(ENDPOINT, LATER, false), Translation::Refused { reason: 2 }, "no access begins");
    // A request that removes nothing goes on meanwhile: the back end is not blocked by the wait.
    connection.guest.request(b'p');
    connection.guest.completed(b'p');
    // Here it ends, and only now the guest may see its UNMAP completed.
    assert!(!wire::readable(&connection.guest.0), "the UNMAP was completed while an access was under way");
    send(&mut connection.channel, Request::Update, true, false, &answer);
    connection.guest.completed(b'u');
}

#[test]
fn faults_reach_the_guest() {
    let (_back_end, mut connection, mut front_end) = connected(1);
    let Translation::Refused { reason } = connection.access(&mut front_end, 0xdead_b000) else {
        panic!("it is mapped")
    };
    let fault = Fault {
        endpoint: ENDPOINT.into(),
        space: 1.into(),
        address: 0xdead_b000.into(),
        flags: 1.into(),
        reason: reason.into(),
        count: 1.into(),
        reserved: 0.into(),
    };
    send(&mut connection.socket, Request::Fault, false, false, fault.as_bytes());
    connection.guest.completed(b'f');
    assert_eq!(connection.guest.event(), fault);
}

#[test]
fn a_refused_update_says_which_entry_and_why() {
    let (_back_end, mut connection, mut front_end) = connected(1);
    connection.guest.request(b'x');
    let (_, answer) = connection.take(&mut front_end);
    let reply = UpdateReply::decode(answer.as_slice().try_into().unwrap()).unwrap();
    assert_eq!(reply, UpdateReply { applied: 1, refusal: Some(frontend_spec::provider::Refusal::Overlap) });
    send(&mut connection.channel, Request::Update, true, false, &answer);
    connection.guest.completed(b'x');
}

#[test]
fn a_reset_is_answered_when_everything_is_gone() {
    let (_back_end, mut connection, mut front_end) = connected(1);
    let reset = Reset { cause: (ResetCause::Device as u32).into(), reserved: 0.into() };
    assert_eq!(connection.ask(&mut front_end, Request::Reset, reset.as_bytes()), [0; 8]);
    assert_eq!(front_end.translate(ENDPOINT, KEPT, false), Translation::Refused { reason: 1 });
}

#[test]
fn a_front_end_that_reconnects_is_told_everything_again() {
    let (back_end, mut connection, mut front_end) = connected(3);
    connection.guest.request(b'm');
    connection.guest.completed(b'm');
    drop(connection);
    front_end.lost();
    assert_eq!(front_end.translate(ENDPOINT, KEPT, false), Translation::Wait);
    let mut connection = back_end.connect();
    assert_eq!(connection.limits().generation.get(), front_end.generation(), "its state is the one we had");
    connection.begin(&mut front_end);
    assert_eq!(front_end.translate(ENDPOINT, KEPT, false), Translation::At(0x10_0000));
    assert_eq!(front_end.translate(ENDPOINT, LATER, false), Translation::At(0x20_0000));
}

#[test]
fn the_loss_of_the_state_shows() {
    let (back_end, connection, mut front_end) = connected(3);
    drop((back_end, connection));
    front_end.lost();
    let another = BackEnd::start(4);
    let mut connection = another.connect();
    let generation = connection.limits().generation.get();
    assert_ne!(generation, front_end.generation());
    // The guest's driver believes in mappings that nobody has: nothing may be reached until it starts anew.
    front_end.give_up();
    assert_eq!(front_end.translate(ENDPOINT, KEPT, false), Translation::Refused { reason: 1 });
}
