//! Who may do what: modes, other users, groups, execution, sticky folders.

use std::process::Command;

use rustix::fs::{Access, OFlags, access, mkdir, rename, rmdir, unlink};
use rustix::process::{chdir, umask};

use crate::files::{chmod, chown, mode, names, open, text, truncate, write};
use crate::people::{OTHER, USER, as_user, become_user};
use crate::said::{Result, Said, errno};

cases![
    modes_of_new_files,
    modes_of_new_folders,
    every_bit,
    reading_as_another_user,
    writing_as_another_user,
    reading_as_a_member_of_the_group,
    the_owner_counts_before_the_group,
    folder_without_search,
    folder_without_reading,
    folder_without_writing,
    root_reads_everything,
    access_as_another_user,
    access_as_root,
    open_descriptor_outlives_the_permission,
    a_file_created_without_permissions,
    sticky_folder,
    sticky_folder_owned_by_the_user,
    chmod_by_another_user,
    truncating_as_another_user,
    executing_a_script,
    executing_without_permission,
    executing_a_program,
    writing_to_a_running_program,
    creating_as_a_user,
    removing_a_file_of_somebody_else,
    folder_closed_after_entering,
];

fn modes_of_new_files(said: &mut Said) -> Result {
    for (mask, wanted) in [(0o022, 0o666), (0o077, 0o777), (0, 0o606), (0o777, 0o777)] {
        umask(mask.into());
        let name = format!("{mask:o}-{wanted:o}");
        rustix::fs::open(&name, OFlags::CREATE | OFlags::RDWR, wanted.into())?;
        said.value(&name, mode(&name));
    }
    Ok(())
}

fn modes_of_new_folders(said: &mut Said) -> Result {
    for (mask, wanted) in [(0o022, 0o777), (0o027, 0o777), (0, 0o1777), (0, 0o700)] {
        umask(mask.into());
        let name = format!("{mask:o}-{wanted:o}");
        mkdir(&name, wanted.into())?;
        said.value(&name, mode(&name));
    }
    Ok(())
}

fn every_bit(said: &mut Said) -> Result {
    write("file", "")?;
    let mut wrong = 0;
    for bit in 0..12 {
        chmod("file", 1 << bit)?;
        wrong += usize::from(mode("file")? != format!("{:o}", 1 << bit));
    }
    said.show("wrong", wrong);
    chmod("file", 0)?;
    said.value("none", mode("file"));
    Ok(())
}

fn reading_as_another_user(said: &mut Said) -> Result {
    for bits in [0o600, 0o640, 0o604] {
        let name = format!("{bits:o}");
        write(&name, "data")?;
        chmod(&name, bits)?;
        let seen = as_user(USER, &[], |said| {
            said.value("text", text(&name));
            Ok(())
        });
        said.show(&name, seen);
    }
    Ok(())
}

fn writing_as_another_user(said: &mut Said) -> Result {
    for bits in [0o644, 0o646, 0o602] {
        let name = format!("{bits:o}");
        write(&name, "data")?;
        chmod(&name, bits)?;
        let seen = as_user(USER, &[], |said| {
            said.tried("write", open(&name, OFlags::WRONLY));
            said.tried("both", open(&name, OFlags::RDWR));
            said.tried("truncate", open(&name, OFlags::WRONLY | OFlags::TRUNC));
            Ok(())
        });
        said.show(&name, seen);
    }
    Ok(())
}

fn reading_as_a_member_of_the_group(said: &mut Said) -> Result {
    write("file", "data")?;
    chown("file", Some(OTHER), Some(500))?;
    chmod("file", 0o640)?;
    for (name, groups) in [("member", [500].as_slice()), ("stranger", &[])] {
        let seen = as_user(USER, groups, |said| {
            said.value("text", text("file"));
            said.tried("write", open("file", OFlags::WRONLY));
            Ok(())
        });
        said.show(name, seen);
    }
    Ok(())
}

fn the_owner_counts_before_the_group(said: &mut Said) -> Result {
    write("file", "data")?;
    chown("file", Some(USER), Some(500))?;
    chmod("file", 0o077)?;
    said.show(
        "owner",
        as_user(USER, &[500], |said| {
            said.tried("read", open("file", OFlags::RDONLY));
            Ok(())
        }),
    );
    said.show(
        "group",
        as_user(OTHER, &[500], |said| {
            said.tried("read", open("file", OFlags::RDONLY));
            Ok(())
        }),
    );
    Ok(())
}

/// A folder of the user's with a file, and this mode.
fn folder(bits: u32) -> Result {
    mkdir("folder", 0o755.into())?;
    write("folder/file", "data")?;
    chmod("folder/file", 0o666)?;
    chown("folder", Some(USER), Some(USER))?;
    chmod("folder", bits)
}

