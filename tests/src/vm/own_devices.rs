//! QEMU's own virtio-iommu and virtio-9p: the same guest on an implementation that is not ours.

use std::path::Path;

use super::config::{Arguments, MachineBuilder};

/// A folder that QEMU itself shares.
#[derive(Debug, Clone, Copy)]
pub struct OwnShare<'a> {
    /// The guest's name for it.
    pub tag: &'a str,
    /// The folder.
    pub folder: &'a Path,
    /// Where owners and modes are kept, as QEMU names it: `passthrough`, `mapped-xattr`, `none`.
    pub security: &'a str,
    /// Its slot on bus 0.
    pub slot: u8,
    /// Whether it is behind the IOMMU.
    pub iommu: bool,
}

impl MachineBuilder {
    /// A folder shared by QEMU's own virtio-9p.
    pub fn own_share(self, share: &OwnShare<'_>) -> Self {
        let OwnShare { tag, folder, security, slot, iommu } = *share;
        let behind = if iommu { ",iommu_platform=on,disable-legacy=on" } else { "" };
        let mut args = Arguments::default();
        args.path(
            "-fsdev",
            &format!("local,id={tag},path="),
            folder,
            &format!(",security_model={security},multidevs=remap"),
        );
        args.pair("-device", format!("virtio-9p-pci,fsdev={tag},mount_tag={tag},addr={slot}{behind}"));
        self.tag(tag).extra_args(args.0)
    }

    /// QEMU's own virtio-iommu and `folder` shared twice by its virtio-9p: as `direct` outside the IOMMU and as `translated`
    /// behind it.
    pub fn own_devices(self, folder: &Path, security: &str) -> Self {
        let machine = self.extra_args(["-device", "virtio-iommu-pci,addr=4"]);
        [("direct", 5, false), ("translated", 6, true)].into_iter().fold(machine, |machine, (tag, slot, iommu)| {
            machine.own_share(&OwnShare { tag, folder, security, slot, iommu })
        })
    }
}
