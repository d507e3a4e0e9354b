//! Descriptors: sharing of positions, limits, flags, paths.

use std::os::fd::AsRawFd as _;

use rustix::fs::{OFlags, SeekFrom, fcntl_getfl, fcntl_setfl, fstat, mkdir, openat, seek};
use rustix::io::{dup, read};
use rustix::process::{Resource, Rlimit, fchdir, getrlimit, setrlimit};

use crate::files::{answer, names, open, put, rest, text, there, write};
use crate::people::child;
use crate::said::{Result, Said};

cases![
    duplicates_share_the_position,
    children_share_the_position,
    two_opens_have_positions_of_their_own,
    hundreds_of_open_files,
    the_limit_of_the_process,
    appending_switched_on,
    opening_below_a_folder,
    a_descriptor_of_a_path_only,
    reopening_through_proc,
    changing_into_an_open_folder,
    unnamed_file,
    unnamed_file_gets_a_name,
    opening_a_missing_name_below_a_file,
    polling,
    not_a_terminal,
    statx_of_a_descriptor,
];

fn duplicates_share_the_position(said: &mut Said) -> Result {
    write("file", "0123456789")?;
    let file = open("file", OFlags::RDONLY)?;
    let other = dup(&file)?;
    read(&file, &mut [0; 4])?;
    said.value("rest", rest(&other));
    Ok(())
}

fn children_share_the_position(said: &mut Said) -> Result {
    write("file", "0123456789")?;
    let file = open("file", OFlags::RDONLY)?;
    child(|_| read(&file, &mut [0; 4]).map(drop)).wait();
    said.value("rest", rest(&file));
    Ok(())
}

fn two_opens_have_positions_of_their_own(said: &mut Said) -> Result {
    write("file", "0123456789")?;
    let (first, second) = (open("file", OFlags::RDONLY)?, open("file", OFlags::RDONLY)?);
    read(&first, &mut [0; 4])?;
    said.value("first", rest(&first));
    said.value("second", rest(&second));
    Ok(())
}

fn hundreds_of_open_files(said: &mut Said) -> Result {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    let mut files = Vec::new();
    for number in 0..400 {
        files.push(open(&format!("file{number}"), OFlags::RDWR | OFlags::CREATE)?);
    }
    for (number, file) in files.iter().enumerate() {
        put(file, format!("{number}").as_bytes())?;
    }
    let mut wrong = 0;
    for (number, file) in files.iter().enumerate() {
        seek(file, SeekFrom::Start(0))?;
        wrong += usize::from(rest(file)? != number.to_string());
    }
    said.show("open", files.len());
    said.show("wrong", wrong);
    Ok(())
}

fn the_limit_of_the_process(said: &mut Said) -> Result {
    setrlimit(Resource::Nofile, Rlimit { current: Some(20), maximum: Some(20) })?;
    write("file", "")?;
    let mut files = Vec::new();
    let error = loop {
        match open("file", OFlags::RDONLY) {
            Ok(file) => files.push(file),
            Err(error) => break error,
        }
    };
    said.tried::<()>("limit", Err(error));
    drop(files.pop());
    said.tried("again", open("file", OFlags::RDONLY));
    Ok(())
}

fn appending_switched_on(said: &mut Said) -> Result {
    write("file", "0123")?;
    let file = open("file", OFlags::RDWR)?;
    put(&file, b"a")?;
    fcntl_setfl(&file, fcntl_getfl(&file)? | OFlags::APPEND)?;
    put(&file, b"b")?;
    said.value("text", text("file"));
    Ok(())
}

fn opening_below_a_folder(said: &mut Said) -> Result {
    mkdir("folder", 0o755.into())?;
    write("folder/file", "data")?;
    let folder = open("folder", OFlags::RDONLY | OFlags::DIRECTORY)?;
    rustix::fs::rename("folder", "moved")?;
    let file = openat(&folder, "file", OFlags::RDONLY, 0.into());
    said.value("text", file.and_then(rest));
    said.tried("missing", openat(&folder, "missing", OFlags::RDONLY, 0.into()));
    said.tried("parent", openat(&folder, "../moved/file", OFlags::RDONLY, 0.into()));
    Ok(())
}

