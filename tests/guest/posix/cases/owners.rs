//! Owners, groups, and the bits that change with them.

use rustix::fs::{OFlags, mkdir};

use crate::files::{append, chmod, chown, mode, open, owner, truncate, write};
use crate::people::{OTHER, USER, as_user};
use crate::said::{Result, Said};

cases![
    given_away_by_root,
    only_one_of_the_two,
    given_away_by_a_user,
    group_changed_by_its_owner,
    large_numbers,
    set_id_bits_lost_when_given_away,
    set_id_bits_lost_when_written_by_a_user,
    set_id_bits_kept_when_written_by_root,
    set_id_bits_lost_when_truncated_by_a_user,
    set_id_bits_of_a_folder,
    group_bit_without_execution,
    group_bit_taken_from_a_stranger,
    folder_hands_down_its_group,
    folder_hands_down_its_group_to_folders,
    folder_hands_down_its_group_to_links,
    new_files_of_a_user,
    sticky_bit_of_a_file,
    executed_with_the_owners_rights,
];

fn given_away_by_root(said: &mut Said) -> Result {
    write("file", "")?;
    said.tried("chown", chown("file", Some(USER), Some(OTHER)));
    said.value("owner", owner("file"));
    said.tried("missing", chown("missing", Some(1), None));
    Ok(())
}

fn only_one_of_the_two(said: &mut Said) -> Result {
    write("file", "")?;
    chown("file", Some(11), None)?;
    said.value("user", owner("file"));
    chown("file", None, Some(12))?;
    said.value("group", owner("file"));
    chown("file", None, None)?;
    said.value("neither", owner("file"));
    Ok(())
}

fn given_away_by_a_user(said: &mut Said) -> Result {
    write("file", "")?;
    chown("file", Some(USER), Some(USER))?;
    said.show(
        "user",
        as_user(USER, &[], |said| {
            said.tried("away", chown("file", Some(OTHER), None));
            said.tried("to-itself", chown("file", Some(USER), None));
            Ok(())
        }),
    );
    said.show(
        "other",
        as_user(OTHER, &[], |said| {
            said.tried("take", chown("file", Some(OTHER), None));
            Ok(())
        }),
    );
    said.value("owner", owner("file"));
    Ok(())
}

fn group_changed_by_its_owner(said: &mut Said) -> Result {
    write("file", "")?;
    chown("file", Some(USER), Some(USER))?;
    said.show(
        "user",
        as_user(USER, &[500], |said| {
            said.tried("own", chown("file", None, Some(500)));
            said.tried("foreign", chown("file", None, Some(501)));
            Ok(())
        }),
    );
    said.value("owner", owner("file"));
    Ok(())
}

fn large_numbers(said: &mut Said) -> Result {
    write("file", "")?;
    said.tried("chown", chown("file", Some(0x7fff_ffff), Some(0xffff_fffe)));
    said.value("owner", owner("file"));
    Ok(())
}

/// A file with these bits.
fn file(bits: u32) -> Result {
    write("file", "data")?;
    chmod("file", bits)
}

fn set_id_bits_lost_when_given_away(said: &mut Said) -> Result {
    file(0o6755)?;
    chown("file", Some(USER), Some(USER))?;
    said.value("root", mode("file"));
    chmod("file", 0o6755)?;
    said.show("user", as_user(USER, &[500], |_| chown("file", None, Some(500))));
    said.value("mode", mode("file"));
    Ok(())
}

fn set_id_bits_lost_when_written_by_a_user(said: &mut Said) -> Result {
    file(0o6777)?;
    said.show("user", as_user(USER, &[], |_| append("file", "more")));
    said.value("mode", mode("file"));
    Ok(())
}

fn set_id_bits_kept_when_written_by_root(said: &mut Said) -> Result {
    file(0o6777)?;
    append("file", "more")?;
    said.value("mode", mode("file"));
    Ok(())
}

fn set_id_bits_lost_when_truncated_by_a_user(said: &mut Said) -> Result {
    file(0o6777)?;
    said.show("user", as_user(USER, &[], |_| truncate("file", 1)));
    said.value("mode", mode("file"));
    Ok(())
}

fn set_id_bits_of_a_folder(said: &mut Said) -> Result {
    mkdir("folder", 0o755.into())?;
    chmod("folder", 0o6755)?;
    chown("folder", Some(USER), Some(USER))?;
    said.value("mode", mode("folder"));
    Ok(())
}

