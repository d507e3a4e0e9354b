//! Files in memory: shared and private, grown, truncated, between processes.

use std::ptr::NonNull;

use rustix::fd::AsFd;
use rustix::fs::{OFlags, ftruncate};
use rustix::io::pwrite;
use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};

use crate::files::{bytes, noise, open, text, truncate, write};
use crate::people::child;
use crate::said::{Result, Said};

cases![
    private_mapping_reads,
    private_mapping_is_not_written,
    shared_mapping_reads,
    shared_mapping_writes,
    shared_mapping_without_sync,
    write_is_seen_in_a_mapping,
    mapping_of_a_read_only_descriptor,
    mapping_of_a_folder,
    mapping_of_an_empty_file,
    access_beyond_the_end,
    access_after_truncation,
    mapping_outlives_its_descriptor,
    mapping_outlives_the_name,
    children_share_a_mapping,
    large_mapping,
];

const PAGE: usize = 4096;

/// A mapping of the first bytes of a file.
struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

impl Mapping {
    fn new(file: impl AsFd, length: usize, protection: ProtFlags, flags: MapFlags) -> Result<Self> {
        // SAFETY: a new place of the kernel's choice, used through volatile accesses only.
        let start = unsafe { mmap(std::ptr::null_mut(), length, protection, flags, file, 0) }?;
        Ok(Self { start: NonNull::new(start.cast()).expect("a mapping is not at 0"), length })
    }

    fn get(&self, at: usize) -> u8 {
        assert!(at < self.length);
        // SAFETY: inside the mapping.
        unsafe { self.start.add(at).read_volatile() }
    }

    fn set(&self, at: usize, value: u8) {
        assert!(at < self.length);
        // SAFETY: inside the mapping.
        unsafe { self.start.add(at).write_volatile(value) }
    }

