//! ACPI tables for QEMU's machine `microvm`, which takes none from the outside: without PCI, a guest learns of an IOMMU
//! from a VIOT alone, and finds it only through a root pointer of ours.
//!
//! The image holds all that the machine's own tables say (two I/O APICs, 24 virtio-mmio devices, power-off, the serial
//! port) and the VIOT. It is loaded into RAM at an address, and the kernel is told so ([`MicrovmTables::kernel_arguments`]).

use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, aml};

use crate::viot::{Viot, ViotError};

/// virtio-mmio devices of a `microvm` machine, `virtio-mmio-bus.0` to `.23`.
pub const MICROVM_DEVICES: u8 = 24;
/// Bytes that an image takes at most, and a multiple of the page size.
pub const IMAGE_BYTES: u64 = 16 << 10;

const FIRST_REGISTERS: u32 = 0xfeb0_0000;
const REGISTERS_BYTES: u32 = 0x200;
/// The second I/O APIC's first interrupt, and the first device's.
const FIRST_INTERRUPT: u32 = 24;
const IO_APICS: [(u32, u32); 2] = [(0xfec0_0000, 0), (0xfec1_0000, FIRST_INTERRUPT)];
const LOCAL_APIC: u32 = 0xfee0_0000;
/// Registers of the generic event device: sleep control, sleep status, reset.
const SLEEP_CONTROL: u64 = 0xfea0_0200;
const SLEEP_STATUS: u64 = 0xfea0_0201;
const RESET: u64 = 0xfea0_0202;
const RESET_VALUE: u8 = 0x42;

const OEM: [u8; 6] = *b"CALGRY";
const OEM_TABLE: [u8; 8] = *b"CALGARYD";
const OEM_REVISION: u32 = 1;
const FADT_BYTES: u32 = 268;
/// FADT flags: hardware-reduced ACPI, and a reset register.
const HARDWARE_REDUCED: u32 = 1 << 20;
const RESET_SUPPORTED: u32 = 1 << 10;
/// Tables begin at multiples of this.
const ALIGNMENT: usize = 16;

/// Guest-physical address of the registers of `virtio-mmio-bus.device` on a `microvm` machine.
#[must_use]
pub const fn microvm_registers(device: u8) -> u64 {
    FIRST_REGISTERS as u64 + REGISTERS_BYTES as u64 * device as u64
}

/// The tables of one `microvm` machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MicrovmTables {
    /// Guest-physical address that the image is loaded at: a multiple of 4 KiB in RAM below 4 GiB, where neither kernel nor
    /// initial RAM disk is.
    pub address: u32,
    /// Processors, at least 1.
    pub cpus: u8,
    /// What the IOMMU translates.
    pub viot: Viot,
}

/// Why there are no tables.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcpiError {
    /// The topology has none.
    #[error(transparent)]
    Viot(#[from] ViotError),
    /// They are larger than what the kernel sets aside.
    #[error(
        "the tables have {0} bytes and the kernel sets {IMAGE_BYTES} aside for them; put fewer devices behind the IOMMU, or \
         give those on PCI consecutive addresses"
    )]
    TooLarge(usize),
    /// They would not end below 4 GiB.
    #[error("tables at {0:#x} would not end below 4 GiB; load them at a lower address, such as 0x10000000")]
    Address(u32),
}

impl MicrovmTables {
    /// The image, root pointer first, to be loaded at [`MicrovmTables::address`]: at most [`IMAGE_BYTES`], which is what
    /// the kernel is told to set aside.
    ///
    /// # Errors
    /// See [`AcpiError`].
    pub fn encode(&self) -> Result<Vec<u8>, AcpiError> {
        if u64::from(self.address) + IMAGE_BYTES > 1 << 32 {
            return Err(AcpiError::Address(self.address));
        }
        let mut image = Image { address: u64::from(self.address), bytes: vec![0; Rsdp::len()] };
        let dsdt = image.put(&dsdt());
        let tables = [image.put(&fadt(dsdt)), image.put(&madt(self.cpus)), image.put(&self.viot.encode()?)];
        let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
        tables.into_iter().for_each(|table| xsdt.add_entry(table));
        let xsdt = image.put(&bytes(&xsdt));
        let root = bytes(&Rsdp::new(OEM, xsdt));
        image.bytes[..root.len()].copy_from_slice(&root);
        match image.bytes.len() {
            len if len as u64 > IMAGE_BYTES => Err(AcpiError::TooLarge(len)),
            _ => Ok(image.bytes),
        }
    }

