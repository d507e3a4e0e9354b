//! The daemon against a real Linux guest under QEMU.
//!
//! The guest's parts are fetched once into the user's cache folder. Where they cannot be had the tests say so and are
//! skipped, except under `CI`, where they fail. As many guests run at a time as there are test threads: an emulated one
//! keeps one processor busy.

mod rig;

mod drivers_come_and_go;
mod hot_unplug;
mod misconfigured_vmm;
mod modes_of_the_iommu;
mod pause_and_reboot;
mod posix_cases_as_on_tmpfs;
mod posix_through_both_shares;
mod soak;
mod vfio_user;
