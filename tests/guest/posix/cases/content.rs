//! What is written is read again: positions, appending, truncation, flags of open.

use rustix::fs::{OFlags, SeekFrom, ftruncate, seek};
use rustix::io::{IoSlice, IoSliceMut, pread, preadv, pwrite, read, writev};

use crate::files::{Random, append, bytes, noise, open, put, rest, size, text, truncate, write};
use crate::said::{Result, Said};

cases![
    read_and_write,
    binary_data,
    overwrite_in_place,
    write_past_the_end,
    read_past_the_end,
    append_by_two_descriptors,
    append_ignores_the_position,
    positioned_write_on_appending_descriptor,
    truncate_shorter_and_longer,
    truncate_by_descriptor,
    truncate_under_a_reader,
    truncate_negative,
    truncate_folder,
    open_truncates,
    open_exclusively,
    open_creates_only_when_missing,
    open_folder_for_writing,
    open_file_as_folder,
    read_a_write_only_descriptor,
    write_a_read_only_descriptor,
    read_a_folder,
    pieces,
    seeking,
    synchronous_writes,
    direct_writes,
    flushing,
    one_writer_seen_by_another_reader,
    random_writes_match_memory,
    empty_reads_and_writes,
    copy_within_the_kernel,
    sent_file,
];

fn read_and_write(said: &mut Said) -> Result {
    write("file", "hello\nworld")?;
    said.value("text", text("file"));
    said.value("size", size("file"));
    Ok(())
}

fn binary_data(said: &mut Said) -> Result {
    let data = noise(300_007, 1);
    write("file", &data)?;
    said.show("same", bytes("file")? == data);
    let file = open("file", OFlags::RDONLY)?;
    let mut part = vec![0; 12_279];
    let length = pread(&file, &mut part, 40_930)?;
    said.show("part", part[..length] == data[40_930..40_930 + length] && length > 0);
    Ok(())
}

fn overwrite_in_place(said: &mut Said) -> Result {
    write("file", "0123456789")?;
    let file = open("file", OFlags::RDWR)?;
    said.value("written", pwrite(&file, b"abc", 4));
    said.value("text", text("file"));
    Ok(())
}

fn write_past_the_end(said: &mut Said) -> Result {
    write("file", "start")?;
    let file = open("file", OFlags::RDWR)?;
    pwrite(&file, b"x", 70_000)?;
    let data = bytes("file")?;
    said.show("size", data.len());
    said.show("zeros", data[5..70_000].iter().all(|byte| *byte == 0));
    said.show("last", data[70_000]);
    Ok(())
}

fn read_past_the_end(said: &mut Said) -> Result {
    write("file", "12345")?;
    let file = open("file", OFlags::RDONLY)?;
    let mut buffer = [0; 10];
    said.value("across", pread(&file, &mut buffer, 3));
    said.value("at", pread(&file, &mut buffer, 5));
    said.value("beyond", pread(&file, &mut buffer, 1 << 40));
    Ok(())
}

fn append_by_two_descriptors(said: &mut Said) -> Result {
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::APPEND;
    let (first, second) = (open("file", flags)?, open("file", flags)?);
    for (file, letter) in [(&first, b"a"), (&second, b"b"), (&first, b"c"), (&second, b"d")] {
        put(file, letter)?;
    }
    said.value("text", text("file"));
    Ok(())
}

fn append_ignores_the_position(said: &mut Said) -> Result {
    write("file", "0123")?;
    let file = open("file", OFlags::RDWR | OFlags::APPEND)?;
    seek(&file, SeekFrom::Start(0))?;
    put(&file, b"x")?;
    said.value("position", seek(&file, SeekFrom::Current(0)));
    said.value("text", text("file"));
    Ok(())
}

/// Linux appends here, against POSIX.
fn positioned_write_on_appending_descriptor(said: &mut Said) -> Result {
    write("file", "0123")?;
    let file = open("file", OFlags::RDWR | OFlags::APPEND)?;
    said.value("written", pwrite(&file, b"x", 0));
    said.value("text", text("file"));
    Ok(())
}

fn truncate_shorter_and_longer(said: &mut Said) -> Result {
    write("file", "0123456789")?;
    said.tried("shorter", truncate("file", 4));
    said.value("text", text("file"));
    said.tried("longer", truncate("file", 6));
    said.show("bytes", format!("{:?}", bytes("file")?));
    Ok(())
}

fn truncate_by_descriptor(said: &mut Said) -> Result {
    write("file", noise(10_000, 2))?;
    let file = open("file", OFlags::RDWR)?;
    for length in [9_999, 4_097, 4_096, 4_095, 1, 0, 5_000] {
        ftruncate(&file, length)?;
        said.value("size", size("file"));
    }
    said.show("zeros", bytes("file")?.iter().all(|byte| *byte == 0));
    let reader = open("file", OFlags::RDONLY)?;
    said.tried("read-only", ftruncate(&reader, 1));
    Ok(())
}