fn folder_without_search(said: &mut Said) -> Result {
    folder(0o600)?;
    said.show(
        "user",
        as_user(USER, &[], |said| {
            said.value("names", names("folder"));
            said.value("text", text("folder/file"));
            said.tried("stat", rustix::fs::stat("folder/file"));
            said.tried("enter", chdir("folder"));
            said.tried("create", write("folder/new", ""));
            Ok(())
        }),
    );
    Ok(())
}

fn folder_without_reading(said: &mut Said) -> Result {
    folder(0o300)?;
    said.show(
        "user",
        as_user(USER, &[], |said| {
            said.value("names", names("folder"));
            said.value("text", text("folder/file"));
            said.tried("enter", chdir("folder"));
            said.tried("create", write("folder/new", ""));
            Ok(())
        }),
    );
    Ok(())
}

fn folder_without_writing(said: &mut Said) -> Result {
    folder(0o500)?;
    said.show(
        "user",
        as_user(USER, &[], |said| {
            said.value("names", names("folder"));
            said.tried("create", write("folder/new", ""));
            said.tried("mkdir", mkdir("folder/new", 0o755.into()));
            said.tried("unlink", unlink("folder/file"));
            said.tried("rename", rename("folder/file", "folder/other"));
            said.tried("link", rustix::fs::link("folder/file", "folder/other"));
            said.tried("symlink", rustix::fs::symlink("x", "folder/other"));
            said.tried("write", write("folder/file", "changed"));
            Ok(())
        }),
    );
    Ok(())
}

fn root_reads_everything(said: &mut Said) -> Result {
    folder(0)?;
    chmod("folder/file", 0)?;
    said.value("names", names("folder"));
    said.value("text", text("folder/file"));
    said.tried("write", write("folder/file", "new"));
    said.tried("create", write("folder/new", ""));
    Ok(())
}

const QUESTIONS: [(&str, Access); 4] =
    [("there", Access::EXISTS), ("read", Access::READ_OK), ("write", Access::WRITE_OK), ("exec", Access::EXEC_OK)];

fn access_as_another_user(said: &mut Said) -> Result {
    for bits in [0o700, 0o754, 0o752, 0o751] {
        let name = format!("{bits:o}");
        write(&name, "")?;
        chmod(&name, bits)?;
        let seen = as_user(USER, &[], |said| {
            for (question, right) in QUESTIONS {
                said.tried(question, access(&name, right));
            }
            Ok(())
        });
        said.show(&name, seen);
    }
    Ok(())
}

fn access_as_root(said: &mut Said) -> Result {
    for bits in [0, 0o100] {
        let name = format!("{bits:o}");
        write(&name, "")?;
        chmod(&name, bits)?;
        for (question, right) in QUESTIONS {
            said.tried(question, access(&name, right));
        }
    }
    said.tried("missing", access("missing", Access::EXISTS));
    Ok(())
}

fn open_descriptor_outlives_the_permission(said: &mut Said) -> Result {
    write("file", "data")?;
    chmod("file", 0o666)?;
    chmod(".", 0o777)?;
    said.show(
        "user",
        as_user(USER, &[], |said| {
            write("own", "data")?;
            let file = open("own", OFlags::RDWR)?;
            chmod("own", 0)?;
            said.value("read", crate::files::rest(&file));
            said.tried("write", crate::files::put(&file, b"more"));
            said.tried("open", open("own", OFlags::RDONLY));
            Ok(())
        }),
    );
    Ok(())
}

/// Whoever creates a file may write to it, whatever its mode.
fn a_file_created_without_permissions(said: &mut Said) -> Result {
    chmod(".", 0o777)?;
    said.show(
        "user",
        as_user(USER, &[], |said| {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
            if let Some(file) = said.tried("create", rustix::fs::open("file", flags, 0.into())) {
                said.tried("write", crate::files::put(&file, b"data"));
            }
            said.tried("open", open("file", OFlags::RDONLY));
            Ok(())
        }),
    );
    said.value("mode", mode("file"));
    said.value("text", text("file"));
    Ok(())
}

fn sticky_folder(said: &mut Said) -> Result {
    mkdir("folder", 0o755.into())?;
    chmod("folder", 0o1777)?;
    for (name, uid) in [("mine", USER), ("other", OTHER)] {
        write(&format!("folder/{name}"), "")?;
        chown(&format!("folder/{name}"), Some(uid), Some(uid))?;
    }
    said.show(
        "user",
        as_user(USER, &[], |said| {
            said.tried("unlink-other", unlink("folder/other"));
            said.tried("rename-other", rename("folder/other", "folder/taken"));
            said.tried("over-other", rename("folder/mine", "folder/other"));
            said.tried("rename-mine", rename("folder/mine", "folder/still-mine"));
            said.tried("unlink-mine", unlink("folder/still-mine"));
            Ok(())
        }),
    );
    Ok(())
}