    fn sync(&self) -> Result {
        // SAFETY: the whole mapping.
        unsafe { msync(self.start.as_ptr().cast(), self.length, MsyncFlags::SYNC) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, which nobody uses any more.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
    }
}

const READ: ProtFlags = ProtFlags::READ;
const BOTH: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

fn private_mapping_reads(said: &mut Said) -> Result {
    let data = noise(3 * PAGE, 1);
    write("file", &data)?;
    let file = open("file", OFlags::RDONLY)?;
    let Some(map) = said.tried("map", Mapping::new(&file, data.len(), READ, MapFlags::PRIVATE)) else { return Ok(()) };
    said.show("same", (0..data.len()).all(|at| map.get(at) == data[at]));
    Ok(())
}

fn private_mapping_is_not_written(said: &mut Said) -> Result {
    write("file", "data")?;
    let file = open("file", OFlags::RDONLY)?;
    let Some(map) = said.tried("map", Mapping::new(&file, 4, BOTH, MapFlags::PRIVATE)) else { return Ok(()) };
    map.set(0, b'X');
    map.sync()?;
    said.value("text", text("file"));
    Ok(())
}

fn shared_mapping_reads(said: &mut Said) -> Result {
    write("file", "data")?;
    let file = open("file", OFlags::RDONLY)?;
    let Some(map) = said.tried("map", Mapping::new(&file, 4, READ, MapFlags::SHARED)) else { return Ok(()) };
    said.show("first", map.get(0));
    said.show("beyond-the-end", map.length);
    Ok(())
}

fn shared_mapping_writes(said: &mut Said) -> Result {
    write("file", noise(2 * PAGE, 2))?;
    let file = open("file", OFlags::RDWR)?;
    let Some(map) = said.tried("map", Mapping::new(&file, 2 * PAGE, BOTH, MapFlags::SHARED)) else { return Ok(()) };
    map.set(0, b'A');
    map.set(PAGE, b'B');
    said.tried("sync", map.sync());
    drop((map, file));
    let data = bytes("file")?;
    said.show("written", format!("{}{}", char::from(data[0]), char::from(data[PAGE])));
    said.show("rest", data[1..PAGE] == noise(2 * PAGE, 2)[1..PAGE]);
    Ok(())
}

fn shared_mapping_without_sync(said: &mut Said) -> Result {
    write("file", "data")?;
    let file = open("file", OFlags::RDWR)?;
    let Some(map) = said.tried("map", Mapping::new(&file, 4, BOTH, MapFlags::SHARED)) else { return Ok(()) };
    map.set(0, b'X');
    said.value("mapped", text("file"));
    drop((map, file));
    said.value("unmapped", text("file"));
    Ok(())
}

fn write_is_seen_in_a_mapping(said: &mut Said) -> Result {
    write("file", "data")?;
    let file = open("file", OFlags::RDWR)?;
    let Some(map) = said.tried("map", Mapping::new(&file, 4, BOTH, MapFlags::SHARED)) else { return Ok(()) };
    said.show("before", char::from(map.get(1)));
    pwrite(&file, b"X", 1)?;
    said.show("after", char::from(map.get(1)));
    Ok(())
}

fn mapping_of_a_read_only_descriptor(said: &mut Said) -> Result {
    write("file", "data")?;
    let reader = open("file", OFlags::RDONLY)?;
    said.tried("write", Mapping::new(&reader, 4, BOTH, MapFlags::SHARED));
    let writer = open("file", OFlags::WRONLY)?;
    said.tried("read", Mapping::new(&writer, 4, READ, MapFlags::PRIVATE));
    Ok(())
}

fn mapping_of_a_folder(said: &mut Said) -> Result {
    let folder = open(".", OFlags::RDONLY | OFlags::DIRECTORY)?;
    said.tried("folder", Mapping::new(&folder, 4, READ, MapFlags::PRIVATE));
    Ok(())
}

fn mapping_of_an_empty_file(said: &mut Said) -> Result {
    write("file", "")?;
    let file = open("file", OFlags::RDONLY)?;
    let Some(map) = said.tried("map", Mapping::new(&file, 4, READ, MapFlags::PRIVATE)) else { return Ok(()) };
    said.show(
        "access",
        child(|_| {
            map.get(0);
            Ok(())
        })
        .wait(),
    );
    Ok(())
}

fn access_beyond_the_end(said: &mut Said) -> Result {
    write("file", "data")?;
    let file = open("file", OFlags::RDONLY)?;
    let Some(map) = said.tried("map", Mapping::new(&file, 2 * PAGE, READ, MapFlags::PRIVATE)) else { return Ok(()) };
    said.show("same-page", map.get(100));
    said.show(
        "next-page",
        child(|_| {
            map.get(PAGE);
            Ok(())
        })
        .wait(),
    );
    Ok(())
}

fn access_after_truncation(said: &mut Said) -> Result {
    write("file", noise(2 * PAGE, 4))?;
    let file = open("file", OFlags::RDONLY)?;
    let Some(map) = said.tried("map", Mapping::new(&file, 2 * PAGE, READ, MapFlags::SHARED)) else { return Ok(()) };
    map.get(PAGE);
    truncate("file", 10)?;
    said.show("cut", map.get(20));
    said.show(
        "gone",
        child(|_| {
            map.get(PAGE);
            Ok(())
        })
        .wait(),
    );
    Ok(())
}

fn mapping_outlives_its_descriptor(said: &mut Said) -> Result {
    write("file", "data")?;
    let file = open("file", OFlags::RDWR)?;
    let Some(map) = said.tried("map", Mapping::new(&file, 4, BOTH, MapFlags::SHARED)) else { return Ok(()) };
    drop(file);
    map.set(3, b'E');
    said.tried("sync", map.sync());
    said.value("text", text("file"));
    Ok(())
}

fn mapping_outlives_the_name(said: &mut Said) -> Result {
    let data = noise(2 * PAGE, 5);
    write("file", &data)?;
    let file = open("file", OFlags::RDONLY)?;
    let Some(map) = said.tried("map", Mapping::new(&file, data.len(), READ, MapFlags::PRIVATE)) else { return Ok(()) };
    rustix::fs::unlink("file")?;
    said.show("same", map.get(5) == data[5] && map.get(PAGE + 5) == data[PAGE + 5]);
    Ok(())
}

fn children_share_a_mapping(said: &mut Said) -> Result {
    write("file", "data")?;
    let file = open("file", OFlags::RDWR)?;
    let Some(map) = said.tried("map", Mapping::new(&file, 4, BOTH, MapFlags::SHARED)) else { return Ok(()) };
    child(|_| {
        map.set(0, b'C');
        Ok(())
    })
    .wait();
    said.show("seen", char::from(map.get(0)));
    Ok(())
}

fn large_mapping(said: &mut Said) -> Result {
    let file = open("file", OFlags::RDWR | OFlags::CREATE)?;
    ftruncate(&file, 1 << 20)?;
    let Some(map) = said.tried("map", Mapping::new(&file, 1 << 20, BOTH, MapFlags::SHARED)) else { return Ok(()) };
    for at in (0..1 << 20).step_by(PAGE) {
        map.set(at, u8::try_from(at / PAGE % 251).unwrap_or(0));
    }
    map.sync()?;
    drop((map, file));
    let data = bytes("file")?;
    said.show("same", data.len() == 1 << 20 && (0..256).all(|page| usize::from(data[page * PAGE]) == page % 251));
    Ok(())
}
