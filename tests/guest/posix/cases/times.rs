//! Which times change when, and which can be set by whom.

use rustix::fs::{AtFlags, CWD, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, mkdir, utimensat};

use crate::files::{Times, append, chmod, chown, lstat, open, put, rest, stat, text, touched, truncate, write};
use crate::people::{USER, as_user};
use crate::said::{Result, Said};

cases![
    of_a_written_file,
    of_a_truncated_file,
    of_a_file_truncated_to_its_size,
    of_a_file_opened_for_truncation,
    of_a_read_file,
    of_changed_permissions,
    of_a_changed_owner,
    of_a_linked_file,
    of_an_unlinked_name,
    of_a_renamed_file,
    of_a_folder_that_gains_a_name,
    of_a_folder_that_loses_a_name,
    of_a_folder_in_which_a_name_changes,
    of_the_folders_of_a_rename,
    of_a_folder_below_which_something_changes,
    of_nothing_written,
    set_exactly,
    set_to_now,
    left_as_they_are,
    far_away,
    set_by_another_user,
    set_by_a_user_who_may_write,
    of_a_symbolic_link,
    by_descriptor,
    kept_by_reading_without_access_time,
    change_time_cannot_be_set,
];

fn set(path: &str, access: (i64, i64), modification: (i64, i64), flags: AtFlags) -> Result {
    let time = |(tv_sec, tv_nsec)| Timespec { tv_sec, tv_nsec };
    let times = Timestamps { last_access: time(access), last_modification: time(modification) };
    utimensat(CWD, path, &times, flags)
}

/// Access and modification, as seconds and nanoseconds.
fn shown(path: &str) -> Result<String> {
    let stat = lstat(path)?;
    Ok(format!("{}.{}:{}.{}", stat.st_atime, stat.st_atime_nsec, stat.st_mtime, stat.st_mtime_nsec))
}

fn of_a_written_file(said: &mut Said) -> Result {
    write("file", "data")?;
    said.value("append", touched("file", || append("file", "more")));
    let file = open("file", OFlags::RDWR)?;
    said.value("overwrite", touched("file", || put(&file, b"DATA")));
    Ok(())
}

fn of_a_truncated_file(said: &mut Said) -> Result {
    write("file", "data")?;
    said.value("shorter", touched("file", || truncate("file", 2)));
    said.value("longer", touched("file", || truncate("file", 20)));
    Ok(())
}

/// truncate(2) may leave the times when the size stays, ftruncate(2) may not.
fn of_a_file_truncated_to_its_size(said: &mut Said) -> Result {
    write("file", "data")?;
    said.value("truncate", touched("file", || truncate("file", 4)));
    let file = open("file", OFlags::RDWR)?;
    said.value("ftruncate", touched("file", || rustix::fs::ftruncate(&file, 4)));
    Ok(())
}

fn of_a_file_opened_for_truncation(said: &mut Said) -> Result {
    write("full", "data")?;
    write("empty", "")?;
    said.value("full", touched("full", || open("full", OFlags::WRONLY | OFlags::TRUNC).map(drop)));
    said.value("empty", touched("empty", || open("empty", OFlags::WRONLY | OFlags::TRUNC).map(drop)));
    Ok(())
}

fn of_a_read_file(said: &mut Said) -> Result {
    write("file", "data")?;
    said.value("read", touched("file", || text("file").map(drop)));
    Ok(())
}

fn of_changed_permissions(said: &mut Said) -> Result {
    write("file", "data")?;
    said.value("chmod", touched("file", || chmod("file", 0o600)));
    said.value("same", touched("file", || chmod("file", 0o600)));
    Ok(())
}

fn of_a_changed_owner(said: &mut Said) -> Result {
    write("file", "data")?;
    said.value("chown", touched("file", || chown("file", Some(5), None)));
    Ok(())
}

