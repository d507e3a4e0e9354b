//! The topology in a flattened device tree: an edit of the tree that a VMM made.
//!
//! On a PCI bus the virtio-iommu becomes a child of the host bridge, whose `iommu-map` names the functions behind it
//! (binding `virtio/pci-iommu.yaml`); a virtio-mmio device names the IOMMU in `iommus` (binding `virtio/mmio.yaml`).

use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node, Property};

use crate::pci::Bdf;
use crate::place::Place;

/// One virtio-iommu and the devices behind it, to be told by a device tree.
///
/// # Example
/// ```no_run
/// use frontend_spec::devicetree::Topology;
/// let topology = Topology { iommu: "00:05.0".parse()?, endpoints: vec!["00:06.0".parse()?] };
/// std::fs::write("guest.dtb", topology.edit(&std::fs::read("virt.dtb")?)?)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// The virtio-iommu.
    pub iommu: Place,
    /// The devices that it translates.
    pub endpoints: Vec<Place>,
}

/// Why a tree cannot be edited.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The bytes are no tree.
    #[error("this is no flattened device tree: {0}; have the VMM write one (QEMU: -M virt,dumpdtb=FILE)")]
    Form(String),
    /// A device's registers are nowhere in the tree.
    #[error("the tree has no virtio,mmio device with registers at {0:#x}; compare with the addresses in the tree")]
    NoDevice(u64),
    /// There is no bus.
    #[error("the tree has no PCI host bridge; give virtio-mmio devices as ID@ADDRESS, such as 00:06.0@0xa000c00")]
    NoBridge,
    /// The bridge or a device has an IOMMU.
    #[error("{0} has an IOMMU already; start from the tree of a machine without one")]
    Taken(String),
    /// The IOMMU is listed behind itself.
    #[error("the virtio-iommu at {0} cannot translate itself; give the device behind it another address")]
    IommuIsEndpoint(Place),
}

impl Topology {
    /// The tree `dtb` with this topology in it.
    ///
    /// # Errors
    /// See [`TreeError`].
    pub fn edit(&self, dtb: &[u8]) -> Result<Vec<u8>, TreeError> {
        let behind_itself = |endpoint: &&Place| match endpoint.registers {
            Some(_) => endpoint.registers == self.iommu.registers,
            None => self.iommu.registers.is_none() && endpoint.id == self.iommu.id,
        };
        if let Some(endpoint) = self.endpoints.iter().find(behind_itself) {
            return Err(TreeError::IommuIsEndpoint(*endpoint));
        }
        let fdt = Fdt::new(dtb).map_err(|cause| TreeError::Form(cause.to_string()))?;
        let mut tree = DeviceTree::from_fdt(&fdt);
        let phandle = self.place_iommu(&mut tree)?;
        let mut functions: Vec<Bdf> =
            self.endpoints.iter().filter(|place| place.registers.is_none()).map(|place| place.id).collect();
        if !functions.is_empty() {
            functions.sort_unstable();
            functions.dedup();
            let bridge = host_bridge(&mut tree.root)?;
            if bridge.property("iommu-map").is_some() {
                return Err(TreeError::Taken(bridge.name().to_owned()));
            }
            let map =
                functions.into_iter().flat_map(|function| [function.endpoint_id(), phandle, function.endpoint_id(), 1]);
            set(bridge, "iommu-map", &map.collect::<Vec<_>>());
        }
        for endpoint in &self.endpoints {
            let Some(registers) = endpoint.registers else { continue };
            let device = mmio_device(&mut tree.root, registers)?;
            if device.property("iommus").is_some() {
                return Err(TreeError::Taken(device.name().to_owned()));
            }
            set(device, "iommus", &[phandle, endpoint.id.endpoint_id()]);
        }
        Ok(tree.to_dtb())
    }