/// Without execution by the group the bit once meant mandatory locking.
fn group_bit_without_execution(said: &mut Said) -> Result {
    file(0o2666)?;
    said.show("user", as_user(USER, &[], |_| append("file", "more")));
    said.value("written", mode("file"));
    chmod("file", 0o2666)?;
    chown("file", Some(USER), None)?;
    said.value("given", mode("file"));
    Ok(())
}

fn group_bit_taken_from_a_stranger(said: &mut Said) -> Result {
    file(0o644)?;
    chown("file", Some(USER), Some(500))?;
    for (name, groups) in [("stranger", [].as_slice()), ("member", &[500])] {
        said.show(name, as_user(USER, groups, |_| chmod("file", 0o2755)));
        said.value("mode", mode("file"));
    }
    Ok(())
}

/// A folder of a group, whose new files are to be of that group too.
fn group_folder() -> Result {
    mkdir("folder", 0o755.into())?;
    chown("folder", Some(OTHER), Some(500))?;
    chmod("folder", 0o2777)
}

fn folder_hands_down_its_group(said: &mut Said) -> Result {
    group_folder()?;
    write("folder/by-root", "")?;
    said.show(
        "user",
        as_user(USER, &[], |said| {
            said.tried("create", write("folder/by-user", ""));
            let flags = OFlags::CREATE | OFlags::RDWR;
            said.tried("with-bit", rustix::fs::open("folder/with-bit", flags, 0o2755.into()));
            Ok(())
        }),
    );
    for name in ["folder/by-root", "folder/by-user", "folder/with-bit"] {
        said.value("owner", owner(name));
        said.value("mode", mode(name));
    }
    Ok(())
}

fn folder_hands_down_its_group_to_folders(said: &mut Said) -> Result {
    group_folder()?;
    said.show(
        "user",
        as_user(USER, &[], |said| {
            said.tried("mkdir", mkdir("folder/below", 0o755.into()));
            said.tried("deeper", mkdir("folder/below/deeper", 0o755.into()));
            Ok(())
        }),
    );
    for name in ["folder/below", "folder/below/deeper"] {
        said.value("owner", owner(name));
        said.value("mode", mode(name));
    }
    Ok(())
}

fn folder_hands_down_its_group_to_links(said: &mut Said) -> Result {
    group_folder()?;
    said.show(
        "user",
        as_user(USER, &[], |said| {
            said.tried("symlink", rustix::fs::symlink("x", "folder/link"));
            said.tried(
                "pipe",
                rustix::fs::mknodat(rustix::fs::CWD, "folder/pipe", rustix::fs::FileType::Fifo, 0o644.into(), 0),
            );
            Ok(())
        }),
    );
    said.value("link", owner("folder/link"));
    said.value("pipe", owner("folder/pipe"));
    Ok(())
}

fn new_files_of_a_user(said: &mut Said) -> Result {
    chmod(".", 0o777)?;
    for uid in [USER, OTHER] {
        let name = uid.to_string();
        said.show(
            &name,
            as_user(uid, &[500], |said| {
                said.tried("create", open(&name, OFlags::CREATE | OFlags::RDWR));
                Ok(())
            }),
        );
        said.value("owner", owner(&name));
    }
    Ok(())
}

fn sticky_bit_of_a_file(said: &mut Said) -> Result {
    file(0o644)?;
    chown("file", Some(USER), Some(USER))?;
    said.show(
        "user",
        as_user(USER, &[], |said| {
            said.tried("chmod", chmod("file", 0o1644));
            Ok(())
        }),
    );
    said.value("mode", mode("file"));
    Ok(())
}

fn executed_with_the_owners_rights(said: &mut Said) -> Result {
    std::fs::copy("/bin/busybox", "busybox").map_err(|error| crate::said::errno(&error))?;
    chown("busybox", Some(OTHER), Some(OTHER))?;
    chmod("busybox", 0o6755)?;
    said.show(
        "user",
        as_user(USER, &[], |said| {
            // `id` shows the effective numbers beside the real ones; `-u` and `-g` show the effective ones alone.
            for flag in ["-u", "-g"] {
                let output = std::process::Command::new("./busybox").args(["id", flag]).output();
                let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
                said.value(flag, text.map_err(|error| crate::said::errno(&error)));
            }
            Ok(())
        }),
    );
    Ok(())
}