fn of_a_linked_file(said: &mut Said) -> Result {
    write("file", "data")?;
    said.value("link", touched("file", || rustix::fs::link("file", "other")));
    Ok(())
}

fn of_an_unlinked_name(said: &mut Said) -> Result {
    write("file", "data")?;
    rustix::fs::link("file", "other")?;
    said.value("unlink", touched("file", || rustix::fs::unlink("other")));
    Ok(())
}

fn of_a_renamed_file(said: &mut Said) -> Result {
    write("file", "data")?;
    let before = Times::of("file")?;
    crate::files::later();
    rustix::fs::rename("file", "other")?;
    said.show("rename", Times::of("other")?.since(&before));
    Ok(())
}

fn of_a_folder_that_gains_a_name(said: &mut Said) -> Result {
    mkdir("folder", 0o755.into())?;
    write("file", "")?;
    said.value("file", touched("folder", || write("folder/file", "")));
    said.value("folder", touched("folder", || mkdir("folder/folder", 0o755.into())));
    said.value("link", touched("folder", || rustix::fs::link("file", "folder/link")));
    said.value("symlink", touched("folder", || rustix::fs::symlink("x", "folder/symlink")));
    Ok(())
}

fn of_a_folder_that_loses_a_name(said: &mut Said) -> Result {
    mkdir("folder", 0o755.into())?;
    mkdir("folder/folder", 0o755.into())?;
    write("folder/file", "")?;
    said.value("file", touched("folder", || rustix::fs::unlink("folder/file")));
    said.value("folder", touched("folder", || rustix::fs::rmdir("folder/folder")));
    Ok(())
}

fn of_a_folder_in_which_a_name_changes(said: &mut Said) -> Result {
    mkdir("folder", 0o755.into())?;
    write("folder/file", "")?;
    said.value("rename", touched("folder", || rustix::fs::rename("folder/file", "folder/other")));
    Ok(())
}

fn of_the_folders_of_a_rename(said: &mut Said) -> Result {
    mkdir("a", 0o755.into())?;
    mkdir("b", 0o755.into())?;
    write("a/file", "")?;
    let before = [Times::of("a")?, Times::of("b")?];
    crate::files::later();
    rustix::fs::rename("a/file", "b/file")?;
    said.show("from", Times::of("a")?.since(&before[0]));
    said.show("to", Times::of("b")?.since(&before[1]));
    Ok(())
}

fn of_a_folder_below_which_something_changes(said: &mut Said) -> Result {
    mkdir("folder", 0o755.into())?;
    write("folder/file", "")?;
    said.value("write", touched("folder", || append("folder/file", "data")));
    Ok(())
}

fn of_nothing_written(said: &mut Said) -> Result {
    write("file", "data")?;
    let file = open("file", OFlags::RDWR)?;
    said.value("write", touched("file", || rustix::io::write(&file, b"").map(drop)));
    said.value("open", touched("file", || open("file", OFlags::RDWR).map(drop)));
    Ok(())
}

fn set_exactly(said: &mut Said) -> Result {
    write("file", "")?;
    said.tried("set", set("file", (1_000_000_000, 123_456_789), (1_234_567_890, 987_654_321), AtFlags::empty()));
    said.value("times", shown("file"));
    said.value("changed", touched("file", || set("file", (1, 2), (3, 4), AtFlags::empty())));
    Ok(())
}

fn set_to_now(said: &mut Said) -> Result {
    write("file", "")?;
    set("file", (1, 0), (1, 0), AtFlags::empty())?;
    said.tried("set", set("file", (0, UTIME_NOW), (0, UTIME_NOW), AtFlags::empty()));
    let stat = stat("file")?;
    said.show("recent", stat.st_atime > 1_000_000 && stat.st_mtime > 1_000_000);
    Ok(())
}