    /// What the kernel's command line must say so that it takes these tables for the machine's.
    #[must_use]
    pub fn kernel_arguments(&self) -> String {
        format!("memmap={}K#{:#x} acpi_rsdp={:#x}", IMAGE_BYTES >> 10, self.address, self.address)
    }
}

struct Image {
    address: u64,
    bytes: Vec<u8>,
}

impl Image {
    /// Appends `table`; returns its address in the guest.
    fn put(&mut self, table: &[u8]) -> u64 {
        let at = self.bytes.len().next_multiple_of(ALIGNMENT);
        self.bytes.resize(at, 0);
        self.bytes.extend_from_slice(table);
        self.address + at as u64
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// The fixed table: hardware-reduced, with the registers of the generic event device.
fn fadt(dsdt: u64) -> Vec<u8> {
    let mut table = Sdt::new(*b"FACP", FADT_BYTES, 5, OEM, OEM_TABLE, OEM_REVISION);
    table.write_u32(112, HARDWARE_REDUCED | RESET_SUPPORTED);
    let mut register = |at: usize, address: u64| {
        // Generic address structure: system memory, 8 bits wide.
        table.write_u8(at + 1, 8);
        table.write_u64(at + 4, address);
    };
    register(116, RESET);
    register(244, SLEEP_CONTROL);
    register(256, SLEEP_STATUS);
    table.write_u8(128, RESET_VALUE);
    table.write_u64(140, dsdt);
    table.as_slice().to_vec()
}

fn madt(cpus: u8) -> Vec<u8> {
    let mut table = MADT::new(OEM, OEM_TABLE, OEM_REVISION, LocalInterruptController::Address(LOCAL_APIC));
    for cpu in 0..cpus {
        table.add_structure(ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled));
    }
    for (id, (address, first)) in (0..).zip(IO_APICS) {
        table.add_structure(IoApic::new(id, address, first));
    }
    bytes(&table)
}

/// The serial port, the virtio-mmio devices and the way to power off.
fn dsdt() -> Vec<u8> {
    let mut code = Vec::new();
    serial_port(&mut code);
    for device in 0..MICROVM_DEVICES {
        virtio_device(device, &mut code);
    }
    let zero = 0_u8;
    aml::Name::new("_S5_".into(), &aml::Package::new(vec![&5_u8, &zero, &zero, &zero])).to_aml_bytes(&mut code);
    let mut table = Sdt::new(*b"DSDT", 36, 2, OEM, OEM_TABLE, OEM_REVISION);
    table.append_slice(&code);
    table.as_slice().to_vec()
}

fn serial_port(code: &mut Vec<u8>) {
    let registers = aml::IO::new(0x3f8, 0x3f8, 0, 8);
    let interrupt = aml::Interrupt::new(true, true, false, false, 4);
    aml::Device::new(
        "_SB_.COM1".into(),
        vec![
            &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0501")),
            &aml::Name::new("_UID".into(), &aml::ONE),
            &aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(vec![&registers, &interrupt])),
        ],
    )
    .to_aml_bytes(code);
}

fn virtio_device(device: u8, code: &mut Vec<u8>) {
    let base = FIRST_REGISTERS + REGISTERS_BYTES * u32::from(device);
    let registers = aml::Memory32Fixed::new(true, base, REGISTERS_BYTES);
    let interrupt = aml::Interrupt::new(true, false, false, false, FIRST_INTERRUPT + u32::from(device));
    aml::Device::new(
        format!("_SB_.VR{device:02}").as_str().into(),
        vec![
            &aml::Name::new("_HID".into(), &"LNRO0005"),
            &aml::Name::new("_UID".into(), &device),
            &aml::Name::new("_CCA".into(), &aml::ONE),
            &aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(vec![&registers, &interrupt])),
        ],
    )
    .to_aml_bytes(code);
}

#[cfg(test)]
mod tests {
    use crate::{pci::Bdf, place::Place};

    use super::*;

    fn tables() -> MicrovmTables {
        let place = |device: u8| Place::mmio(Bdf::new(0, device, 0).unwrap(), microvm_registers(device));
        MicrovmTables { address: 0x1000_0000, cpus: 2, viot: Viot::new(place(5)).endpoint(place(6)) }
    }