fn a_descriptor_of_a_path_only(said: &mut Said) -> Result {
    write("file", "data")?;
    let file = open("file", OFlags::PATH)?;
    said.value("read", read(&file, &mut [0; 4]));
    said.value("size", fstat(&file).map(|stat| stat.st_size));
    said.tried("chmod", rustix::fs::fchmod(&file, 0o600.into()));
    Ok(())
}

fn reopening_through_proc(said: &mut Said) -> Result {
    write("file", "data")?;
    let file = open("file", OFlags::RDONLY)?;
    let writer = open(&format!("/proc/self/fd/{}", file.as_raw_fd()), OFlags::WRONLY)?;
    put(&writer, b"DA")?;
    said.value("text", text("file"));
    Ok(())
}

fn changing_into_an_open_folder(said: &mut Said) -> Result {
    mkdir("folder", 0o755.into())?;
    write("folder/file", "")?;
    let folder = open("folder", OFlags::RDONLY | OFlags::DIRECTORY)?;
    rustix::fs::rename("folder", "moved")?;
    fchdir(&folder)?;
    said.value("names", names("."));
    said.show("upwards", there("../moved"));
    let current = std::env::current_dir().ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    said.show("current", current.unwrap_or_default());
    Ok(())
}

fn unnamed_file(said: &mut Said) -> Result {
    let Some(file) = said.tried("open", open(".", OFlags::RDWR | OFlags::TMPFILE)) else { return Ok(()) };
    put(&file, b"data")?;
    seek(&file, SeekFrom::Start(0))?;
    said.value("text", rest(&file));
    said.value("links", fstat(&file).map(|stat| stat.st_nlink));
    said.value("names", names("."));
    Ok(())
}

fn unnamed_file_gets_a_name(said: &mut Said) -> Result {
    let Some(file) = said.tried("open", open(".", OFlags::RDWR | OFlags::TMPFILE)) else { return Ok(()) };
    put(&file, b"data")?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let follow = rustix::fs::AtFlags::SYMLINK_FOLLOW;
    said.tried("link", rustix::fs::linkat(rustix::fs::CWD, path, rustix::fs::CWD, "named", follow));
    said.value("text", text("named"));
    Ok(())
}

fn opening_a_missing_name_below_a_file(said: &mut Said) -> Result {
    write("file", "")?;
    said.tried("open", open("file/missing", OFlags::RDONLY));
    said.tried("stat", rustix::fs::stat("file/missing"));
    said.tried("mkdir", mkdir("file/missing", 0o755.into()));
    said.tried("unlink", rustix::fs::unlink("file/missing"));
    Ok(())
}

fn polling(said: &mut Said) -> Result {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let file = open("file", OFlags::RDWR | OFlags::CREATE)?;
    let mut polled = [PollFd::new(&file, PollFlags::IN | PollFlags::OUT)];
    said.value("ready", poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })));
    said.show("both", polled[0].revents() == PollFlags::IN | PollFlags::OUT);
    Ok(())
}

fn not_a_terminal(said: &mut Said) -> Result {
    write("file", "12345")?;
    let file = open("file", OFlags::RDONLY)?;
    let mut size = [0; 4];
    // SAFETY: the request fills at most the eight bytes of a window's size.
    said.tried("terminal", answer(unsafe { libc::ioctl(file.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) }));
    Ok(())
}

fn statx_of_a_descriptor(said: &mut Said) -> Result {
    use rustix::fs::{AtFlags, StatxFlags, statx};
    write("file", "12345")?;
    let file = open("file", OFlags::RDONLY)?;
    let stat = statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
    said.show("size", stat.stx_size);
    said.show("links", stat.stx_nlink);
    said.show("all", StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BASIC_STATS));
    Ok(())
}
