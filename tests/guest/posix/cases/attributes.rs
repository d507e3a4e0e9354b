//! Extended attributes.

use rustix::fs::{
    CWD, FileType, OFlags, XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr, getxattr, lgetxattr, listxattr,
    lsetxattr, mkdir, mknodat, removexattr, setxattr, symlink,
};

use crate::files::{chmod, noise, open, touched, write};
use crate::people::{USER, as_user};
use crate::said::{Result, Said};

cases![
    set_read_and_remove,
    an_empty_value,
    replaced,
    created_only,
    replaced_only,
    missing,
    asked_for_the_size,
    a_buffer_too_small,
    listed,
    a_list_longer_than_its_buffer,
    many,
    a_value_of_4_kib,
    a_value_of_60_kib,
    a_value_too_large,
    a_name_of_255_bytes,
    a_name_too_long,
    an_empty_name,
    a_name_without_a_class,
    classes,
    of_a_folder,
    of_a_symbolic_link,
    of_a_pipe,
    by_descriptor,
    by_another_user,
    trusted_ones_are_for_root,
    in_a_sticky_folder,
    bytes_of_any_value,
    kept_across_a_rename,
    shared_by_hard_links,
    change_the_time_of_change,
];

fn set(path: &str, name: &str, value: &[u8]) -> Result {
    setxattr(path, name, value, XattrFlags::empty())
}

