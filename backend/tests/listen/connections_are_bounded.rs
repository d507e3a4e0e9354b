//! More clients than allowed are turned away, and nobody else notices.

use calgaryd::listen::ListenLimits;
use virtio_9p::wire::{AttrMask, Tgetattr};

use crate::client::{Client, ROOT};
use crate::rig::Rig;

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
    rig.wait_for_connections(2);
    clients.push(Client::connect(&rig.unix(), 8192));
    for client in &mut clients {
        client.call(&Tgetattr { fid: ROOT, request_mask: AttrMask::BASIC }, &[]);
    }
}
