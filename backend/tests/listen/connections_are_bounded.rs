//! More clients than allowed are turned away, and nobody else notices.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use calgaryd::listen::{Clients, ListenAddress, ListenLimits, ListenPort, Listener, Listening, Session};
use virtio_9p::wire::{AttrMask, Fid, Tgetattr};
use virtio_9p::{Completed, FidUse, Outcome, Started, Stats};

use crate::client::{Client, ROOT};
use crate::rig::{Rig, wait_for_connections};

#[test]
fn one_too_many_is_turned_away_until_another_leaves() {
    let rig = Rig::with(ListenLimits { connections: 3, ..ListenLimits::default() });
    let mut clients: Vec<Client> = (0..3).map(|at| Client::connect(&rig.addresses()[at % 2], 8192)).collect();
    for address in rig.addresses() {
        let mut refused = Client::open(&address);
        assert!(refused.receive().is_none());
    }
    let stats = rig.clients().stats();
    assert_eq!((stats.connections, stats.accepted, stats.refused), (3, 3, 2));
    clients.pop();
    wait_for_connections(rig.clients(), 2);
    clients.push(Client::connect(&rig.unix(), 8192));
    for client in &mut clients {
        client.call(&Tgetattr { fid: ROOT, request_mask: AttrMask::BASIC }, &[]);
    }
}

/// A session whose files are closed when a test lets them.
struct Clinging(Mutex<(Sender<()>, Receiver<()>)>);

impl Session for Clinging {
    fn start(&self, _: &mut [u8], _: &mut [u8], _: u64) -> Started {
        Started::Done(Outcome::Dropped)
    }

    fn next_completed(&self) -> Option<Completed> {
        None
    }

    fn retry_parked(&self) {}

    fn parked_count(&self) -> usize {
        0
    }

    fn msize(&self) -> Option<u32> {
        None
    }

    fn fid_count(&self) -> usize {
        0
    }

    fn fids(&self, _: usize) -> Vec<(Fid, FidUse)> {
        Vec::new()
    }

    fn stats(&self) -> Stats {
        unreachable!("nobody asks")
    }

    fn reset(&self) {
        let (begun, open) = &*self.0.lock().unwrap();
        begun.send(()).unwrap();
        let _ = open.recv();
    }
}

#[test]
fn a_client_counts_until_its_files_are_closed() {
    let folder = tempfile::tempdir().unwrap();
    let address = ListenAddress::Unix(folder.path().join("socket"));
    let ((begun, closing), (open, may_close)) = (channel(), channel());
    let session: Arc<dyn Session> = Arc::new(Clinging(Mutex::new((begun, may_close))));
    let port = ListenPort::new("share test".to_owned(), Listener::bind(&address).unwrap(), move || session.clone());
    let clients = Arc::new(Clients::new(ListenLimits { connections: 1, ..ListenLimits::default() }));
    let _listening = Listening::start(vec![port], clients.clone()).unwrap();
    drop(Client::open(&address));
    closing.recv().unwrap();
    assert!(Client::open(&address).receive().is_none(), "threads that close files are not bounded");
    assert_eq!(clients.stats().refused, 1);
    drop(open);
    wait_for_connections(&clients, 0);
}
