//! Files that are open and have no name any more.

use std::os::fd::AsRawFd as _;

use rustix::fd::OwnedFd;
use rustix::fs::{
    OFlags, SeekFrom, XattrFlags, fchmod, fchown, fgetxattr, fsetxattr, fstat, fsync, ftruncate, seek, unlink,
};

use crate::files::{open, put, rest, text, there, write};
use crate::people::child;
use crate::said::{Result, Said};

cases![
    read,
    write_and_read_again,
    attributes,
    truncated,
    mode_and_owner,
    extended_attributes,
    times,
    synchronised,
    opened_through_proc,
    same_name_again,
    one_of_two_names,
    by_another_process,
    while_written_in_parts,
    missing,
    many,
    renamed_over_then_unlinked,
];

/// An open file with content and without a name.
fn nameless() -> Result<OwnedFd> {
    write("file", "data")?;
    let file = open("file", OFlags::RDWR)?;
    unlink("file")?;
    Ok(file)
}

fn read(said: &mut Said) -> Result {
    let file = nameless()?;
    said.show("there", there("file"));
    said.value("text", rest(&file));
    Ok(())
}

fn write_and_read_again(said: &mut Said) -> Result {
    let file = nameless()?;
    seek(&file, SeekFrom::End(0))?;
    said.tried("write", put(&file, b" and more"));
    seek(&file, SeekFrom::Start(0))?;
    said.value("text", rest(&file));
    Ok(())
}

fn attributes(said: &mut Said) -> Result {
    let file = nameless()?;
    let stat = fstat(&file)?;
    said.show("links", stat.st_nlink);
    said.show("size", stat.st_size);
    Ok(())
}

fn truncated(said: &mut Said) -> Result {
    let file = nameless()?;
    said.tried("truncate", ftruncate(&file, 2));
    said.value("size", fstat(&file).map(|stat| stat.st_size));
    said.value("text", rest(&file));
    Ok(())
}

fn mode_and_owner(said: &mut Said) -> Result {
    let file = nameless()?;
    said.tried("chmod", fchmod(&file, 0o600.into()));
    said.tried("chown", fchown(&file, Some(rustix::fs::Uid::from_raw(3)), None));
    let stat = fstat(&file)?;
    said.show("mode", format!("{:o}", stat.st_mode));
    said.show("owner", stat.st_uid);
    Ok(())
}

fn extended_attributes(said: &mut Said) -> Result {
    let file = nameless()?;
    said.tried("set", fsetxattr(&file, "user.name", b"value", XattrFlags::empty()));
    let mut value = [0; 20];
    said.value("length", fgetxattr(&file, "user.name", &mut value));
    Ok(())
}

fn times(said: &mut Said) -> Result {
    use rustix::fs::{Timespec, Timestamps};
    let file = nameless()?;
    let time = Timespec { tv_sec: 1_000_000_000, tv_nsec: 5 };
    said.tried("set", rustix::fs::futimens(&file, &Timestamps { last_access: time, last_modification: time }));
    said.value("seconds", fstat(&file).map(|stat| stat.st_mtime));
    Ok(())
}

fn synchronised(said: &mut Said) -> Result {
    let file = nameless()?;
    put(&file, b"new")?;
    said.tried("sync", fsync(&file));
    Ok(())
}

fn opened_through_proc(said: &mut Said) -> Result {
    let file = nameless()?;
    let again = open(&format!("/proc/self/fd/{}", file.as_raw_fd()), OFlags::RDONLY);
    said.value("text", again.and_then(rest));
    Ok(())
}

fn same_name_again(said: &mut Said) -> Result {
    let file = nameless()?;
    write("file", "other")?;
    said.value("old", rest(&file));
    said.value("new", text("file"));
    put(&file, b"x")?;
    said.value("unchanged", text("file"));
    Ok(())
}

fn one_of_two_names(said: &mut Said) -> Result {
    write("a", "data")?;
    rustix::fs::link("a", "b")?;
    let file = open("a", OFlags::RDWR)?;
    unlink("a")?;
    put(&file, b"DA")?;
    said.value("text", text("b"));
    said.value("links", fstat(&file).map(|stat| stat.st_nlink));
    Ok(())
}

fn by_another_process(said: &mut Said) -> Result {
    write("file", "data")?;
    let file = open("file", OFlags::RDONLY)?;
    said.show(
        "child",
        child(|said| {
            said.tried("unlink", unlink("file"));
            Ok(())
        })
        .wait(),
    );
    said.value("text", rest(&file));
    said.value("links", fstat(&file).map(|stat| stat.st_nlink));
    Ok(())
}

fn while_written_in_parts(said: &mut Said) -> Result {
    let file = open("file", OFlags::RDWR | OFlags::CREATE)?;
    for number in 0..20 {
        put(&file, &[b'a' + number; 1000])?;
        if number == 10 {
            unlink("file")?;
        }
    }
    seek(&file, SeekFrom::Start(0))?;
    let text = rest(&file)?;
    said.show("length", text.len());
    said.show("end", text.ends_with('t'));
    Ok(())
}

fn missing(said: &mut Said) -> Result {
    said.tried("missing", unlink("missing"));
    write("file", "")?;
    said.tried("twice", unlink("file").and_then(|()| unlink("file")));
    Ok(())
}

fn many(said: &mut Said) -> Result {
    let mut files = Vec::new();
    for number in 0..100 {
        let name = format!("file{number}");
        let file = open(&name, OFlags::RDWR | OFlags::CREATE)?;
        put(&file, name.as_bytes())?;
        unlink(&name)?;
        files.push((name, file));
    }
    let mut wrong = 0;
    for (name, file) in &files {
        seek(file, SeekFrom::Start(0))?;
        wrong += usize::from(rest(file)? != *name);
    }
    said.show("wrong", wrong);
    Ok(())
}

fn renamed_over_then_unlinked(said: &mut Said) -> Result {
    write("a", "a")?;
    write("b", "b")?;
    let (a, b) = (open("a", OFlags::RDONLY)?, open("b", OFlags::RDONLY)?);
    rustix::fs::rename("a", "b")?;
    unlink("b")?;
    said.value("a", rest(&a));
    said.value("b", rest(&b));
    Ok(())
}
