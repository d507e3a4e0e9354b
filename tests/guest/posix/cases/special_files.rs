//! Pipes, sockets and devices that have names.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use rustix::fs::{CWD, FileType, OFlags, chmodat, makedev, mknodat, stat, unlink};

use crate::files::{kind, mode, open, put, rest, write};
use crate::people::{USER, as_user, child};
use crate::said::{Result, Said, errno};

cases![
    pipe,
    pipe_without_a_reader,
    pipe_between_processes,
    pipe_mode,
    pipe_is_not_seekable,
    socket,
    socket_bound_twice,
    socket_removed,
    socket_opened,
    datagrams,
    null_device,
    zero_device,
    device_numbers,
    device_without_a_driver,
    device_made_by_a_user,
    node_that_is_a_file,
    node_over_an_existing_name,
    folder_as_node,
];

fn node(name: &str, kind: FileType, device: u64) -> Result {
    mknodat(CWD, name, kind, 0o644.into(), device)
}

fn pipe(said: &mut Said) -> Result {
    said.tried("make", node("pipe", FileType::Fifo, 0));
    let stat = stat("pipe")?;
    said.show("kind", kind(stat.st_mode));
    said.show("size", stat.st_size);
    said.tried("again", node("pipe", FileType::Fifo, 0));
    said.tried("unlink", unlink("pipe"));
    Ok(())
}

fn pipe_without_a_reader(said: &mut Said) -> Result {
    node("pipe", FileType::Fifo, 0)?;
    said.tried("write", open("pipe", OFlags::WRONLY | OFlags::NONBLOCK));
    said.tried("read", open("pipe", OFlags::RDONLY | OFlags::NONBLOCK));
    Ok(())
}

fn pipe_between_processes(said: &mut Said) -> Result {
    node("pipe", FileType::Fifo, 0)?;
    let writer = child(|_| put(open("pipe", OFlags::WRONLY)?, b"through the pipe"));
    said.value("read", open("pipe", OFlags::RDONLY).and_then(rest));
    said.show("writer", writer.wait());
    Ok(())
}

fn pipe_mode(said: &mut Said) -> Result {
    node("pipe", FileType::Fifo, 0)?;
    said.value("made", mode("pipe"));
    said.tried("chmod", chmodat(CWD, "pipe", 0o600.into(), rustix::fs::AtFlags::empty()));
    said.value("changed", mode("pipe"));
    said.show(
        "user",
        as_user(USER, &[], |said| {
            said.tried("open", open("pipe", OFlags::RDONLY | OFlags::NONBLOCK));
            Ok(())
        }),
    );
    Ok(())
}

fn pipe_is_not_seekable(said: &mut Said) -> Result {
    node("pipe", FileType::Fifo, 0)?;
    let file = open("pipe", OFlags::RDWR)?;
    said.value("seek", rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0)));
    Ok(())
}

fn socket(said: &mut Said) -> Result {
    let Some(listener) = said.tried("bind", UnixListener::bind("socket").map_err(|error| errno(&error))) else {
        return Ok(());
    };
    said.value("kind", stat("socket").map(|stat| kind(stat.st_mode)));
    let client = child(|_| {
        let mut stream = UnixStream::connect("socket").map_err(|error| errno(&error))?;
        stream.write_all(b"hello").map_err(|error| errno(&error))
    });
    let mut text = String::new();
    let (mut stream, _) = listener.accept().map_err(|error| errno(&error))?;
    said.value("read", stream.read_to_string(&mut text).map_err(|error| errno(&error)));
    said.show("client", client.wait());
    Ok(())
}

fn socket_bound_twice(said: &mut Said) -> Result {
    let first = UnixListener::bind("socket").map_err(|error| errno(&error));
    said.tried("first", first);
    said.tried("second", UnixListener::bind("socket").map_err(|error| errno(&error)));
    write("file", "")?;
    said.tried("file", UnixListener::bind("file").map_err(|error| errno(&error)));
    Ok(())
}