fn truncate_under_a_reader(said: &mut Said) -> Result {
    write("file", "0123456789")?;
    let reader = open("file", OFlags::RDONLY)?;
    let mut buffer = [0; 4];
    read(&reader, &mut buffer)?;
    truncate("file", 2)?;
    said.value("after", rest(&reader));
    append("file", "abcdef")?;
    said.value("grown", rest(&reader));
    Ok(())
}

fn truncate_negative(said: &mut Said) -> Result {
    write("file", "0")?;
    said.tried("truncate", truncate("file", -1));
    Ok(())
}

fn truncate_folder(said: &mut Said) -> Result {
    said.tried("folder", truncate(".", 0));
    said.tried("missing", truncate("missing", 0));
    Ok(())
}

fn open_truncates(said: &mut Said) -> Result {
    write("file", "0123456789")?;
    drop(open("file", OFlags::WRONLY | OFlags::TRUNC)?);
    said.value("size", size("file"));
    Ok(())
}

fn open_exclusively(said: &mut Said) -> Result {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
    said.tried("first", open("file", flags));
    said.tried("second", open("file", flags));
    rustix::fs::symlink("nowhere", "link")?;
    said.tried("dangling", open("link", flags));
    said.tried("folder", open(".", flags));
    Ok(())
}

fn open_creates_only_when_missing(said: &mut Said) -> Result {
    said.tried("missing", open("file", OFlags::RDWR));
    said.tried("created", open("file", OFlags::RDWR | OFlags::CREATE));
    write("file", "kept")?;
    said.tried("again", open("file", OFlags::RDWR | OFlags::CREATE));
    said.value("text", text("file"));
    said.tried("below-file", open("file/below", OFlags::RDWR | OFlags::CREATE));
    said.tried("below-missing", open("missing/below", OFlags::RDWR | OFlags::CREATE));
    Ok(())
}

fn open_folder_for_writing(said: &mut Said) -> Result {
    said.tried("write", open(".", OFlags::WRONLY));
    said.tried("both", open(".", OFlags::RDWR));
    said.tried("create", open(".", OFlags::RDONLY | OFlags::CREATE));
    said.tried("read", open(".", OFlags::RDONLY));
    Ok(())
}

fn open_file_as_folder(said: &mut Said) -> Result {
    write("file", "")?;
    said.tried("file", open("file", OFlags::RDONLY | OFlags::DIRECTORY));
    said.tried("slash", open("file/", OFlags::RDONLY));
    Ok(())
}

fn read_a_write_only_descriptor(said: &mut Said) -> Result {
    let file = open("file", OFlags::WRONLY | OFlags::CREATE)?;
    said.value("read", read(&file, &mut [0; 4]));
    Ok(())
}

fn write_a_read_only_descriptor(said: &mut Said) -> Result {
    let file = open("file", OFlags::RDONLY | OFlags::CREATE)?;
    said.tried("write", put(&file, b"data"));
    Ok(())
}

fn read_a_folder(said: &mut Said) -> Result {
    let folder = open(".", OFlags::RDONLY | OFlags::DIRECTORY)?;
    said.value("read", read(&folder, &mut [0; 4]));
    Ok(())
}

fn pieces(said: &mut Said) -> Result {
    let file = open("file", OFlags::RDWR | OFlags::CREATE)?;
    let written = writev(&file, &[IoSlice::new(b"one"), IoSlice::new(b""), IoSlice::new(b"two"), IoSlice::new(b"3")])?;
    said.show("written", written);
    let (mut first, mut second) = ([0; 2], [0; 10]);
    let length = preadv(&file, &mut [IoSliceMut::new(&mut first), IoSliceMut::new(&mut second)], 1)?;
    said.show("read", length);
    said.show("first", String::from_utf8_lossy(&first));
    said.show("second", String::from_utf8_lossy(&second[..length - 2]));
    Ok(())
}

fn seeking(said: &mut Said) -> Result {
    write("file", "0123456789")?;
    let file = open("file", OFlags::RDONLY)?;
    said.value("end", seek(&file, SeekFrom::End(-3)));
    said.value("rest", rest(&file));
    said.value("beyond", seek(&file, SeekFrom::Start(100)));
    said.value("nothing", rest(&file));
    said.value("before", seek(&file, SeekFrom::Current(-101)));
    said.value("position", seek(&file, SeekFrom::Current(0)));
    Ok(())
}

