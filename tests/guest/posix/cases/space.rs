//! Holes, preallocation, large offsets, limits, and what statfs tells.

use rustix::fs::{FallocateFlags, OFlags, SeekFrom, fallocate, ftruncate, seek, stat, statfs};
use rustix::io::{pread, pwrite};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::files::{bytes, noise, open, put, size, write};
use crate::said::{Result, Said};

cases![
    sparse_file,
    data_and_holes,
    no_data_after_the_last,
    whole_file_without_holes,
    allocate,
    allocate_keeping_the_size,
    punch_a_hole,
    zero_a_range,
    collapse_a_range,
    allocate_nothing,
    allocate_on_a_folder,
    offset_beyond_4_gib,
    offset_beyond_all,
    size_limit_of_the_process,
    statfs_of_folder_and_file,
    blocks_grow,
];

fn sparse_file(said: &mut Said) -> Result {
    let file = open("file", OFlags::RDWR | OFlags::CREATE)?;
    ftruncate(&file, 64 << 20)?;
    let stat = stat("file")?;
    said.show("size", stat.st_size);
    said.show("sparse", stat.st_blocks * 512 < stat.st_size);
    let mut buffer = [1; 100];
    said.value("read", pread(&file, &mut buffer, 32 << 20));
    said.show("zeros", buffer == [0; 100]);
    Ok(())
}

fn data_and_holes(said: &mut Said) -> Result {
    let file = open("file", OFlags::RDWR | OFlags::CREATE)?;
    pwrite(&file, &[1; 4096], 1 << 20)?;
    ftruncate(&file, 3 << 20)?;
    said.value("data", seek(&file, SeekFrom::Data(0)));
    said.value("hole", seek(&file, SeekFrom::Hole(1 << 20)));
    Ok(())
}

fn no_data_after_the_last(said: &mut Said) -> Result {
    let file = open("file", OFlags::RDWR | OFlags::CREATE)?;
    put(&file, b"data")?;
    ftruncate(&file, 1 << 20)?;
    said.value("data", seek(&file, SeekFrom::Data(500_000)));
    said.value("beyond", seek(&file, SeekFrom::Data(2 << 20)));
    said.value("hole-beyond", seek(&file, SeekFrom::Hole(2 << 20)));
    Ok(())
}

fn whole_file_without_holes(said: &mut Said) -> Result {
    write("file", noise(8192, 3))?;
    let file = open("file", OFlags::RDONLY)?;
    said.value("data", seek(&file, SeekFrom::Data(10)));
    said.value("hole", seek(&file, SeekFrom::Hole(10)));
    Ok(())
}

fn allocate(said: &mut Said) -> Result {
    let file = open("file", OFlags::RDWR | OFlags::CREATE)?;
    said.tried("allocate", fallocate(&file, FallocateFlags::empty(), 0, 100_000));
    said.value("size", size("file"));
    Ok(())
}

fn allocate_keeping_the_size(said: &mut Said) -> Result {
    let file = open("file", OFlags::RDWR | OFlags::CREATE)?;
    said.tried("allocate", fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 100_000));
    said.value("size", size("file"));
    Ok(())
}

fn punch_a_hole(said: &mut Said) -> Result {
    write("file", [7; 12_288])?;
    let file = open("file", OFlags::RDWR)?;
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    if said.tried("punch", fallocate(&file, flags, 4096, 4096)).is_some() {
        let data = bytes("file")?;
        said.show("zeros", data[4096..8192].iter().all(|byte| *byte == 0));
        said.show("size", data.len());
    }
    Ok(())
}

fn zero_a_range(said: &mut Said) -> Result {
    write("file", [7; 8192])?;
    let file = open("file", OFlags::RDWR)?;
    said.tried("zero", fallocate(&file, FallocateFlags::ZERO_RANGE, 0, 4096));
    Ok(())
}

fn collapse_a_range(said: &mut Said) -> Result {
    write("file", [7; 12_288])?;
    let file = open("file", OFlags::RDWR)?;
    said.tried("collapse", fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, 4096));
    Ok(())
}

fn allocate_nothing(said: &mut Said) -> Result {
    let file = open("file", OFlags::RDWR | OFlags::CREATE)?;
    said.tried("nothing", fallocate(&file, FallocateFlags::empty(), 0, 0));
    let reader = open("file", OFlags::RDONLY)?;
    said.tried("read-only", fallocate(&reader, FallocateFlags::empty(), 0, 100));
    Ok(())
}

fn allocate_on_a_folder(said: &mut Said) -> Result {
    let folder = open(".", OFlags::RDONLY | OFlags::DIRECTORY)?;
    said.tried("folder", fallocate(&folder, FallocateFlags::empty(), 0, 100));
    Ok(())
}

fn offset_beyond_4_gib(said: &mut Said) -> Result {
    let file = open("file", OFlags::RDWR | OFlags::CREATE)?;
    said.value("written", pwrite(&file, b"far", (5 << 30) + 1));
    said.value("size", size("file"));
    let mut buffer = [0; 3];
    said.value("read", pread(&file, &mut buffer, (5 << 30) + 1));
    said.show("text", String::from_utf8_lossy(&buffer));
    said.value("low", pread(&file, &mut buffer, 1 << 30));
    said.show("zeros", buffer == [0; 3]);
    Ok(())
}

fn offset_beyond_all(said: &mut Said) -> Result {
    let file = open("file", OFlags::RDWR | OFlags::CREATE)?;
    said.value("negative", pwrite(&file, b"x", u64::MAX - 10));
    said.tried("truncate", ftruncate(&file, u64::MAX - 10));
    said.value("size", size("file"));
    Ok(())
}

fn size_limit_of_the_process(said: &mut Said) -> Result {
    // SAFETY: ignores a signal, whose default action would end this process.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    setrlimit(Resource::Fsize, Rlimit { current: Some(10_000), maximum: Some(10_000) })?;
    let file = open("file", OFlags::RDWR | OFlags::CREATE)?;
    said.value("across", pwrite(&file, &[1; 4000], 8000));
    said.value("beyond", pwrite(&file, &[1; 10], 10_000));
    said.tried("truncate", ftruncate(&file, 20_000));
    said.value("size", size("file"));
    Ok(())
}

fn statfs_of_folder_and_file(said: &mut Said) -> Result {
    write("file", "x")?;
    let (folder, file) = (statfs(".")?, statfs("file")?);
    said.show("same-size", folder.f_blocks == file.f_blocks && folder.f_bsize == file.f_bsize);
    said.show("name-length", folder.f_namelen);
    said.show(
        "plausible",
        folder.f_bsize > 0 && folder.f_bavail <= folder.f_bfree && folder.f_bfree <= folder.f_blocks,
    );
    said.tried("missing", statfs("missing"));
    Ok(())
}

fn blocks_grow(said: &mut Said) -> Result {
    let file = open("file", OFlags::RDWR | OFlags::CREATE)?;
    said.show("none", stat("file")?.st_blocks);
    put(&file, &noise(65_536, 4))?;
    rustix::fs::fsync(&file)?;
    said.show("some", stat("file")?.st_blocks >= 128);
    Ok(())
}