    /// Makes the virtio-iommu's node an IOMMU; returns its phandle.
    fn place_iommu(&self, tree: &mut DeviceTree) -> Result<u32, TreeError> {
        let unused = highest_phandle(&tree.root) + 1;
        let node = match self.iommu.registers {
            Some(registers) => mmio_device(&mut tree.root, registers)?,
            None => {
                let bridge = host_bridge(&mut tree.root)?;
                let name = format!("iommu@{:x},{:x}", self.iommu.id.device(), self.iommu.id.function());
                if bridge.child(&name).is_none() {
                    bridge.add_child(DeviceTreeNode::new_unchecked(name.clone()));
                }
                let Some(node) = bridge.child_mut(&name) else { return Err(TreeError::NoBridge) };
                let compatible = b"virtio,pci-iommu\0pci1af4,1057\0".to_vec();
                node.add_property(DeviceTreeProperty::new_unchecked("compatible", compatible));
                set(node, "reg", &[self.iommu.id.endpoint_id() << 8, 0, 0, 0, 0]);
                node
            }
        };
        if node.property("#iommu-cells").is_some() {
            return Err(TreeError::Taken(node.name().to_owned()));
        }
        set(node, "#iommu-cells", &[1]);
        let phandle = phandle(node).unwrap_or(unused);
        set(node, "phandle", &[phandle]);
        Ok(phandle)
    }
}

fn set(node: &mut DeviceTreeNode, name: &str, cells: &[u32]) {
    let value: Vec<u8> = cells.iter().flat_map(|cell| cell.to_be_bytes()).collect();
    node.add_property(DeviceTreeProperty::new_unchecked(name, value));
}

fn phandle(node: &DeviceTreeNode) -> Option<u32> {
    node.property("phandle").and_then(|property| property.value().try_into().ok().map(u32::from_be_bytes))
}

/// Phandles are numbers from 1 up; the highest number of all means "none".
fn highest_phandle(node: &DeviceTreeNode) -> u32 {
    let own = phandle(node).filter(|phandle| *phandle < u32::MAX - 1).unwrap_or(0);
    node.children().map(highest_phandle).fold(own, u32::max)
}

/// The first node that says it is a PCI host bridge.
fn host_bridge(root: &mut DeviceTreeNode) -> Result<&mut DeviceTreeNode, TreeError> {
    find(root, &|node, _| node.property("device_type").is_some_and(|kind| kind.value() == b"pci\0"), 2)
        .ok_or(TreeError::NoBridge)
}

/// The virtio-mmio device with its registers at `address`. Buses between it and the root must not translate addresses.
fn mmio_device(root: &mut DeviceTreeNode, address: u64) -> Result<&mut DeviceTreeNode, TreeError> {
    let is_it = |node: &DeviceTreeNode, cells: usize| {
        let compatible = node
            .property("compatible")
            .is_some_and(|list| list.value().split(|byte| *byte == 0).any(|name| name == b"virtio,mmio"));
        let base = node.property("reg").and_then(|reg| reg.value().get(..4 * cells).map(<[u8]>::to_vec));
        let base = base.map(|bytes| bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)));
        compatible && base == Some(address)
    };
    find(root, &is_it, 2).ok_or(TreeError::NoDevice(address))
}

