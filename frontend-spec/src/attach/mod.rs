//! Command lines that attach the devices to a VMM.
//!
//! [`QemuAttachment`] says which devices a guest shall have and where; [`QemuAttachment::args`] checks that and gives
//! [`QemuArgs`], for a process to be started or for a person to paste. The same devices can be had as options of crosvm and
//! cloud-hypervisor, and as a libvirt domain, as far as those can have them.

mod args;
mod check;
mod devices;
mod machine;
mod others;
mod qemu;

pub use args::{QemuArgs, shell_word};
pub use check::AttachError;
pub use devices::{
    IOMMU_QUEUE_SIZE, IOMMU_QUEUES, IommuDevice, NINEP_QUEUE_SIZE, NINEP_QUEUES, QemuAttachment, ShareDevice,
    TRANSLATED_NINEP_QUEUE_SIZE, ninep_queue_size,
};
pub use machine::QemuMachine;
pub use others::OtherError;
