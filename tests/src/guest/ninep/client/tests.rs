use super::*;
use crate::guest::dma::Direct;
use crate::guest::fake::{FakeDevice, FakeServer};
use crate::guest::ninep::{NONUNAME, PageBuffer};
use crate::guest::vhost_user::{VhostUserDevice, VhostUserOptions};

const ROOT: u32 = 0;
const FILE: u32 = 1;

fn start(fake: &FakeDevice<FakeServer>, options: ClientOptions) -> NinepClient {
    let memory = Arc::new(GuestMemory::new(8).unwrap());
    let device = VhostUserDevice::connect(Arc::clone(&memory), VhostUserOptions::new(fake.socket(), 1)).unwrap();
    let mut client = NinepClient::start(Box::new(device), memory, Arc::new(Direct), options).unwrap();
    assert_eq!(client.version(1 << 20).unwrap(), 500 << 10);
    client.attach(ROOT, b"", NONUNAME).unwrap();
    client.walk(ROOT, FILE, &[]).unwrap();
    client.lcreate(FILE, b"file", 0o102, 0o600, 0).unwrap();
    client
}

#[test]
fn large_transfers_go_page_by_page_and_small_ones_in_one_piece() {
    let fake = FakeDevice::start(FakeServer::new(None));
    let mut client = start(&fake, ClientOptions::default());
    let data: Vec<u8> = (0..10_000_u32).map(|index| index.to_le_bytes()[0]).collect();
    assert_eq!(client.write(FILE, 0, &data).unwrap(), 10_000);
    let shape = fake.model.last_shape.lock().unwrap().clone();
    assert_eq!(shape, (vec![23, 4096, 4096, 1808], vec![4096]));
    assert_eq!(client.read(FILE, 100, 9000).unwrap(), data[100..9100]);
    let shape = fake.model.last_shape.lock().unwrap().clone();
    assert_eq!(shape, (vec![23], vec![11, 4096, 4096, 808]));
    assert_eq!(client.read(FILE, 9_990, 1024).unwrap(), data[9_990..]);
    let shape = fake.model.last_shape.lock().unwrap().clone();
    assert_eq!(shape, (vec![23], vec![1035]));
    client.write(FILE, 0, &data[..1024]).unwrap();
    let shape = fake.model.last_shape.lock().unwrap().clone();
    assert_eq!(shape, (vec![23 + 1024], vec![4096]));
}

#[test]
fn errors_are_errnos_even_where_only_a_header_fits() {
    let fake = FakeDevice::start(FakeServer::new(None));
    let mut client = start(&fake, ClientOptions::default());
    assert_eq!(client.walk(ROOT, 5, &[b"none"]).unwrap_err().errno(), Some(2));
    assert_eq!(client.read(99, 0, 8192).unwrap_err().errno(), Some(9));
    assert_eq!(client.mkdir(ROOT, b"d", 0o700, 0).unwrap_err().errno(), Some(95));
    // Replies that break the protocol: not a qid, and a message that is too short.
    assert!(matches!(client.readlink(ROOT), Err(NinepError::Protocol(_))));
    assert_eq!(client.statfs(ROOT).unwrap().name_bytes, 0x0707_0707);
}

#[test]
fn many_requests_can_be_out_at_once() {
    for (waiting, features) in
        [(Waiting::Interrupt, F_INDIRECT_DESC | F_EVENT_IDX), (Waiting::Poll, F_EVENT_IDX), (Waiting::Interrupt, 0)]
    {
        let fake = FakeDevice::start(FakeServer::new(None));
        let options = ClientOptions { waiting, ring_features: features, depth: 16, ..ClientOptions::default() };
        let mut client = start(&fake, options);
        let data: Vec<u8> = (0..64 << 10).map(|index: u32| (index / 4096).to_le_bytes()[0]).collect();
        client.write(FILE, 0, &data).unwrap();
        let kicks = client.queue().kicks();
        let mut buffers = Vec::new();
        for page in 0..16_u64 {
            let buffer = PageBuffer::new(client.memory(), 4096, 0).unwrap();
            let tag = client.submit(Call::read_pages(FILE, page * 4096, &buffer, 0..4096)).unwrap();
            buffers.push((tag, buffer));
        }
        assert!(matches!(client.submit(Call::clunk(FILE)), Err(NinepError::NoTag(16))));
        client.kick().unwrap();
        assert!(client.queue().kicks() <= kicks + 1);
        let first = client.wait_any().unwrap();
        assert!(client.is_done(first).unwrap());
        for (page, (tag, buffer)) in buffers.iter().enumerate().rev() {
            assert_eq!(client.collect(*tag).unwrap().data_bytes().unwrap(), 4096);
            let mut bytes = [0xff; 4096];
            buffer.read(0, &mut bytes).unwrap();
            assert!(bytes.iter().all(|byte| usize::from(*byte) == page));
        }
        assert!(matches!(client.collect(first), Err(NinepError::UnknownTag(_))));
        assert_eq!(client.in_flight(), 0);
    }
}