/// The first node below `node` that `is_it` accepts, given how many cells its addresses have.
fn find<'a>(
    node: &'a mut DeviceTreeNode,
    is_it: &impl Fn(&DeviceTreeNode, usize) -> bool,
    cells: usize,
) -> Option<&'a mut DeviceTreeNode> {
    let own = node.property("#address-cells").and_then(|property| property.value().get(3).copied());
    let cells = own.map_or(cells, usize::from).min(2);
    for child in node.children_mut() {
        if is_it(child, cells) {
            return Some(child);
        }
        if let Some(found) = find(child, is_it, cells) {
            return Some(found);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Place {
        text.parse().unwrap()
    }

    /// The parts of QEMU's tree that matter.
    fn tree() -> DeviceTree {
        let mut tree = DeviceTree::new();
        set(&mut tree.root, "#address-cells", &[2]);
        let mut bridge = DeviceTreeNode::new_unchecked("pcie@10000000");
        bridge.add_property(DeviceTreeProperty::new_unchecked("device_type", b"pci\0".to_vec()));
        set(&mut bridge, "#address-cells", &[3]);
        tree.root.add_child(bridge);
        let mut interrupts = DeviceTreeNode::new_unchecked("intc@8000000");
        set(&mut interrupts, "phandle", &[0x8002]);
        tree.root.add_child(interrupts);
        for base in [0xa00_0a00_u32, 0xa00_0c00] {
            let mut device = DeviceTreeNode::new_unchecked(format!("virtio_mmio@{base:x}"));
            device.add_property(DeviceTreeProperty::new_unchecked("compatible", b"virtio,mmio\0".to_vec()));
            set(&mut device, "reg", &[0, base, 0, 0x200]);
            tree.root.add_child(device);
        }
        tree
    }

    fn edited(iommu: &str, endpoints: &[&str]) -> Result<DeviceTree, TreeError> {
        let topology =
            Topology { iommu: place(iommu), endpoints: endpoints.iter().map(|endpoint| place(endpoint)).collect() };
        let dtb = topology.edit(&tree().to_dtb())?;
        Ok(DeviceTree::from_fdt(&Fdt::new(&dtb).unwrap()))
    }

    fn cells(tree: &DeviceTree, path: &str, name: &str) -> Vec<u32> {
        let node = tree.find_node(path).unwrap();
        let value = node.property(name).unwrap().value().to_vec();
        value.chunks(4).map(|cell| u32::from_be_bytes(cell.try_into().unwrap())).collect()
    }

    #[test]
    fn functions_are_in_the_bridges_map_and_the_iommu_is_not() {
        let tree = edited("00:05.0", &["00:07.0", "00:06.0", "00:07.0"]).unwrap();
        let node = "/pcie@10000000/iommu@5,0";
        assert_eq!(cells(&tree, node, "reg"), [0x2800, 0, 0, 0, 0]);
        assert_eq!(cells(&tree, node, "#iommu-cells"), [1]);
        assert_eq!(cells(&tree, node, "phandle"), [0x8003]);
        let map = cells(&tree, "/pcie@10000000", "iommu-map");
        assert_eq!(map, [0x30, 0x8003, 0x30, 1, 0x38, 0x8003, 0x38, 1]);
        assert_eq!(cells(&tree, "/intc@8000000", "phandle"), [0x8002], "the rest is as it was");
    }

    #[test]
    fn devices_without_a_bus_name_their_iommu() {
        let tree = edited("00:05.0@0xa000a00", &["00:06.0@0xa000c00"]).unwrap();
        assert_eq!(cells(&tree, "/virtio_mmio@a000a00", "#iommu-cells"), [1]);
        assert_eq!(cells(&tree, "/virtio_mmio@a000c00", "iommus"), [0x8003, 0x30]);
        assert!(tree.find_node("/virtio_mmio@a000a00").unwrap().property("iommus").is_none());
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_remedy() {
        assert_eq!(edited("00:05.0@0xa000e00", &[]).unwrap_err(), TreeError::NoDevice(0xa00_0e00));
        let itself = edited("00:05.0@0xa000a00", &["00:06.0@0xa000a00"]).unwrap_err();
        assert!(matches!(itself, TreeError::IommuIsEndpoint(_)));
        assert!(matches!(edited("00:05.0", &["00:05.0"]).unwrap_err(), TreeError::IommuIsEndpoint(_)));
        let topology = Topology { iommu: place("00:05.0"), endpoints: vec![place("00:06.0")] };
        assert!(matches!(topology.edit(b"no tree"), Err(TreeError::Form(_))));
        assert_eq!(topology.edit(&DeviceTree::new().to_dtb()), Err(TreeError::NoBridge));
        let twice = topology.edit(&topology.edit(&tree().to_dtb()).unwrap());
        assert!(matches!(twice, Err(TreeError::Taken(_))));
    }
}
