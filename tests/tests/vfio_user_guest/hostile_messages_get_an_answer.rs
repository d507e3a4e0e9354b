//! Whatever a client says is answered or ends its own connection; the device serves on.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};

use calgary_tests::guest::{Mapping, transfer};
use calgaryd::transport::vfio_user::wire::{Command, flag};

use crate::raw::{CONFIG, RawClient, access, dma_map, dma_unmap};
use crate::rig::{DIRECT, Rig};

const INVALID: u32 = libc::EINVAL.unsigned_abs();

fn connect(rig: &Rig) -> RawClient {
    RawClient::connect(rig.config.shares[1].socket.as_ref().unwrap())
}

/// The device and the daemon are well.
fn serves_on(rig: &Rig) {
    let mut guest = rig.guest(Mapping::Strict);
    assert_eq!(guest.shares[1].client.mount_tag(), DIRECT.as_bytes());
    assert!(transfer(&mut guest.shares[1], b"file", 1).unwrap().is_intact());
}

fn set_irqs(flags: u32, index: u32, start: u32, count: u32) -> Vec<u8> {
    [20, flags, index, start, count].iter().flat_map(|word: &u32| word.to_ne_bytes()).collect()
}

#[test]
fn each_mistake_is_told_and_the_next_command_works() {
    let rig = Rig::new();
    let mut client = connect(&rig);
    let null = File::open("/dev/null").unwrap();
    let null: &[RawFd] = &[null.as_raw_fd()];
    let unknown =
        [0, 11, 12, 14, 16, u16::MAX].map(|command| (command, vec![0; 32], &[][..], libc::ENOSYS.unsigned_abs()));
    let known = [
        (Command::DmaMap, vec![0; 31], &[][..], INVALID),
        (Command::DmaMap, dma_map(3, 0, 0, 4096), null, INVALID),
        (Command::DmaMap, dma_map(3, 0, 0, 4096), &[], INVALID),
        (Command::DmaMap, dma_map(3, 0, 1, 4096), &[], INVALID),
        (Command::DmaMap, dma_map(3, 0, u64::MAX - 4095, 4096), &[], INVALID),
        (Command::DmaUnmap, vec![0; 23], &[], INVALID),
        (Command::DmaUnmap, dma_unmap(0, 0, 0), &[], INVALID),
        (Command::DmaUnmap, dma_unmap(1, 0, 4096), &[], libc::EOPNOTSUPP.unsigned_abs()),
        (Command::DeviceGetInfo, vec![], &[], INVALID),
        (
            Command::DeviceGetRegionInfo,
            [32_u32, 0, 9, 0, 0, 0, 0, 0].iter().flat_map(|w| w.to_ne_bytes()).collect(),
            &[],
            INVALID,
        ),
        (Command::DeviceGetIrqInfo, [16_u32, 0, 5, 0].iter().flat_map(|w| w.to_ne_bytes()).collect(), &[], INVALID),
        (Command::DeviceSetIrqs, set_irqs(1 << 2 | 1 << 5, 2, 0, 1), null, INVALID),
        (Command::DeviceSetIrqs, set_irqs(1 << 2 | 1 << 5, 2, 0, u32::MAX), &[], INVALID),
        (Command::DeviceSetIrqs, set_irqs(u32::MAX, 2, 0, 1), &[], INVALID),
        (Command::RegionRead, access(0, 0x4000, 1, &[]), &[], INVALID),
        (Command::RegionRead, access(0, u64::MAX, 2, &[]), &[], INVALID),
        (Command::RegionRead, access(8, 0, 1, &[]), &[], INVALID),
        (Command::RegionRead, access(0, 0, u32::MAX, &[]), &[], libc::E2BIG.unsigned_abs()),
        (Command::RegionWrite, access(CONFIG, 255, 2, &[0, 0]), &[], INVALID),
        (Command::RegionWrite, access(CONFIG, 0, 4, &[0]), &[], INVALID),
        (Command::RegionWriteMulti, u64::MAX.to_ne_bytes().to_vec(), &[], INVALID),
    ]
    .map(|(command, payload, fds, errno)| (command as u16, payload, fds, errno));
    for (command, payload, fds, errno) in unknown.into_iter().chain(known) {
        let id = client.send(command, 0, &payload, fds);
        let answer = client.receive();
        assert_eq!((answer.id, answer.errno), (id, errno), "command {command}: {payload:?}");
        assert_eq!(client.read(CONFIG, 0, 2).unwrap(), [0xf4, 0x1a], "after command {command}");
    }
    drop(client);
    serves_on(&rig);
}

