//! A guest's processor stands still while it reads the configuration of a device.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use calgaryd::device::PollPolicy;
use calgaryd::device::iommu::{Iommu, IommuDevice};
use calgaryd::transport::Device;
use frontend_spec::iommu::{Config, feature};
use iommu_calgary::TableSize;

#[test]
fn it_is_read_while_the_tables_are_in_use() {
    let iommu = Arc::new(Iommu::new(TableSize::MiB32, false).unwrap());
    let device = IommuDevice::new(Arc::clone(&iommu), PollPolicy::Off);
    device.ack_features(feature::BYPASS_CONFIG);
    let offset = u32::try_from(Config::BYPASS_OFFSET).unwrap();
    for bypass in [1, 0] {
        device.write_config(offset, &[bypass]);
        std::thread::scope(|scope| {
            // As long as a batch that waits for DMA has them.
            iommu.inspect(|_| {
                let (sender, read) = channel();
                let device = &device;
                scope.spawn(move || {
                    let mut bytes = [0xff];
                    device.read_config(offset, &mut bytes);
                    sender.send(bytes).unwrap();
                });
                assert_eq!(read.recv_timeout(Duration::from_secs(30)), Ok([bypass]), "the driver waits");
            });
        });
    }
}
