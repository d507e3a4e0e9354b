//! Names and paths: lengths, odd bytes, dots, slashes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{OFlags, lstat, mkdir, rmdir, stat, unlink};
use rustix::process::chdir;

use crate::files::{list, names, open, text, there, write};
use crate::said::{Result, Said, errno};

cases![
    name_of_255_bytes,
    name_of_256_bytes,
    folder_with_the_longest_name,
    path_of_4095_bytes,
    path_of_4096_bytes,
    deeper_than_the_longest_path,
    empty_name,
    dots,
    slashes_within,
    slash_at_the_end,
    odd_bytes,
    bytes_that_are_not_utf8,
    every_byte,
    case_matters,
    names_that_protocols_abuse,
    missing_everywhere,
];

fn name_of_255_bytes(said: &mut Said) -> Result {
    let name = "n".repeat(255);
    said.tried("write", write(&name, "data"));
    said.value("text", text(&name));
    said.show("listed", list(".")? == [name.as_str()]);
    let other = "m".repeat(255);
    said.tried("rename", rustix::fs::rename(&name, &other));
    said.tried("link", rustix::fs::link(&other, &name));
    said.tried("unlink", unlink(&other));
    Ok(())
}

fn name_of_256_bytes(said: &mut Said) -> Result {
    let name = "n".repeat(256);
    said.tried("write", write(&name, "data"));
    said.tried("mkdir", mkdir(&name, 0o755.into()));
    said.tried("stat", stat(&name));
    said.tried("unlink", unlink(&name));
    said.tried("symlink", rustix::fs::symlink("x", &name));
    write("file", "")?;
    said.tried("rename", rustix::fs::rename("file", &name));
    said.tried("link", rustix::fs::link("file", &name));
    Ok(())
}

fn folder_with_the_longest_name(said: &mut Said) -> Result {
    let name = "d".repeat(255);
    mkdir(&name, 0o755.into())?;
    let below = format!("{name}/{}", "f".repeat(255));
    said.tried("write", write(&below, "data"));
    said.value("text", text(&below));
    Ok(())
}

/// Folders below each other, so that a path down to the last and one more name has this length.
fn nested(length: usize) -> Result<String> {
    let mut path = String::new();
    // A last name of at least one byte stays.
    while path.len() + 101 < length {
        path += &format!("{:->99}/", "");
        mkdir(&path, 0o755.into())?;
    }
    let last = length - path.len();
    Ok(path + &"f".repeat(last))
}

fn path_of_4095_bytes(said: &mut Said) -> Result {
    let path = nested(4095)?;
    said.tried("write", write(&path, "data"));
    said.value("text", text(&path));
    said.tried("unlink", unlink(&path));
    Ok(())
}

fn path_of_4096_bytes(said: &mut Said) -> Result {
    let path = nested(4096)?;
    said.tried("write", write(&path, "data"));
    said.tried("stat", stat(&path));
    Ok(())
}

fn deeper_than_the_longest_path(said: &mut Said) -> Result {
    let name = "d".repeat(250);
    for _ in 0..20 {
        mkdir(&name, 0o755.into())?;
        chdir(&name)?;
    }
    said.tried("write", write("file", "data"));
    said.value("text", text("file"));
    said.value("names", names("."));
    unlink("file")?;
    for _ in 0..20 {
        chdir("..")?;
        rmdir(&name)?;
    }
    said.show("left", list(".")?.len());
    Ok(())
}

fn empty_name(said: &mut Said) -> Result {
    said.tried("open", open("", OFlags::RDONLY));
    said.tried("mkdir", mkdir("", 0o755.into()));
    said.tried("stat", stat(""));
    said.tried("symlink", rustix::fs::symlink("", "link"));
    Ok(())
}

