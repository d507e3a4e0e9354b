//! The machines that QEMU emulates, and what differs between them for our devices.

use core::{fmt, str::FromStr};

use crate::{ByteSize, acpi, pci::Bdf, place::Place};

/// RAM of QEMU's `virt` begins here.
const VIRT_RAM: u64 = 1 << 30;
/// Registers of the first virtio-mmio device of QEMU's `virt`, and bytes to the next.
const VIRT_REGISTERS: u64 = 0x0a00_0000;
const VIRT_REGISTERS_BYTES: u64 = 0x200;
const VIRT_DEVICES: u8 = 32;
/// From this size on a PC puts only [`PC_SPLIT_LOW_RAM`] below 4 GiB.
const PC_SPLIT_FROM: u64 = 0xb000_0000;
const PC_SPLIT_LOW_RAM: u64 = 0x8000_0000;

/// A machine that QEMU emulates.
///
/// Where there is no PCI, a device with the address `00:06.0` is the virtio-mmio device 6, and the address is its endpoint
/// id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QemuMachine {
    /// A PC with PCI Express; the guest learns the topology from a VIOT.
    #[default]
    Q35,
    /// A PC with virtio-mmio devices and no PCI; the guest learns it from a VIOT in a set of ACPI tables of its own
    /// ([`acpi::MicrovmTables`]).
    Microvm,
    /// An aarch64 machine with virtio-mmio devices; the guest learns it from `iommus` in its device tree.
    VirtAarch64,
    /// The same machine with the devices on its PCI bus; the guest learns it from `iommu-map`.
    VirtAarch64Pci,
}

impl QemuMachine {
    /// All machines.
    pub const ALL: [Self; 4] = [Self::Q35, Self::Microvm, Self::VirtAarch64, Self::VirtAarch64Pci];

    /// The name, as `--machine` takes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q35 => "q35",
            Self::Microvm => "microvm",
            Self::VirtAarch64 => "virt-aarch64",
            Self::VirtAarch64Pci => "virt-aarch64-pci",
        }
    }

    /// The QEMU program.
    #[must_use]
    pub const fn program(self) -> &'static str {
        if self.is_aarch64() { "qemu-system-aarch64" } else { "qemu-system-x86_64" }
    }

    /// Whether its processors are aarch64, and its topology is in a device tree.
    #[must_use]
    pub const fn is_aarch64(self) -> bool {
        matches!(self, Self::VirtAarch64 | Self::VirtAarch64Pci)
    }

    /// Whether devices are on a PCI bus.
    #[must_use]
    pub const fn has_pci(self) -> bool {
        matches!(self, Self::Q35 | Self::VirtAarch64Pci)
    }

    /// The value of QEMU's `-M`, without the memory.
    #[must_use]
    pub const fn option(self) -> &'static str {
        match self {
            Self::Q35 => "q35",
            Self::Microvm => "microvm,acpi=on",
            Self::VirtAarch64 | Self::VirtAarch64Pci => "virt,gic-version=3",
        }
    }

    /// The kernel's first serial port.
    #[must_use]
    pub const fn console(self) -> &'static str {
        if self.is_aarch64() { "ttyAMA0" } else { "ttyS0" }
    }

    /// First and last slot, or virtio-mmio device, that is free for devices of a user's.
    #[must_use]
    pub const fn slots(self) -> (u8, u8) {
        match self {
            Self::Q35 => (0x01, 0x1e),
            Self::Microvm => (0x00, acpi::MICROVM_DEVICES - 1),
            Self::VirtAarch64 => (0x00, VIRT_DEVICES - 1),
            Self::VirtAarch64Pci => (0x01, 0x1f),
        }
    }

    /// Where RAM begins.
    #[must_use]
    pub const fn ram_start(self) -> u64 {
        if self.is_aarch64() { VIRT_RAM } else { 0 }
    }

    /// Where the RAM that begins at [`QemuMachine::ram_start`] ends, with `ram` in all: a PC puts 2 GiB below 4 GiB if
    /// there are 2.75 GiB or more, else all of it.
    #[must_use]
    pub const fn ram_end(self, ram: ByteSize) -> ByteSize {
        if self.is_aarch64() {
            ByteSize::from_bytes(VIRT_RAM.saturating_add(ram.bytes()))
        } else if ram.bytes() >= PC_SPLIT_FROM {
            ByteSize::from_bytes(PC_SPLIT_LOW_RAM)
        } else {
            ram
        }
    }

    /// Where the guest finds the device at `at`.
    #[must_use]
    pub fn place(self, at: Bdf) -> Place {
        match self {
            Self::Q35 | Self::VirtAarch64Pci => Place::pci(at),
            Self::Microvm => Place::mmio(at, acpi::microvm_registers(at.device())),
            Self::VirtAarch64 => Place::mmio(at, VIRT_REGISTERS + VIRT_REGISTERS_BYTES * u64::from(at.device())),
        }
    }

    /// QEMU's vhost-user device.
    pub(super) const fn vhost_user_device(self) -> &'static str {
        if self.has_pci() { "vhost-user-test-device-pci" } else { "vhost-user-test-device" }
    }

    /// The option that puts a device at `at`.
    pub(super) fn placement(self, at: Bdf) -> String {
        if self.has_pci() {
            format!("addr={:02x}.{}", at.device(), at.function())
        } else {
            format!("bus=virtio-mmio-bus.{}", at.device())
        }
    }
}

impl FromStr for QemuMachine {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::name);
        Self::ALL.into_iter().find(|machine| machine.name() == text).ok_or_else(|| {
            format!("{text:?} is no machine that can be attached to; choose one of {}", names.join(", "))
        })
    }
}

impl fmt::Display for QemuMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for machine in QemuMachine::ALL {
            assert_eq!(machine.to_string().parse(), Ok(machine));
        }
        assert!("pc".parse::<QemuMachine>().unwrap_err().contains("q35, microvm, virt-aarch64"));
    }

    #[test]
    fn ram_is_where_the_machine_puts_it() {
        let mib = |mib: u64| ByteSize::from_bytes(mib << 20);
        assert_eq!(QemuMachine::Q35.ram_end(mib(2815)), mib(2815));
        assert_eq!(QemuMachine::Q35.ram_end(mib(2816)), mib(2048));
        assert_eq!(QemuMachine::VirtAarch64.ram_end(mib(3072)), mib(4096));
    }

    #[test]
    fn places_are_those_of_the_machine() {
        let at = Bdf::new(0, 6, 0).unwrap();
        assert_eq!(QemuMachine::Q35.place(at).to_string(), "00:06.0");
        assert_eq!(QemuMachine::Microvm.place(at).to_string(), "00:06.0@0xfeb00c00");
        assert_eq!(QemuMachine::VirtAarch64.place(at).to_string(), "00:06.0@0xa000c00");
    }
}
