//! Every connection is a session of its own over the same files.

use virtio_9p::wire::{AttrMask, Fid, Message, Rgetattr, Tgetattr, Tread};

use crate::client::{Client, ROOT, header};
use crate::rig::{Rig, wait_for_connections};

#[test]
fn files_are_written_and_read_over_both_kinds() {
    let rig = Rig::new();
    let data: Vec<u8> = (0..3_000_000_u32).map(|at| at.to_le_bytes()[(at % 3) as usize]).collect();
    for (name, address) in ["unix", "tcp"].into_iter().zip(rig.addresses()) {
        let mut client = Client::connect(&address, 1 << 20);
        client.create_file(Fid(1), name);
        for (at, piece) in (0_u64..).zip(data.chunks(1_000_000)) {
            client.write(Fid(1), at * 1_000_000, piece);
        }
        client.clunk(Fid(1));
        assert!(std::fs::read(rig.folder().join(name)).unwrap() == data, "{name}");
        client.open_file(Fid(1), name);
        let read: Vec<u8> = (0..3).flat_map(|at| client.read(Fid(1), at * 1_000_000, 1_000_000)).collect();
        assert!(read == data, "{name}");
    }
}

#[test]
fn fids_of_one_session_are_unknown_to_another_and_end_with_it() {
    let rig = Rig::new();
    let mut one = Client::connect(&rig.unix(), 8192);
    let mut two = Client::connect(&rig.unix(), 8192);
    one.create_file(Fid(1), "file");
    let tag = two.start(&Tgetattr { fid: Fid(1), request_mask: AttrMask::BASIC }, &[]);
    let reply = two.receive().unwrap();
    assert_eq!(header(&reply).tag, tag);
    assert!(Rgetattr::parse(&reply).is_err(), "another session's fid was answered");
    let fids = |rig: &Rig| rig.clients().sessions().iter().map(|(_, _, session)| session.fid_count()).sum::<usize>();
    assert_eq!(fids(&rig), 3);
    drop(one);
    wait_for_connections(rig.clients(), 1);
    assert_eq!(fids(&rig), 1);
    two.call(&Tgetattr { fid: ROOT, request_mask: AttrMask::BASIC }, &[]);
}

#[test]
fn a_stop_ends_clients_and_removes_the_socket() {
    let mut rig = Rig::new();
    let addresses = rig.addresses();
    let mut idle: Vec<Client> = addresses.iter().map(|address| Client::connect(address, 8192)).collect();
    let mut halfway = Client::open(&addresses[0]);
    halfway.send(&[21, 0]);
    // One that never takes its replies fills the socket, and its thread waits for room.
    let mut deaf = Client::connect(&addresses[0], 1 << 20);
    deaf.create_file(Fid(1), "file");
    deaf.write(Fid(1), 0, &vec![1; 1 << 19]);
    for _ in 0..16 {
        deaf.start(&Tread { fid: Fid(1), offset: 0, count: 1 << 19 }, &[]);
    }
    rig.stop();
    for client in idle.iter_mut().chain([&mut halfway]) {
        assert!(client.receive().is_none());
    }
    assert_eq!(std::fs::read_dir(rig.folder().parent().unwrap()).unwrap().count(), 1, "the socket was left");
}