fn dots(said: &mut Said) -> Result {
    mkdir("folder", 0o755.into())?;
    said.tried("mkdir-dot", mkdir("folder/.", 0o755.into()));
    said.tried("mkdir-dots", mkdir("folder/..", 0o755.into()));
    said.tried("rmdir-dot", rmdir("folder/."));
    said.tried("rmdir-dots", rmdir("folder/.."));
    said.tried("unlink-dot", unlink("folder/."));
    said.tried("rename-dot", rustix::fs::rename("folder/.", "other"));
    said.tried("rename-to-dots", rustix::fs::rename("folder", "folder/.."));
    said.show("same", stat("folder/..")?.st_ino == stat(".")?.st_ino);
    said.tried("three-dots", write("...", "x"));
    said.tried("hidden", write(".x", "x"));
    Ok(())
}

fn slashes_within(said: &mut Said) -> Result {
    mkdir("folder", 0o755.into())?;
    write("folder//file", "data")?;
    said.value("text", text(".///folder/.//../folder/file"));
    Ok(())
}

fn slash_at_the_end(said: &mut Said) -> Result {
    write("file", "")?;
    said.tried("mkdir", mkdir("folder/", 0o755.into()));
    said.tried("create", open("new/", OFlags::CREATE | OFlags::RDWR));
    said.tried("stat", stat("file/"));
    said.tried("unlink", unlink("file/"));
    said.tried("rename-file", rustix::fs::rename("file", "other/"));
    said.tried("rename-folder", rustix::fs::rename("folder", "other/"));
    said.tried("rmdir", rmdir("other/"));
    Ok(())
}

fn odd_bytes(said: &mut Said) -> Result {
    for name in
        [" ", "a b", "new\nline", "tab\t", "\\", "a\\b", "*", "\"", "'", "a:b", "a|b", "-rf", "~", "#", "%2e", "\u{7f}"]
    {
        write(name, name)?;
        if text(name)? != name {
            said.show("wrong", name.escape_default());
        }
    }
    said.show("names", list(".")?.len());
    Ok(())
}

fn bytes_that_are_not_utf8(said: &mut Said) -> Result {
    let name = OsStr::from_bytes(b"\xff\xfe-\xc3(\x80");
    said.tried("write", std::fs::write(name, "data").map_err(|error| errno(&error)));
    let listed = std::fs::read_dir(".").map_err(|error| errno(&error))?.filter_map(std::result::Result::ok);
    said.show("listed", listed.map(|entry| entry.file_name()).collect::<Vec<_>>() == [name]);
    said.tried("link", std::os::unix::fs::symlink(name, "link").map_err(|error| errno(&error)));
    said.show("target", std::fs::read_link("link").is_ok_and(|target| target.as_os_str() == name));
    Ok(())
}

fn every_byte(said: &mut Said) -> Result {
    let mut made = 0;
    for byte in (1..=255).filter(|byte| *byte != b'/') {
        let name = [b'x', byte];
        made += usize::from(std::fs::write(OsStr::from_bytes(&name), [byte]).is_ok());
    }
    said.show("made", made);
    said.show("listed", list(".")?.len());
    Ok(())
}

fn case_matters(said: &mut Said) -> Result {
    write("file", "lower")?;
    write("FILE", "upper")?;
    said.value("names", names("."));
    said.value("lower", text("file"));
    Ok(())
}

fn names_that_protocols_abuse(said: &mut Said) -> Result {
    for name in
        [".virtfs_metadata", ".virtfs_metadata_root", ".fuse_hidden0001", ".nfs0001", "lost+found", "con", "aux.txt"]
    {
        if said.tried(name, write(name, name)).is_some() {
            said.show("there", there(name));
        }
    }
    said.show("names", list(".")?.len());
    Ok(())
}

fn missing_everywhere(said: &mut Said) -> Result {
    let missing = "missing/below";
    said.tried("open", open(missing, OFlags::RDONLY));
    said.tried("create", open(missing, OFlags::RDWR | OFlags::CREATE));
    said.tried("mkdir", mkdir(missing, 0o755.into()));
    said.tried("rmdir", rmdir(missing));
    said.tried("unlink", unlink(missing));
    said.tried("stat", lstat(missing));
    said.tried("symlink", rustix::fs::symlink("x", missing));
    said.tried("rename", rustix::fs::rename("missing", "other"));
    said.tried("link", rustix::fs::link("missing", "other"));
    said.tried("chmod", crate::files::chmod(missing, 0o600));
    Ok(())
}
