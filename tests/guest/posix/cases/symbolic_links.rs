//! Symbolic links: targets, following and not following, loops.

use rustix::fs::{AtFlags, CWD, OFlags, lstat, mkdir, readlink, stat, symlink, unlink};

use crate::files::{chown, kind, mode, open, owner, text, there, write};
use crate::said::{Result, Said};

cases![
    target_is_kept,
    followed_by_open,
    not_followed_by_open,
    dangling,
    created_through,
    loops,
    a_chain_of_40,
    a_chain_of_41,
    target_of_4095_bytes,
    target_too_long,
    over_an_existing_name,
    to_a_folder,
    of_the_parent,
    absolute,
    owner_of_the_link_itself,
    mode_of_the_link_itself,
    read_something_else,
    unlinked,
    short_buffer,
];

fn target(path: &str) -> Result<String> {
    Ok(readlink(path, Vec::new())?.to_string_lossy().into_owned())
}

fn target_is_kept(said: &mut Said) -> Result {
    for (name, to) in [("a", "x"), ("b", "../x//y/."), ("c", "/absolute"), ("d", " with space ")] {
        symlink(to, name)?;
        said.value(name, target(name));
        said.value("size", lstat(name).map(|stat| stat.st_size));
    }
    said.value("kind", lstat("a").map(|stat| kind(stat.st_mode)));
    Ok(())
}

fn followed_by_open(said: &mut Said) -> Result {
    write("file", "data")?;
    symlink("file", "link")?;
    said.value("text", text("link"));
    said.value("size", stat("link").map(|stat| stat.st_size));
    Ok(())
}

fn not_followed_by_open(said: &mut Said) -> Result {
    write("file", "data")?;
    symlink("file", "link")?;
    symlink(".", "folder")?;
    said.tried("link", open("link", OFlags::RDONLY | OFlags::NOFOLLOW));
    said.tried("folder", open("folder", OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::DIRECTORY));
    said.tried("within", open("folder/file", OFlags::RDONLY | OFlags::NOFOLLOW));
    said.tried("path", open("link", OFlags::PATH | OFlags::NOFOLLOW));
    Ok(())
}

fn dangling(said: &mut Said) -> Result {
    symlink("nowhere", "link")?;
    said.tried("open", open("link", OFlags::RDONLY));
    said.tried("stat", stat("link"));
    said.tried("lstat", lstat("link"));
    said.tried("mkdir", mkdir("link", 0o755.into()));
    Ok(())
}

fn created_through(said: &mut Said) -> Result {
    symlink("new", "link")?;
    said.tried("open", open("link", OFlags::RDWR | OFlags::CREATE));
    said.show("new", there("new"));
    Ok(())
}

fn loops(said: &mut Said) -> Result {
    symlink("b", "a")?;
    symlink("a", "b")?;
    symlink("self", "self")?;
    said.tried("pair", open("a", OFlags::RDONLY));
    said.tried("self", stat("self"));
    said.tried("within", stat("self/x"));
    said.tried("lstat", lstat("self"));
    Ok(())
}

fn chain(length: usize) -> Result {
    write("0", "data")?;
    for number in 1..=length {
        symlink((number - 1).to_string(), number.to_string())?;
    }
    Ok(())
}

fn a_chain_of_40(said: &mut Said) -> Result {
    chain(40)?;
    said.value("text", text("40"));
    Ok(())
}

fn a_chain_of_41(said: &mut Said) -> Result {
    chain(41)?;
    said.value("text", text("41"));
    Ok(())
}

/// The page cache of tmpfs and most file systems hold a target in one page, its end included.
fn target_of_4095_bytes(said: &mut Said) -> Result {
    let to = "t".repeat(4095);
    if said.tried("symlink", symlink(&to, "link")).is_some() {
        said.show("same", target("link")? == to);
    }
    Ok(())
}

fn target_too_long(said: &mut Said) -> Result {
    said.tried("symlink", symlink("t".repeat(4096), "link"));
    Ok(())
}

fn over_an_existing_name(said: &mut Said) -> Result {
    write("file", "")?;
    symlink("x", "link")?;
    said.tried("file", symlink("y", "file"));
    said.tried("link", symlink("y", "link"));
    said.tried("folder", symlink("y", "."));
    said.value("target", target("link"));
    Ok(())
}

fn to_a_folder(said: &mut Said) -> Result {
    mkdir("folder", 0o755.into())?;
    symlink("folder", "link")?;
    write("link/file", "data")?;
    said.value("text", text("folder/file"));
    said.value("slash", lstat("link/").map(|stat| kind(stat.st_mode)));
    said.value("bare", lstat("link").map(|stat| kind(stat.st_mode)));
    Ok(())
}

fn of_the_parent(said: &mut Said) -> Result {
    mkdir("folder", 0o755.into())?;
    write("file", "data")?;
    symlink("../file", "folder/link")?;
    said.value("text", text("folder/link"));
    rustix::fs::rename("folder/link", "link")?;
    said.value("moved", text("link"));
    Ok(())
}

/// Resolved by the guest, in the guest's own tree.
fn absolute(said: &mut Said) -> Result {
    symlink("/proc/sys/kernel/ostype", "link")?;
    said.value("text", text("link"));
    Ok(())
}

fn owner_of_the_link_itself(said: &mut Said) -> Result {
    write("file", "")?;
    symlink("file", "link")?;
    let (uid, gid) = (rustix::fs::Uid::from_raw(7), rustix::fs::Gid::from_raw(8));
    said.tried("lchown", rustix::fs::chownat(CWD, "link", Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW));
    said.value("link", owner("link"));
    said.value("file", owner("file"));
    chown("link", Some(9), None)?;
    said.value("followed", owner("file"));
    Ok(())
}

fn mode_of_the_link_itself(said: &mut Said) -> Result {
    write("file", "")?;
    symlink("file", "link")?;
    said.value("link", mode("link"));
    crate::files::chmod("link", 0o600)?;
    said.value("file", mode("file"));
    said.value("unchanged", mode("link"));
    Ok(())
}

fn read_something_else(said: &mut Said) -> Result {
    write("file", "")?;
    said.value("file", target("file"));
    said.value("folder", target("."));
    said.value("missing", target("missing"));
    Ok(())
}

fn unlinked(said: &mut Said) -> Result {
    write("file", "data")?;
    symlink("file", "link")?;
    said.tried("unlink", unlink("link"));
    said.value("text", text("file"));
    Ok(())
}

fn short_buffer(said: &mut Said) -> Result {
    symlink("0123456789", "link")?;
    let mut buffer = [0_u8; 4];
    // SAFETY: the buffer's own length is given.
    let length = unsafe { libc::readlink(c"link".as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
    said.show("length", length);
    said.show("start", String::from_utf8_lossy(&buffer));
    Ok(())
}
