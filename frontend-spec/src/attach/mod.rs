//! Command lines that attach the devices to a VMM.
//!
//! [`QemuAttachment`] says which devices a guest shall have and where; [`QemuAttachment::args`] checks that and gives
//! [`QemuArgs`], for a process to be started or for a person to paste.

mod args;
mod machine;
mod qemu;

pub use args::{QemuArgs, shell_word};
pub use machine::QemuMachine;
pub use qemu::{
    AttachError, IOMMU_QUEUE_SIZE, IOMMU_QUEUES, IommuDevice, NINEP_QUEUE_SIZE, NINEP_QUEUES, QemuAttachment,
    ShareDevice,
};