#[test]
fn any_access_to_any_region_is_harmless() {
    let rig = Rig::new();
    let mut client = connect(&rig);
    for region in [0, 1, CONFIG] {
        let size = if region == CONFIG { 256 } else { 0x1000 };
        for offset in (0..size).chain([0x2ffd, 0x3ffe]) {
            for width in [1, 2, 3, 4, 8, 13] {
                let read = client.read(region, offset, width);
                let wrote = client.write(region, offset, &vec![0xff; usize::try_from(width).unwrap()]);
                assert_eq!(read.is_err(), wrote.is_err(), "region {region}, offset {offset:#x}, width {width}");
            }
        }
        assert!(client.read(region, 0, 0).unwrap().is_empty());
    }
    drop(client);
    serves_on(&rig);
}

#[test]
fn a_stream_that_makes_no_sense_ends_its_connection_only() {
    let rig = Rig::new();
    for size in [0_u32, 15, 65_537, u32::MAX] {
        let mut client = connect(&rig);
        let mut header = [1_u16.to_ne_bytes(), 9_u16.to_ne_bytes()].concat();
        header.extend([size, 0, 0].iter().flat_map(|word| word.to_ne_bytes()));
        client.say(&header);
        assert!(client.is_over(), "size {size}");
    }
    // Ends in the middle of a message, or before any.
    let mut client = connect(&rig);
    client.say(&[0; 7]);
    drop(client);
    drop(RawClient::silent(rig.config.shares[1].socket.as_ref().unwrap()));
    serves_on(&rig);
}

#[test]
fn nothing_works_before_the_version_is_agreed_on() {
    let rig = Rig::new();
    let mut client = RawClient::silent(rig.config.shares[1].socket.as_ref().unwrap());
    assert_eq!(client.read(CONFIG, 0, 2), Err(INVALID));
    assert_eq!(client.ask(Command::Version, &[1, 0, 0, 0], &[]).errno, libc::EOPNOTSUPP.unsigned_abs());
    assert_eq!(client.ask(Command::Version, b"\0\0\0\0{\0", &[]).errno, INVALID);
    assert_eq!(client.read(CONFIG, 0, 2), Err(INVALID));
    assert_eq!(client.ask(Command::Version, &[0, 0, 0, 0], &[]).errno, 0);
    assert_eq!(client.read(CONFIG, 0, 2).unwrap(), [0xf4, 0x1a]);
}

#[test]
fn a_command_that_wants_no_reply_gets_none() {
    let rig = Rig::new();
    let mut client = connect(&rig);
    for (command, payload) in [
        (Command::RegionRead, access(CONFIG, 0, 2, &[])),
        (Command::RegionWrite, access(0, 0x2000, 1, &[0])),
        (Command::RegionWrite, access(0, 0x3000, 2, &[0, 0])),
        (Command::DmaUnmap, dma_unmap(0, 0, 4096)),
        (Command::DmaMap, vec![]),
        (Command::DeviceReset, vec![]),
    ] {
        client.send(command as u16, flag::NO_REPLY, &payload, &[]);
    }
    client.send(200, flag::NO_REPLY, &[], &[]);
    // A reply to nothing is no command.
    client.send(Command::RegionRead as u16, flag::REPLY, &access(CONFIG, 0, 2, &[]), &[]);
    assert_eq!(client.read(CONFIG, 0, 2).unwrap(), [0xf4, 0x1a]);
}

#[test]
fn descriptors_that_nobody_wants_are_closed() {
    let rig = Rig::new();
    let mut client = connect(&rig);
    let (reader, writer) = std::io::pipe().unwrap();
    let fds = vec![writer.as_raw_fd(); 16];
    for command in 0..20 {
        client.send(command, 0, &[0; 40], &fds);
        client.receive();
    }
    assert_ne!(client.ask(Command::RegionRead, &access(CONFIG, 0, 2, &[]), &[writer.as_raw_fd(); 40]).errno, 0);
    drop(writer);
    // The end of the pipe: no copy of the other end is left, neither here nor in the daemon.
    assert_eq!(std::io::Read::read(&mut &reader, &mut [0]).unwrap(), 0);
}

#[test]
fn doorbells_are_offered_as_descriptors() {
    let rig = Rig::new();
    let mut client = connect(&rig);
    let request = |argsz: u32| [argsz, 0, 0, 0].iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
    let answer = client.ask(Command::DeviceGetRegionIoFds, &request(16), &[]);
    assert_eq!(answer.payload, [56_u32, 0, 0, 1].iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>());
    let answer = client.ask(Command::DeviceGetRegionIoFds, &request(56), &[]);
    assert_eq!(answer.payload.len(), 56);
    assert_eq!(answer.payload[16..24], 0x3000_u64.to_ne_bytes());
}
