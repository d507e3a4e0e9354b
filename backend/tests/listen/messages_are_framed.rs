//! The stream is cut into messages whatever its pieces are, and what is no message ends the connection alone.

use std::time::Duration;

use calgaryd::listen::ListenLimits;
use virtio_9p::wire::{AttrMask, Fid, Message, Rversion, Tag, Tgetattr, Tread};

use crate::client::{Client, ROOT, frame, header, version};
use crate::rig::{Rig, wait_for_connections};

fn getattr(tag: u16) -> Vec<u8> {
    frame(Tag(tag), &Tgetattr { fid: ROOT, request_mask: AttrMask::BASIC }, &[])
}

#[test]
fn pipelined_requests_are_answered_in_order_however_the_stream_is_cut() {
    let rig = Rig::new();
    let stream: Vec<u8> = (1..=200).flat_map(getattr).collect();
    for address in rig.addresses() {
        for step in [1, 3, 7, 4096, stream.len()] {
            let mut client = Client::connect(&address, 4096);
            for piece in stream.chunks(step) {
                client.send(piece);
            }
            for tag in 1..=200 {
                assert_eq!(header(&client.receive().unwrap()).tag, Tag(tag));
            }
        }
    }
}

#[test]
fn a_stream_that_is_no_9p_ends() {
    let rig = Rig::new();
    let mut witness = Client::connect(&rig.unix(), 8192);
    let oversized = |size: u32| [size.to_le_bytes().to_vec(), vec![100; 60]].concat();
    for first in [oversized(0), oversized(6), oversized(8193), oversized(u32::MAX), b"GET / HTTP/1.1\r\n\r\n".to_vec()]
    {
        for address in rig.addresses() {
            let mut client = Client::open(&address);
            client.send(&first);
            assert!(client.receive().is_none(), "{first:?}");
        }
    }
    let mut client = Client::connect(&rig.unix(), 8192);
    client.send(&oversized(8193));
    assert!(client.receive().is_none(), "more than msize was taken");
    witness.call(&Tgetattr { fid: ROOT, request_mask: AttrMask::BASIC }, &[]);
}

#[test]
fn a_new_version_changes_the_terms() {
    let rig = Rig::new();
    let mut client = Client::connect(&rig.unix(), 1 << 20);
    client.create_file(Fid(1), "file");
    client.write(Fid(1), 0, &[7; 100_000]);
    // The old session's last request and the new session's first arrive together.
    let mut stream = frame(Tag(9), &Tread { fid: Fid(1), offset: 0, count: 100_000 }, &[]);
    stream.extend(version(4096));
    stream.extend(getattr(10));
    client.send(&stream);
    assert_eq!(client.receive().unwrap().len(), 100_011);
    assert_eq!(Rversion::parse(&client.receive().unwrap()).unwrap().1.msize, 4096);
    assert_eq!(header(&client.receive().unwrap()).kind.0, 7, "the fids of the old session are gone");
    client.send(&5000_u32.to_le_bytes());
    assert!(client.receive().is_none());
}

#[test]
fn who_stops_halfway_is_cut_off_and_who_is_silent_is_not() {
    let message = Duration::from_millis(300);
    let rig = Rig::with(ListenLimits { message, ..ListenLimits::default() });
    let mut silent = Client::connect(&rig.unix(), 8192);
    let mut mute = Client::open(&rig.unix());
    let mut halfway = Client::connect(&rig.unix(), 8192);
    halfway.send(&getattr(1)[..10]);
    assert!(mute.receive().is_none(), "a client that never said Tversion");
    assert!(halfway.receive().is_none(), "a message that stopped halfway");
    wait_for_connections(rig.clients(), 1);
    silent.call(&Tgetattr { fid: ROOT, request_mask: AttrMask::BASIC }, &[]);
}

#[test]
fn who_does_not_take_replies_is_cut_off() {
    let message = Duration::from_millis(300);
    let rig = Rig::with(ListenLimits { message, ..ListenLimits::default() });
    let mut deaf = Client::connect(&rig.unix(), 1 << 20);
    deaf.create_file(Fid(1), "file");
    deaf.write(Fid(1), 0, &vec![1; 1 << 19]);
    for _ in 0..16 {
        deaf.start(&Tread { fid: Fid(1), offset: 0, count: 1 << 19 }, &[]);
    }
    wait_for_connections(rig.clients(), 0);
}