#[test]
fn a_flushed_request_comes_back_before_the_flush() {
    let fake = FakeDevice::start(FakeServer::new(None));
    let mut client = start(&fake, ClientOptions::default());
    let held = client.submit(Call::fsync(FILE, false)).unwrap();
    client.kick().unwrap();
    client.flush(held).unwrap();
    assert!(matches!(client.collect(held), Err(NinepError::Dropped)));

    let fake = FakeDevice::start(FakeServer::flushing_first());
    let mut client = start(&fake, ClientOptions::default());
    let held = client.submit(Call::fsync(FILE, false)).unwrap();
    client.kick().unwrap();
    assert!(matches!(client.flush(held), Err(NinepError::FlushedBeforeReturned)));
}

#[test]
fn a_share_that_must_be_translated_has_to_offer_it() {
    let fake = FakeDevice::start(FakeServer::new(None));
    let memory = Arc::new(GuestMemory::new(8).unwrap());
    let device = VhostUserDevice::connect(Arc::clone(&memory), VhostUserOptions::new(fake.socket(), 1)).unwrap();
    let options = ClientOptions { translated: true, ..ClientOptions::default() };
    let error = NinepClient::start(Box::new(device), memory, Arc::new(Direct), options).unwrap_err();
    assert!(error.to_string().contains("ACCESS_PLATFORM"), "{error}");
}

#[test]
fn all_pages_come_back_when_the_client_is_dropped() {
    let fake = FakeDevice::start(FakeServer::new(None));
    let memory = Arc::new(GuestMemory::new(8).unwrap());
    let free = memory.free_pages();
    let device = VhostUserDevice::connect(Arc::clone(&memory), VhostUserOptions::new(fake.socket(), 1)).unwrap();
    let options = ClientOptions::default();
    let mut client = NinepClient::start(Box::new(device), Arc::clone(&memory), Arc::new(Direct), options).unwrap();
    client.version(8192).unwrap();
    drop(client);
    assert_eq!(memory.free_pages(), free);
}

#[test]
fn raw_bytes_reach_the_server_in_any_pieces() {
    let fake = FakeDevice::start(FakeServer::new(None));
    let mut client = start(&fake, ClientOptions::default());
    let clunk = [11, 0, 0, 0, 120, 0x34, 0x12, 1, 0, 0, 0];
    let mut exchange = RawExchange::new(&clunk, 0).cut_readable(&[3, 5]);
    exchange.writable = vec![2, 20];
    let reply = client.exchange(&exchange).unwrap();
    assert_eq!(reply.used_bytes, 7);
    assert_eq!(reply.writable[..7], [7, 0, 0, 0, 121, 0x34, 0x12]);
    assert_eq!(reply.writable[7..], [RawExchange::POISON; 15]);
}

#[test]
fn requests_made_together_go_out_together_or_their_tags_come_back() {
    let fake = FakeDevice::start(FakeServer::new(None));
    let mut client = start(&fake, ClientOptions { depth: 4, ..ClientOptions::default() });
    let reads = |count| (0..count).map(|_| Call::read(FILE, 0, 8));
    let mut tags = Vec::new();
    client.submit_all(reads(4), &mut tags).unwrap();
    assert_eq!((tags.len(), client.in_flight()), (4, 4));
    client.kick().unwrap();
    for tag in tags.drain(..) {
        client.collect(tag).unwrap();
    }
    let error = client.submit_all(reads(5), &mut tags).unwrap_err();
    assert!(matches!(error, NinepError::NoTag(4)), "{error}");
    assert_eq!((tags.len(), client.in_flight()), (0, 0));
}
