use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::*;

#[test]
fn neighbouring_pages_are_one_piece_unless_told_otherwise() {
    let memory: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
    let mut dma = Dma::direct();
    dma.set_memory(GuestRam::new(&memory));
    let mut pieces = |coalescing| {
        dma.set_coalescing(coalescing);
        let mut segments = Vec::new();
        let window = dma.enter();
        window.pin_segments(0x1800, 0x1800, Access::Read, 8, &mut segments).unwrap();
        window.pin_segments(0x3000, 0x1000, Access::Read, 8, &mut segments).unwrap();
        segments.iter().map(Segment::len).collect::<Vec<_>>()
    };
    assert_eq!(pieces(true), [0x2800]);
    assert_eq!(pieces(false), [0x800, 0x1000, 0x1000]);
}