fn synchronous_writes(said: &mut Said) -> Result {
    for (name, flag) in [("sync", OFlags::SYNC), ("dsync", OFlags::DSYNC)] {
        let file = open(name, OFlags::RDWR | OFlags::CREATE | flag)?;
        said.tried(name, put(&file, b"data"));
        said.value("text", text(name));
    }
    Ok(())
}

/// Of whole aligned pages, as every file system with direct I/O takes them.
fn direct_writes(said: &mut Said) -> Result {
    #[repr(align(4096))]
    struct Page([u8; 4096]);
    let Some(file) = said.tried("open", open("file", OFlags::RDWR | OFlags::CREATE | OFlags::DIRECT)) else {
        return Ok(());
    };
    said.value("written", pwrite(&file, &Page([7; 4096]).0, 4096));
    let mut page = Page([1; 4096]);
    said.value("read", pread(&file, &mut page.0, 4096));
    said.show("same", page.0 == [7; 4096]);
    said.value("hole", pread(&file, &mut page.0, 0));
    said.show("zeros", page.0 == [0; 4096]);
    said.value("size", size("file"));
    Ok(())
}

fn flushing(said: &mut Said) -> Result {
    let file = open("file", OFlags::RDWR | OFlags::CREATE)?;
    put(&file, b"data")?;
    said.tried("fsync", rustix::fs::fsync(&file));
    said.tried("fdatasync", rustix::fs::fdatasync(&file));
    let folder = open(".", OFlags::RDONLY | OFlags::DIRECTORY)?;
    said.tried("folder", rustix::fs::fsync(&folder));
    let reader = open("file", OFlags::RDONLY)?;
    said.tried("read-only", rustix::fs::fsync(&reader));
    said.tried("syncfs", rustix::fs::syncfs(&folder));
    Ok(())
}

fn one_writer_seen_by_another_reader(said: &mut Said) -> Result {
    let writer = open("file", OFlags::RDWR | OFlags::CREATE)?;
    let reader = open("file", OFlags::RDONLY)?;
    for part in ["one", "two", "three"] {
        put(&writer, part.as_bytes())?;
        said.value("read", rest(&reader));
        said.value("size", size("file"));
    }
    Ok(())
}

fn random_writes_match_memory(said: &mut Said) -> Result {
    let mut random = Random(77);
    let file = open("file", OFlags::RDWR | OFlags::CREATE)?;
    let mut memory = Vec::new();
    for round in 0..60 {
        let (at, length) = (random.below(60_000), random.below(9_000));
        if round % 10 == 9 {
            ftruncate(&file, at as u64)?;
            memory.resize(at, 0);
            continue;
        }
        let data = noise(length, 1 + round);
        let mut done = 0;
        while done < length {
            done += pwrite(&file, &data[done..], (at + done) as u64)?;
        }
        if length > 0 {
            memory.resize(memory.len().max(at + length), 0);
            memory[at..at + length].copy_from_slice(&data);
        }
        let mut back = vec![0; 20_000];
        let from = random.below(60_000);
        let got = pread(&file, &mut back, from as u64)?;
        let expected = memory.get(from..).unwrap_or_default();
        if back[..got] != expected[..got.min(expected.len())] {
            said.show("differs-in-round", round);
            break;
        }
    }
    said.show("same", bytes("file")? == memory);
    Ok(())
}

fn empty_reads_and_writes(said: &mut Said) -> Result {
    let file = open("file", OFlags::RDWR | OFlags::CREATE)?;
    said.value("write", pwrite(&file, b"", 100));
    said.value("size", size("file"));
    said.value("read", pread(&file, &mut [0; 0], 0));
    Ok(())
}

fn copy_within_the_kernel(said: &mut Said) -> Result {
    let data = noise(50_000, 5);
    write("from", &data)?;
    let (from, to) = (open("from", OFlags::RDONLY)?, open("to", OFlags::RDWR | OFlags::CREATE)?);
    let mut copied = 0;
    while copied < data.len() {
        match rustix::fs::copy_file_range(&from, None, &to, None, data.len() - copied)? {
            0 => break,
            length => copied += length,
        }
    }
    said.show("copied", copied);
    said.show("same", bytes("to")? == data);
    Ok(())
}

fn sent_file(said: &mut Said) -> Result {
    let data = noise(30_000, 6);
    write("from", &data)?;
    let (from, to) = (open("from", OFlags::RDONLY)?, open("to", OFlags::RDWR | OFlags::CREATE)?);
    let mut sent = 0;
    while sent < data.len() {
        match rustix::fs::sendfile(&to, &from, None, data.len() - sent)? {
            0 => break,
            length => sent += length,
        }
    }
    said.show("sent", sent);
    said.show("same", bytes("to")? == data);
    Ok(())
}