fn sticky_folder_owned_by_the_user(said: &mut Said) -> Result {
    folder(0o1777)?;
    chown("folder/file", Some(OTHER), Some(OTHER))?;
    said.show(
        "user",
        as_user(USER, &[], |said| {
            said.tried("unlink", unlink("folder/file"));
            Ok(())
        }),
    );
    Ok(())
}

fn chmod_by_another_user(said: &mut Said) -> Result {
    write("file", "")?;
    chmod("file", 0o666)?;
    said.show(
        "user",
        as_user(USER, &[], |said| {
            said.tried("chmod", chmod("file", 0o777));
            said.tried("missing", chmod("missing", 0o777));
            Ok(())
        }),
    );
    said.value("mode", mode("file"));
    Ok(())
}

fn truncating_as_another_user(said: &mut Said) -> Result {
    for bits in [0o644, 0o646] {
        let name = format!("{bits:o}");
        write(&name, "data")?;
        chmod(&name, bits)?;
        let seen = as_user(USER, &[], |said| {
            said.tried("truncate", truncate(&name, 1));
            Ok(())
        });
        said.show(&name, seen);
        said.value("text", text(&name));
    }
    Ok(())
}

/// The exit status of a program of the working folder.
fn executed(name: &str, args: &[&str]) -> Result<i32> {
    let status = Command::new(format!("./{name}")).args(args).status().map_err(|error| errno(&error))?;
    Ok(status.code().unwrap_or(-1))
}

fn executing_a_script(said: &mut Said) -> Result {
    write("script", "#!/bin/sh\nexit 7\n")?;
    chmod("script", 0o755)?;
    said.value("status", executed("script", &[]));
    Ok(())
}

fn executing_without_permission(said: &mut Said) -> Result {
    write("script", "#!/bin/sh\nexit 7\n")?;
    said.value("root", executed("script", &[]));
    chmod("script", 0o744)?;
    said.show(
        "user",
        as_user(USER, &[], |said| {
            said.value("status", executed("script", &[]));
            Ok(())
        }),
    );
    chmod("script", 0o711)?;
    said.value("folder", executed(".", &[]));
    Ok(())
}

/// The guest's own static program.
fn program() -> Result {
    std::fs::copy("/bin/busybox", "busybox").map_err(|error| errno(&error))?;
    chmod("busybox", 0o755)
}

fn executing_a_program(said: &mut Said) -> Result {
    program()?;
    said.value("true", executed("busybox", &["true"]));
    said.value("false", executed("busybox", &["false"]));
    Ok(())
}

fn writing_to_a_running_program(said: &mut Said) -> Result {
    program()?;
    let mut running = Command::new("./busybox").args(["sleep", "60"]).spawn().map_err(|error| errno(&error))?;
    said.tried("write", open("busybox", OFlags::WRONLY));
    said.tried("read", open("busybox", OFlags::RDONLY));
    said.tried("unlink", unlink("busybox"));
    let _ = running.kill();
    let _ = running.wait();
    Ok(())
}

fn creating_as_a_user(said: &mut Said) -> Result {
    chmod(".", 0o777)?;
    said.show(
        "user",
        as_user(USER, &[], |said| {
            said.tried("file", write("file", "data"));
            said.tried("folder", mkdir("folder", 0o755.into()));
            said.tried("below", write("folder/file", "data"));
            said.tried("link", rustix::fs::symlink("file", "link"));
            Ok(())
        }),
    );
    for name in ["file", "folder", "folder/file", "link"] {
        said.value(name, crate::files::owner(name));
    }
    Ok(())
}

fn removing_a_file_of_somebody_else(said: &mut Said) -> Result {
    folder(0o700)?;
    chmod("folder/file", 0)?;
    mkdir("folder/below", 0o700.into())?;
    said.show(
        "user",
        as_user(USER, &[], |said| {
            said.tried("read", open("folder/file", OFlags::RDONLY));
            said.tried("unlink", unlink("folder/file"));
            said.tried("rmdir", rmdir("folder/below"));
            Ok(())
        }),
    );
    Ok(())
}

fn folder_closed_after_entering(said: &mut Said) -> Result {
    folder(0o777)?;
    chdir("folder")?;
    chmod(".", 0o700)?;
    chown(".", Some(0), Some(0))?;
    become_user(USER, &[])?;
    said.tried("open", open("file", OFlags::RDONLY));
    said.value("names", names("."));
    Ok(())
}
