//! The crate `vhost`'s front end with cloud-hypervisor's and crosvm's feature masks, widths and offsets of configuration
//! accesses, and queue sizes.

use std::path::Path;
use std::sync::Arc;

use calgary_tests::guest::{GuestMemory, Transport, VhostUserDevice, VhostUserOptions};
use calgaryd::transport::TransportKind::VhostUser;
use frontend_spec::ninep;
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserProtocolFeatures};

use crate::serve;

/// The virtio bits that cloud-hypervisor's generic vhost-user device lets through: INDIRECT_DESC, EVENT_IDX, VERSION_1,
/// IN_ORDER, ORDER_PLATFORM, NOTIFICATION_DATA.
const CLOUD_HYPERVISOR: u64 = 1 << 28 | 1 << 29 | 1 << 32 | 1 << 35 | 1 << 36 | 1 << 38;
/// crosvm's default.
const CROSVM_QUEUE_SIZE: u16 = 32_768;

fn connect(socket: &Path, protocol: VhostUserProtocolFeatures) -> VhostUserDevice {
    let memory = Arc::new(GuestMemory::new(16).unwrap());
    let options = VhostUserOptions { protocol_features: protocol, ..VhostUserOptions::new(socket, 1) };
    VhostUserDevice::connect(memory, options).unwrap()
}

fn cloud_hypervisor() -> VhostUserProtocolFeatures {
    VhostUserProtocolFeatures::CONFIG
        | VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
        | VhostUserProtocolFeatures::REPLY_ACK
        | VhostUserProtocolFeatures::INFLIGHT_SHMFD
        | VhostUserProtocolFeatures::LOG_SHMFD
        | VhostUserProtocolFeatures::DEVICE_STATE
        | VhostUserProtocolFeatures::BACKEND_REQ
}

#[test]
fn cloud_hypervisor_is_not_offered_what_the_daemon_cannot_do() {
    let served = serve(VhostUser);
    let device = connect(&served.socket, cloud_hypervisor());
    let missing = VhostUserProtocolFeatures::INFLIGHT_SHMFD
        | VhostUserProtocolFeatures::LOG_SHMFD
        | VhostUserProtocolFeatures::DEVICE_STATE;
    assert!((device.protocol_features() & missing).is_empty());
    assert!(
        device.protocol_features().contains(VhostUserProtocolFeatures::CONFIG | VhostUserProtocolFeatures::REPLY_ACK)
    );
}

#[test]
fn cloud_hypervisors_mask_hides_the_mount_tag() {
    let served = serve(VhostUser);
    let mut device = connect(&served.socket, cloud_hypervisor());
    assert!(device.offered() & ninep::feature::MOUNT_TAG != 0);
    // Why `attach cloud-hypervisor` asks for vfio-user: its guest's driver refuses what is left.
    let negotiated = device.negotiate(CLOUD_HYPERVISOR).unwrap();
    assert_eq!(negotiated & ninep::feature::MOUNT_TAG, 0);
}

#[test]
fn configuration_is_read_in_any_width_at_any_offset() {
    let served = serve(VhostUser);
    let mut device = connect(&served.socket, cloud_hypervisor());
    let whole = b"\x04\x00home";
    for offset in 0..8_u32 {
        for width in [1, 2, 4, 8] {
            let mut bytes = vec![0xff; width];
            device.read_config(offset, &mut bytes).unwrap();
            // An answer of another size makes cloud-hypervisor end; beyond the end there are zeros.
            let expected: Vec<u8> =
                (0..width).map(|at| whole.get(offset as usize + at).copied().unwrap_or(0)).collect();
            assert_eq!(bytes, expected, "{width} bytes at {offset}");
        }
    }
    // A failed write would end it too, so a write of anything anywhere is taken and has no effect.
    for (offset, bytes) in [(0, &b"\xff"[..]), (2, b"root"), (5, b"\0\0\0\0\0\0\0\0")] {
        device.frontend().set_config(offset, VhostUserConfigFlags::WRITABLE, bytes).unwrap();
    }
    let mut bytes = [0; 6];
    device.read_config(0, &mut bytes).unwrap();
    assert_eq!(&bytes, whole);
}

#[test]
fn crosvms_unbounded_queues_are_refused_and_the_next_client_is_served() {
    let served = serve(VhostUser);
    let crosvm = VhostUserProtocolFeatures::CONFIG
        | VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::BACKEND_REQ
        | VhostUserProtocolFeatures::DEVICE_STATE
        | VhostUserProtocolFeatures::REPLY_ACK;
    let mut device = connect(&served.socket, crosvm);
    assert_eq!(device.queue_count(), 1, "crosvm takes the number of queues from GET_QUEUE_NUM");
    assert!(device.frontend().set_vring_num(0, CROSVM_QUEUE_SIZE).is_err());
    drop(device);
    // What `attach crosvm` prints.
    let mut device = connect(&served.socket, crosvm);
    device.frontend().set_vring_num(0, frontend_spec::attach::NINEP_QUEUE_SIZE).unwrap();
}