fn socket_removed(said: &mut Said) -> Result {
    let listener = UnixListener::bind("socket").map_err(|error| errno(&error));
    said.tried("unlink", unlink("socket"));
    said.tried("connect", UnixStream::connect("socket").map_err(|error| errno(&error)));
    drop(listener);
    said.tried("again", UnixListener::bind("socket").map_err(|error| errno(&error)));
    said.tried("nobody-listens", UnixStream::connect("socket").map_err(|error| errno(&error)));
    Ok(())
}

fn socket_opened(said: &mut Said) -> Result {
    let _listener = UnixListener::bind("socket").map_err(|error| errno(&error))?;
    said.tried("open", open("socket", OFlags::RDONLY));
    said.tried("path", open("socket", OFlags::PATH));
    Ok(())
}

fn datagrams(said: &mut Said) -> Result {
    let receiver = UnixDatagram::bind("socket").map_err(|error| errno(&error))?;
    let sender = UnixDatagram::unbound().map_err(|error| errno(&error))?;
    said.value("sent", sender.send_to(b"hello", "socket").map_err(|error| errno(&error)));
    said.value("received", receiver.recv(&mut [0; 20]).map_err(|error| errno(&error)));
    Ok(())
}

/// Memory devices have fixed numbers (Documentation/admin-guide/devices.txt).
fn null_device(said: &mut Said) -> Result {
    said.tried("make", node("null", FileType::CharacterDevice, makedev(1, 3)));
    said.value("kind", stat("null").map(|stat| kind(stat.st_mode)));
    let Some(file) = said.tried("open", open("null", OFlags::RDWR)) else { return Ok(()) };
    said.tried("write", put(&file, b"gone"));
    said.value("read", rest(&file));
    Ok(())
}

fn zero_device(said: &mut Said) -> Result {
    node("zero", FileType::CharacterDevice, makedev(1, 5))?;
    let Some(file) = said.tried("open", open("zero", OFlags::RDONLY)) else { return Ok(()) };
    let mut buffer = [1; 10];
    said.value("read", rustix::io::read(&file, &mut buffer));
    said.show("zeros", buffer == [0; 10]);
    Ok(())
}

fn device_numbers(said: &mut Said) -> Result {
    for (name, kind, major, minor) in [
        ("block", FileType::BlockDevice, 7, 3),
        ("large", FileType::CharacterDevice, 260, 70_000),
        ("pipe", FileType::Fifo, 9, 9),
    ] {
        said.tried(name, node(name, kind, makedev(major, minor)));
        let device = stat(name)?.st_rdev;
        said.show("number", format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device)));
    }
    Ok(())
}

fn device_without_a_driver(said: &mut Said) -> Result {
    node("device", FileType::CharacterDevice, makedev(240, 200))?;
    said.tried("open", open("device", OFlags::RDONLY));
    Ok(())
}

fn device_made_by_a_user(said: &mut Said) -> Result {
    crate::files::chmod(".", 0o777)?;
    said.show(
        "user",
        as_user(USER, &[], |said| {
            said.tried("device", node("null", FileType::CharacterDevice, makedev(1, 3)));
            said.tried("pipe", node("pipe", FileType::Fifo, 0));
            said.tried("socket", node("socket", FileType::Socket, 0));
            Ok(())
        }),
    );
    Ok(())
}

fn node_that_is_a_file(said: &mut Said) -> Result {
    said.tried("make", node("file", FileType::RegularFile, 0));
    said.tried("write", write("file", "data"));
    Ok(())
}

fn node_over_an_existing_name(said: &mut Said) -> Result {
    write("file", "")?;
    said.tried("file", node("file", FileType::Fifo, 0));
    said.tried("folder", node(".", FileType::Fifo, 0));
    Ok(())
}

fn folder_as_node(said: &mut Said) -> Result {
    said.tried("folder", node("folder", FileType::Directory, 0));
    said.tried("link", node("link", FileType::Symlink, 0));
    Ok(())
}
