//! Access control lists, in the form in which the kernel takes them as extended attributes (acl(5)).

use rustix::fs::{OFlags, XattrFlags, getxattr, mkdir, removexattr, setxattr};

use crate::files::{chmod, chown, mode, open, text, write};
use crate::people::{OTHER, USER, as_user};
use crate::said::{Result, Said};

cases![
    set_and_read,
    list_decides_for_a_named_user,
    list_decides_for_a_named_group,
    mask_limits,
    mode_shows_the_mask,
    chmod_changes_the_mask,
    a_list_that_is_a_mode,
    removed,
    a_broken_list,
    default_list_of_a_file,
    default_list_is_inherited,
    default_list_is_inherited_by_folders,
    default_list_and_umask,
    set_by_another_user,
    chown_keeps_the_list,
];

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// Who an entry is about.
#[derive(Clone, Copy)]
enum Who {
    Owner,
    User(u32),
    Group,
    GroupOf(u32),
    Mask,
    Others,
}

/// The attribute's value: a version, and a tag, a mode and an id for each entry.
fn list(entries: &[(Who, u16)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (who, rights) in entries {
        let (tag, id) = match *who {
            Who::Owner => (1_u16, u32::MAX),
            Who::User(id) => (2, id),
            Who::Group => (4, u32::MAX),
            Who::GroupOf(id) => (8, id),
            Who::Mask => (16, u32::MAX),
            Who::Others => (32, u32::MAX),
        };
        bytes.extend(tag.to_le_bytes());
        bytes.extend(rights.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// The attribute as `tag:rights:id` words.
fn shown(path: &str, name: &str) -> Result<String> {
    let mut buffer = [0; 1024];
    let length = getxattr(path, name, &mut buffer)?;
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    let entries = buffer.get(4..length).unwrap_or_default().chunks_exact(8);
    let words = entries.map(|entry| match number(&entry[4..]) {
        0xffff_ffff => format!("{}:{}", number(&entry[..2]), number(&entry[2..4])),
        id => format!("{}:{}:{id}", number(&entry[..2]), number(&entry[2..4])),
    });
    Ok(words.collect::<Vec<_>>().join(","))
}

fn set(path: &str, name: &str, entries: &[(Who, u16)]) -> Result {
    setxattr(path, name, &list(entries), XattrFlags::empty())
}

const NAMED: [(Who, u16); 5] =
    [(Who::Owner, 6), (Who::User(USER), 6), (Who::Group, 0), (Who::Mask, 6), (Who::Others, 0)];

fn set_and_read(said: &mut Said) -> Result {
    write("file", "")?;
    said.value("none", shown("file", ACCESS));
    said.tried("set", set("file", ACCESS, &NAMED));
    said.value("list", shown("file", ACCESS));
    Ok(())
}

/// What a user can do with the file.
fn rights(said: &mut Said, name: &str, uid: u32, groups: &[u32]) {
    said.show(
        name,
        as_user(uid, groups, |said| {
            said.value("read", text("file"));
            said.tried("write", open("file", OFlags::WRONLY));
            Ok(())
        }),
    );
}

fn list_decides_for_a_named_user(said: &mut Said) -> Result {
    write("file", "data")?;
    said.tried("set", set("file", ACCESS, &NAMED));
    rights(said, "named", USER, &[]);
    rights(said, "other", OTHER, &[]);
    Ok(())
}

fn list_decides_for_a_named_group(said: &mut Said) -> Result {
    write("file", "data")?;
    let entries = [(Who::Owner, 6), (Who::Group, 0), (Who::GroupOf(500), 4), (Who::Mask, 7), (Who::Others, 0)];
    said.tried("set", set("file", ACCESS, &entries));
    rights(said, "member", USER, &[500]);
    rights(said, "stranger", USER, &[]);
    Ok(())
}

fn mask_limits(said: &mut Said) -> Result {
    write("file", "data")?;
    let entries = [(Who::Owner, 6), (Who::User(USER), 6), (Who::Group, 6), (Who::Mask, 4), (Who::Others, 0)];
    said.tried("set", set("file", ACCESS, &entries));
    rights(said, "named", USER, &[]);
    Ok(())
}

fn mode_shows_the_mask(said: &mut Said) -> Result {
    write("file", "")?;
    said.tried("set", set("file", ACCESS, &NAMED));
    said.value("mode", mode("file"));
    Ok(())
}

fn chmod_changes_the_mask(said: &mut Said) -> Result {
    write("file", "data")?;
    said.tried("set", set("file", ACCESS, &NAMED));
    said.tried("chmod", chmod("file", 0o640));
    said.value("list", shown("file", ACCESS));
    rights(said, "named", USER, &[]);
    Ok(())
}

fn a_list_that_is_a_mode(said: &mut Said) -> Result {
    write("file", "")?;
    said.tried("set", set("file", ACCESS, &[(Who::Owner, 7), (Who::Group, 5), (Who::Others, 1)]));
    said.value("mode", mode("file"));
    said.value("list", shown("file", ACCESS));
    Ok(())
}

fn removed(said: &mut Said) -> Result {
    write("file", "data")?;
    said.tried("set", set("file", ACCESS, &NAMED));
    said.tried("remove", removexattr("file", ACCESS));
    said.value("list", shown("file", ACCESS));
    said.value("mode", mode("file"));
    rights(said, "named", USER, &[]);
    Ok(())
}

fn a_broken_list(said: &mut Said) -> Result {
    write("file", "")?;
    said.tried(
        "no-mask",
        set("file", ACCESS, &[(Who::Owner, 6), (Who::User(USER), 6), (Who::Group, 0), (Who::Others, 0)]),
    );
    said.tried("no-owner", set("file", ACCESS, &[(Who::Group, 0), (Who::Others, 0)]));
    said.tried("short", setxattr("file", ACCESS, &[2, 0, 0, 0, 1], XattrFlags::empty()));
    said.tried("version", setxattr("file", ACCESS, &[9, 0, 0, 0], XattrFlags::empty()));
    Ok(())
}

fn default_list_of_a_file(said: &mut Said) -> Result {
    write("file", "")?;
    said.tried("set", set("file", DEFAULT, &NAMED));
    Ok(())
}

fn default_list_is_inherited(said: &mut Said) -> Result {
    mkdir("folder", 0o755.into())?;
    said.tried("set", set("folder", DEFAULT, &NAMED));
    write("folder/file", "data")?;
    said.value("list", shown("folder/file", ACCESS));
    said.value("mode", mode("folder/file"));
    said.value("no-default", shown("folder/file", DEFAULT));
    Ok(())
}

fn default_list_is_inherited_by_folders(said: &mut Said) -> Result {
    mkdir("folder", 0o755.into())?;
    said.tried("set", set("folder", DEFAULT, &NAMED));
    mkdir("folder/below", 0o777.into())?;
    said.value("default", shown("folder/below", DEFAULT));
    said.value("list", shown("folder/below", ACCESS));
    said.value("mode", mode("folder/below"));
    Ok(())
}

/// A default list takes the place of the umask.
fn default_list_and_umask(said: &mut Said) -> Result {
    mkdir("folder", 0o755.into())?;
    rustix::process::umask(0o077.into());
    let entries = [(Who::Owner, 7), (Who::Group, 7), (Who::Others, 7)];
    said.tried("set", set("folder", DEFAULT, &entries));
    write("folder/file", "")?;
    said.value("inside", mode("folder/file"));
    write("file", "")?;
    said.value("outside", mode("file"));
    Ok(())
}

fn set_by_another_user(said: &mut Said) -> Result {
    write("file", "")?;
    chmod("file", 0o666)?;
    said.show(
        "user",
        as_user(USER, &[], |said| {
            said.tried("set", set("file", ACCESS, &NAMED));
            Ok(())
        }),
    );
    chown("file", Some(USER), None)?;
    said.show(
        "owner",
        as_user(USER, &[], |said| {
            said.tried("set", set("file", ACCESS, &NAMED));
            Ok(())
        }),
    );
    Ok(())
}

fn chown_keeps_the_list(said: &mut Said) -> Result {
    write("file", "")?;
    said.tried("set", set("file", ACCESS, &NAMED));
    chown("file", Some(OTHER), Some(OTHER))?;
    said.value("list", shown("file", ACCESS));
    Ok(())
}