fn get(path: &str, name: &str) -> Result<String> {
    let mut buffer = [0; 200];
    let length = getxattr(path, name, &mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// The names in order, without those of the system, which depend on the kernel's security modules.
fn listing(path: &str) -> Result<String> {
    let mut buffer = vec![0; 65_536];
    let length = listxattr(path, &mut buffer)?;
    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
    let mut names: Vec<_> = text.split_terminator('\0').filter(|name| !name.starts_with("security.")).collect();
    names.sort_unstable();
    Ok(names.join(","))
}

/// A new file.
fn file() -> Result {
    write("file", "data")
}

fn set_read_and_remove(said: &mut Said) -> Result {
    file()?;
    said.tried("set", set("file", "user.name", b"value"));
    said.value("value", get("file", "user.name"));
    said.tried("remove", removexattr("file", "user.name"));
    said.value("removed", get("file", "user.name"));
    Ok(())
}

fn an_empty_value(said: &mut Said) -> Result {
    file()?;
    said.tried("set", set("file", "user.empty", b""));
    said.value("value", get("file", "user.empty"));
    said.value("list", listing("file"));
    Ok(())
}

fn replaced(said: &mut Said) -> Result {
    file()?;
    set("file", "user.name", b"a long value")?;
    said.tried("set", set("file", "user.name", b"short"));
    said.value("value", get("file", "user.name"));
    Ok(())
}

fn created_only(said: &mut Said) -> Result {
    file()?;
    said.tried("first", setxattr("file", "user.name", b"1", XattrFlags::CREATE));
    said.tried("second", setxattr("file", "user.name", b"2", XattrFlags::CREATE));
    said.value("value", get("file", "user.name"));
    Ok(())
}

fn replaced_only(said: &mut Said) -> Result {
    file()?;
    said.tried("missing", setxattr("file", "user.name", b"1", XattrFlags::REPLACE));
    set("file", "user.name", b"1")?;
    said.tried("there", setxattr("file", "user.name", b"2", XattrFlags::REPLACE));
    said.value("value", get("file", "user.name"));
    Ok(())
}

fn missing(said: &mut Said) -> Result {
    file()?;
    said.value("get", get("file", "user.missing"));
    said.tried("remove", removexattr("file", "user.missing"));
    said.value("file", get("missing", "user.name"));
    said.value("list", listing("missing"));
    Ok(())
}

fn asked_for_the_size(said: &mut Said) -> Result {
    file()?;
    set("file", "user.name", b"12345")?;
    said.value("value", getxattr("file", "user.name", &mut [0; 0]));
    said.value("list", listxattr("file", &mut [0; 0]).map(|length| length >= 10));
    Ok(())
}

fn a_buffer_too_small(said: &mut Said) -> Result {
    file()?;
    set("file", "user.name", b"12345")?;
    said.value("value", getxattr("file", "user.name", &mut [0; 4]));
    said.value("exact", getxattr("file", "user.name", &mut [0; 5]));
    Ok(())
}

fn listed(said: &mut Said) -> Result {
    file()?;
    for name in ["user.b", "user.a", "trusted.c"] {
        set("file", name, b"x")?;
    }
    said.value("list", listing("file"));
    Ok(())
}

fn a_list_longer_than_its_buffer(said: &mut Said) -> Result {
    file()?;
    set("file", "user.a-name-of-some-length", b"x")?;
    said.value("list", listxattr("file", &mut [0; 8]));
    Ok(())
}

fn many(said: &mut Said) -> Result {
    file()?;
    let mut set_of = 0;
    for number in 0..40 {
        set_of += usize::from(set("file", &format!("user.number-{number}"), format!("{number}").as_bytes()).is_ok());
    }
    said.show("set", set_of);
    said.value("listed", listing("file").map(|names| names.split(',').count()));
    said.value("last", get("file", "user.number-39"));
    Ok(())
}

fn of_length(said: &mut Said, length: usize) -> Result {
    file()?;
    let value = noise(length, 9);
    if said.tried("set", set("file", "user.large", &value)).is_some() {
        let mut back = vec![0; 70_000];
        let length = getxattr("file", "user.large", &mut back)?;
        said.show("same", back[..length] == value);
    }
    Ok(())
}

fn a_value_of_4_kib(said: &mut Said) -> Result {
    of_length(said, 4096)
}

fn a_value_of_60_kib(said: &mut Said) -> Result {
    of_length(said, 60_000)
}

fn a_value_too_large(said: &mut Said) -> Result {
    of_length(said, 65_537)
}

fn a_name_of_255_bytes(said: &mut Said) -> Result {
    file()?;
    let name = format!("user.{}", "n".repeat(250));
    said.tried("set", set("file", &name, b"value"));
    said.value("value", get("file", &name));
    said.value("listed", listing("file").map(|names| names == name));
    Ok(())
}

fn a_name_too_long(said: &mut Said) -> Result {
    file()?;
    let name = format!("user.{}", "n".repeat(251));
    said.tried("set", set("file", &name, b"value"));
    said.value("get", get("file", &name));
    Ok(())
}

fn an_empty_name(said: &mut Said) -> Result {
    file()?;
    said.tried("empty", set("file", "", b"value"));
    said.tried("class-only", set("file", "user.", b"value"));
    Ok(())
}

fn a_name_without_a_class(said: &mut Said) -> Result {
    file()?;
    for name in ["name", "other.name", "system.name", "user"] {
        said.tried(name, set("file", name, b"value"));
        said.value("get", get("file", name));
    }
    Ok(())
}

fn classes(said: &mut Said) -> Result {
    file()?;
    for name in ["user.name", "trusted.name", "security.name"] {
        said.tried(name, set("file", name, b"value"));
        said.value("get", get("file", name));
    }
    Ok(())
}

fn of_a_folder(said: &mut Said) -> Result {
    mkdir("folder", 0o755.into())?;
    said.tried("set", set("folder", "user.name", b"value"));
    said.value("value", get("folder", "user.name"));
    Ok(())
}

fn of_a_symbolic_link(said: &mut Said) -> Result {
    file()?;
    symlink("file", "link")?;
    said.tried("through", set("link", "user.name", b"value"));
    said.value("file", get("file", "user.name"));
    said.tried("user", lsetxattr("link", "user.name", b"value", XattrFlags::empty()));
    said.tried("trusted", lsetxattr("link", "trusted.name", b"value", XattrFlags::empty()));
    said.value("length", lgetxattr("link", "trusted.name", &mut [0; 20]));
    Ok(())
}

fn of_a_pipe(said: &mut Said) -> Result {
    mknodat(CWD, "pipe", FileType::Fifo, 0o644.into(), 0)?;
    said.tried("user", set("pipe", "user.name", b"value"));
    said.tried("trusted", set("pipe", "trusted.name", b"value"));
    Ok(())
}

fn by_descriptor(said: &mut Said) -> Result {
    file()?;
    let file = open("file", OFlags::RDONLY)?;
    said.tried("set", fsetxattr(&file, "user.name", b"value", XattrFlags::empty()));
    said.value("length", fgetxattr(&file, "user.name", &mut [0; 20]));
    said.value("list", flistxattr(&file, &mut [0; 200]).map(|length| length >= 10));
    said.tried("remove", fremovexattr(&file, "user.name"));
    Ok(())
}

fn by_another_user(said: &mut Said) -> Result {
    file()?;
    set("file", "user.name", b"value")?;
    for bits in [0o644, 0o600, 0o646] {
        chmod("file", bits)?;
        let seen = as_user(USER, &[], |said| {
            said.value("get", get("file", "user.name"));
            said.tried("set", set("file", "user.other", b"value"));
            said.tried("remove", removexattr("file", "user.name"));
            Ok(())
        });
        said.show(&format!("{bits:o}"), seen);
    }
    Ok(())
}

fn trusted_ones_are_for_root(said: &mut Said) -> Result {
    file()?;
    chmod("file", 0o666)?;
    set("file", "trusted.name", b"value")?;
    said.show(
        "user",
        as_user(USER, &[], |said| {
            said.value("get", get("file", "trusted.name"));
            said.tried("set", set("file", "trusted.name", b"other"));
            Ok(())
        }),
    );
    Ok(())
}

/// Only the owner sets attributes of a sticky folder.
fn in_a_sticky_folder(said: &mut Said) -> Result {
    mkdir("folder", 0o755.into())?;
    chmod("folder", 0o1777)?;
    said.show(
        "user",
        as_user(USER, &[], |said| {
            said.tried("set", set("folder", "user.name", b"value"));
            Ok(())
        }),
    );
    Ok(())
}

fn bytes_of_any_value(said: &mut Said) -> Result {
    file()?;
    let value: Vec<u8> = (0..=255).collect();
    set("file", "user.bytes", &value)?;
    let mut back = [0; 300];
    let length = getxattr("file", "user.bytes", &mut back)?;
    said.show("same", back[..length] == value);
    Ok(())
}

fn kept_across_a_rename(said: &mut Said) -> Result {
    file()?;
    set("file", "user.name", b"value")?;
    rustix::fs::rename("file", "other")?;
    said.value("value", get("other", "user.name"));
    write("file", "")?;
    said.value("new", get("file", "user.name"));
    Ok(())
}

fn shared_by_hard_links(said: &mut Said) -> Result {
    file()?;
    rustix::fs::link("file", "other")?;
    set("file", "user.name", b"value")?;
    said.value("value", get("other", "user.name"));
    Ok(())
}

fn change_the_time_of_change(said: &mut Said) -> Result {
    file()?;
    said.value("set", touched("file", || set("file", "user.name", b"value")));
    said.value("removed", touched("file", || removexattr("file", "user.name")));
    Ok(())
}
