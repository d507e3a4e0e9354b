//! What one driver has agreed on means nothing for the next one.

use std::sync::Arc;

use calgaryd::device::PollPolicy;
use calgaryd::device::iommu::{Iommu, IommuDevice};
use calgaryd::supervisor::{Port, Supervisor};
use calgaryd::transport::socket::BoundSocket;
use calgaryd::transport::vfio_user::wire::Command;
use iommu_calgary::TableSize;

use crate::gate::{Stop, protocol};
use crate::raw::{RawClient, socket};

/// Registers of the common configuration.
const FEATURE_SELECT: u64 = 0x08;
const FEATURE: u64 = 0x0c;
const STATUS: u64 = 0x14;
/// A driver that has agreed on features.
const FEATURES_OK: u8 = 11;
/// BYPASS_CONFIG, in the lower half; and VERSION_1, in the upper one.
const FEATURES: [u32; 2] = [1 << 6, 1];
/// The byte `bypass` of the device's configuration.
const BYPASS: u64 = 0x2000 + 36;

fn agree(client: &mut RawClient) {
    client.write(0, STATUS, &[3]).unwrap();
    for (half, features) in (0_u32..).zip(FEATURES) {
        client.write(0, FEATURE_SELECT, &half.to_le_bytes()).unwrap();
        client.write(0, FEATURE, &features.to_le_bytes()).unwrap();
    }
    client.write(0, STATUS, &[FEATURES_OK]).unwrap();
    assert_eq!(client.read(0, STATUS, 1).unwrap(), [FEATURES_OK]);
}

/// What the byte is after a driver wrote it.
fn bypass_after(client: &mut RawClient, written: u8) -> u8 {
    client.write(0, BYPASS, &[written]).unwrap();
    client.read(0, BYPASS, 1).unwrap()[0]
}

#[test]
fn bypass_is_for_a_driver_that_has_agreed_on_it() {
    let (_folder, socket) = socket();
    let iommu = Arc::new(Iommu::new(TableSize::MiB32, false).unwrap());
    let device = Arc::new(IommuDevice::new(iommu, PollPolicy::Off));
    let port = Port::new(device, BoundSocket::bind(&socket).unwrap(), protocol()).unwrap();
    let (supervisor, stop) = Supervisor::new(vec![port], false, Box::new(|| {})).unwrap();
    std::thread::spawn(move || supervisor.run());
    let _stop = Stop(stop);
    let mut client = RawClient::connect(&socket);
    assert_eq!(bypass_after(&mut client, 1), 0);
    agree(&mut client);
    assert_eq!(bypass_after(&mut client, 1), 1);

    // The status register, the reset of the function, and a client that comes after another one.
    client.write(0, STATUS, &[0]).unwrap();
    assert_eq!(bypass_after(&mut client, 0), 1);
    agree(&mut client);
    assert_eq!(bypass_after(&mut client, 0), 0);
    assert_eq!(client.ask(Command::DeviceReset, &[], &[]).errno, 0);
    assert_eq!(bypass_after(&mut client, 1), 0);
    agree(&mut client);
    assert_eq!(bypass_after(&mut client, 1), 1);
    drop(client);
    let mut client = RawClient::connect(&socket);
    assert_eq!(bypass_after(&mut client, 0), 1);
    agree(&mut client);
    assert_eq!(bypass_after(&mut client, 0), 0);
}