    fn number(image: &[u8], at: usize, bytes: usize) -> u64 {
        image[at..at + bytes].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// Follows the root pointer as a kernel does; returns each table with its signature.
    fn walk(image: &[u8], address: u64) -> Vec<(String, Vec<u8>)> {
        let sum = |bytes: &[u8]| bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        let table = |at: u64| {
            let at = usize::try_from(at - address).unwrap();
            let length = usize::try_from(number(image, at + 4, 4)).unwrap();
            let table = image[at..at + length].to_vec();
            assert_eq!(sum(&table), 0, "checksum");
            (String::from_utf8(table[..4].to_vec()).unwrap(), table)
        };
        assert_eq!(&image[..8], b"RSD PTR ");
        assert_eq!((sum(&image[..20]), sum(&image[..36])), (0, 0));
        let (name, xsdt) = table(number(image, 24, 8));
        assert_eq!(name, "XSDT");
        let mut found: Vec<_> = (36..xsdt.len()).step_by(8).map(|at| table(number(&xsdt, at, 8))).collect();
        let dsdt = found.iter().find(|(name, _)| name == "FACP").map(|(_, fadt)| number(fadt, 140, 8)).unwrap();
        found.push(table(dsdt));
        found
    }

    #[test]
    fn a_kernel_finds_every_table_from_the_root() {
        let image = tables().encode().unwrap();
        let found = walk(&image, 0x1000_0000);
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["FACP", "APIC", "VIOT", "DSDT"]);
        let fadt = &found[0].1;
        assert_eq!((fadt.len(), number(fadt, 112, 4)), (268, 0x10_0400));
        assert_eq!(
            (number(fadt, 120, 8), number(fadt, 248, 8), number(fadt, 260, 8)),
            (RESET, SLEEP_CONTROL, SLEEP_STATUS)
        );
        // Two processors of 8 bytes, two I/O APICs of 12.
        assert_eq!(found[1].1.len(), 44 + 2 * 8 + 2 * 12);
        assert_eq!(found[2].1, tables().viot.encode().unwrap());
    }

    #[test]
    fn what_the_kernel_does_not_set_aside_is_refused() {
        let with = |endpoints: u16| {
            // Every second function: each is a run of its own.
            let endpoints = (0..endpoints).map(|number| Bdf::from_u16(0x100 + 2 * number));
            let viot = Viot::new(Bdf::from_u16(0x28)).endpoints(endpoints);
            MicrovmTables { cpus: u8::MAX, viot, ..tables() }.encode()
        };
        let refused = (1..).find_map(|endpoints| match with(endpoints) {
            Ok(image) => {
                assert!(image.len() as u64 <= IMAGE_BYTES);
                None
            }
            Err(refused) => Some(refused),
        });
        // A run takes 24 bytes, and what follows is aligned.
        let most = usize::try_from(IMAGE_BYTES).unwrap() + 24 + ALIGNMENT;
        assert!(matches!(refused, Some(AcpiError::TooLarge(len)) if len <= most), "{refused:?}");
        let last = u32::MAX - 0x3fff;
        assert!(MicrovmTables { address: last, ..tables() }.encode().is_ok());
        assert_eq!(
            MicrovmTables { address: last + 0x1000, ..tables() }.encode(),
            Err(AcpiError::Address(last + 0x1000))
        );
    }

    #[test]
    fn every_device_has_its_registers_and_interrupt() {
        let dsdt = dsdt();
        let count = |needle: &[u8]| dsdt.windows(needle.len()).filter(|window| *window == needle).count();
        assert_eq!(count(b"LNRO0005"), usize::from(MICROVM_DEVICES));
        for device in 0..MICROVM_DEVICES {
            let base = u32::try_from(microvm_registers(device)).unwrap();
            assert_eq!(count(&[&base.to_le_bytes()[..], &[0, 2, 0, 0]].concat()), 1, "{device}");
            // Extended interrupt descriptor: consumer, level, active high, exclusive, one interrupt.
            assert_eq!(count(&[0x89, 6, 0, 1, 1, 24 + device, 0, 0, 0]), 1, "{device}");
        }
    }

    #[test]
    fn the_kernel_is_told_where_the_image_is() {
        assert_eq!(tables().kernel_arguments(), "memmap=16K#0x10000000 acpi_rsdp=0x10000000");
    }
}
