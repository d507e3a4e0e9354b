//! Several names of one file.

use std::os::fd::AsRawFd as _;

use rustix::fs::{AtFlags, CWD, OFlags, link, linkat, mkdir, symlink, unlink};

use crate::files::{append, chmod, chown, inode, kind, links, lstat, mode, open, text, write};
use crate::people::{USER, as_user};
use crate::said::{Result, Said};

cases![
    names_count,
    names_share_content,
    names_share_attributes,
    over_an_existing_name,
    of_a_folder,
    of_a_symbolic_link,
    of_a_symbolic_link_followed,
    of_a_missing_file,
    into_another_folder,
    of_an_open_file_through_proc,
    of_an_unlinked_file_through_proc,
    across_file_systems,
    a_hundred_names,
    of_a_file_of_somebody_else,
    with_a_name_too_many_in_a_path,
];

fn names_count(said: &mut Said) -> Result {
    write("a", "data")?;
    said.value("one", links("a"));
    link("a", "b")?;
    said.value("two", links("a"));
    said.value("other", links("b"));
    said.show("same", inode("a")? == inode("b")?);
    unlink("a")?;
    said.value("left", links("b"));
    Ok(())
}

fn names_share_content(said: &mut Said) -> Result {
    write("a", "one")?;
    link("a", "b")?;
    append("b", "two")?;
    said.value("first", text("a"));
    unlink("a")?;
    said.value("second", text("b"));
    Ok(())
}

fn names_share_attributes(said: &mut Said) -> Result {
    write("a", "one")?;
    link("a", "b")?;
    chmod("a", 0o640)?;
    said.value("mode", mode("b"));
    chown("b", Some(5), Some(6))?;
    said.value("owner", crate::files::owner("a"));
    Ok(())
}

fn over_an_existing_name(said: &mut Said) -> Result {
    write("a", "a")?;
    write("b", "b")?;
    mkdir("folder", 0o755.into())?;
    said.tried("file", link("a", "b"));
    said.tried("itself", link("a", "a"));
    said.tried("folder", link("a", "folder"));
    said.value("text", text("b"));
    Ok(())
}

fn of_a_folder(said: &mut Said) -> Result {
    mkdir("folder", 0o755.into())?;
    said.tried("link", link("folder", "other"));
    Ok(())
}

fn of_a_symbolic_link(said: &mut Said) -> Result {
    symlink("target", "link")?;
    said.tried("link", link("link", "other"));
    said.value("kind", lstat("other").map(|stat| kind(stat.st_mode)));
    said.value("links", links("link"));
    Ok(())
}

fn of_a_symbolic_link_followed(said: &mut Said) -> Result {
    write("target", "data")?;
    symlink("target", "link")?;
    said.tried("link", linkat(CWD, "link", CWD, "other", AtFlags::SYMLINK_FOLLOW));
    said.value("kind", lstat("other").map(|stat| kind(stat.st_mode)));
    said.value("links", links("target"));
    Ok(())
}

fn of_a_missing_file(said: &mut Said) -> Result {
    said.tried("missing", link("missing", "other"));
    write("file", "")?;
    said.tried("below-missing", link("file", "missing/other"));
    said.tried("below-file", link("file", "file/other"));
    Ok(())
}

fn into_another_folder(said: &mut Said) -> Result {
    mkdir("folder", 0o755.into())?;
    write("a", "data")?;
    said.tried("link", link("a", "folder/b"));
    unlink("a")?;
    said.value("text", text("folder/b"));
    Ok(())
}

fn of_an_open_file_through_proc(said: &mut Said) -> Result {
    write("file", "data")?;
    let file = open("file", OFlags::RDONLY)?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    said.tried("link", linkat(CWD, path, CWD, "other", AtFlags::SYMLINK_FOLLOW));
    said.value("text", text("other"));
    Ok(())
}

fn of_an_unlinked_file_through_proc(said: &mut Said) -> Result {
    write("file", "data")?;
    let file = open("file", OFlags::RDONLY)?;
    unlink("file")?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    said.tried("link", linkat(CWD, path, CWD, "other", AtFlags::SYMLINK_FOLLOW));
    Ok(())
}

fn across_file_systems(said: &mut Said) -> Result {
    write("file", "")?;
    said.tried("link", link("file", "/dev/shm-other"));
    Ok(())
}

fn a_hundred_names(said: &mut Said) -> Result {
    write("file", "data")?;
    for number in 0..99 {
        link("file", format!("name-{number}"))?;
    }
    said.value("links", links("file"));
    for number in (0..99).step_by(3) {
        unlink(format!("name-{number}"))?;
    }
    said.value("left", links("name-1"));
    Ok(())
}

/// Linux refuses it where /proc/sys/fs/protected_hardlinks is 1, which depends on the kernel and not on the files.
fn of_a_file_of_somebody_else(said: &mut Said) -> Result {
    chmod(".", 0o777)?;
    write("file", "data")?;
    chmod("file", 0o666)?;
    said.show(
        "user",
        as_user(USER, &[], |said| {
            said.tried("link", link("file", "other"));
            Ok(())
        }),
    );
    Ok(())
}

fn with_a_name_too_many_in_a_path(said: &mut Said) -> Result {
    write("file", "")?;
    said.tried("link", link("file", "a/".repeat(2048)));
    Ok(())
}