fn left_as_they_are(said: &mut Said) -> Result {
    write("file", "")?;
    set("file", (100, 1), (200, 2), AtFlags::empty())?;
    set("file", (0, UTIME_OMIT), (300, 3), AtFlags::empty())?;
    said.value("access-omitted", shown("file"));
    set("file", (400, 4), (0, UTIME_OMIT), AtFlags::empty())?;
    said.value("modification-omitted", shown("file"));
    said.value("both", touched("file", || set("file", (0, UTIME_OMIT), (0, UTIME_OMIT), AtFlags::empty())));
    Ok(())
}

fn far_away(said: &mut Said) -> Result {
    write("file", "")?;
    for (name, seconds) in [("2100", 4_102_444_800), ("epoch", 0), ("1969", -1), ("1950", -631_152_000)] {
        said.tried(name, set("file", (seconds, 5), (seconds, 6), AtFlags::empty()));
        said.value("times", shown("file"));
    }
    said.tried("nanoseconds", set("file", (0, 1_000_000_000), (0, 0), AtFlags::empty()));
    Ok(())
}

fn set_by_another_user(said: &mut Said) -> Result {
    write("file", "")?;
    said.show(
        "user",
        as_user(USER, &[], |said| {
            said.tried("exact", set("file", (1, 0), (1, 0), AtFlags::empty()));
            said.tried("now", set("file", (0, UTIME_NOW), (0, UTIME_NOW), AtFlags::empty()));
            said.tried("omit", set("file", (0, UTIME_OMIT), (0, UTIME_OMIT), AtFlags::empty()));
            Ok(())
        }),
    );
    Ok(())
}

fn set_by_a_user_who_may_write(said: &mut Said) -> Result {
    write("file", "")?;
    chmod("file", 0o666)?;
    set("file", (1, 0), (1, 0), AtFlags::empty())?;
    said.show(
        "user",
        as_user(USER, &[], |said| {
            said.tried("exact", set("file", (1, 0), (1, 0), AtFlags::empty()));
            said.tried("one", set("file", (0, UTIME_NOW), (0, UTIME_OMIT), AtFlags::empty()));
            said.tried("now", set("file", (0, UTIME_NOW), (0, UTIME_NOW), AtFlags::empty()));
            Ok(())
        }),
    );
    said.show("recent", stat("file")?.st_mtime > 1_000_000);
    Ok(())
}

fn of_a_symbolic_link(said: &mut Said) -> Result {
    write("file", "")?;
    set("file", (5, 0), (6, 0), AtFlags::empty())?;
    rustix::fs::symlink("file", "link")?;
    said.tried("set", set("link", (7, 0), (8, 0), AtFlags::SYMLINK_NOFOLLOW));
    said.value("link", shown("link"));
    said.value("file", shown("file"));
    Ok(())
}

fn by_descriptor(said: &mut Said) -> Result {
    write("file", "")?;
    let file = open("file", OFlags::RDONLY)?;
    let time = |tv_sec| Timespec { tv_sec, tv_nsec: 9 };
    let times = Timestamps { last_access: time(11), last_modification: time(12) };
    said.tried("set", rustix::fs::futimens(&file, &times));
    said.value("times", shown("file"));
    Ok(())
}

fn kept_by_reading_without_access_time(said: &mut Said) -> Result {
    write("file", "data")?;
    set("file", (1, 0), (2, 0), AtFlags::empty())?;
    if let Some(file) = said.tried("open", open("file", OFlags::RDONLY | OFlags::NOATIME)) {
        said.value("text", rest(&file));
    }
    said.show("kept", stat("file")?.st_atime == 1);
    chmod("file", 0o666)?;
    said.show(
        "user",
        as_user(USER, &[], |said| {
            said.tried("open", open("file", OFlags::RDONLY | OFlags::NOATIME));
            Ok(())
        }),
    );
    Ok(())
}

fn change_time_cannot_be_set(said: &mut Said) -> Result {
    write("file", "")?;
    set("file", (1, 0), (1, 0), AtFlags::empty())?;
    said.show("recent", stat("file")?.st_ctime > 1_000_000);
    Ok(())
}
