//! Renames: over what, from where, while open, with flags.

use rustix::fs::{CWD, OFlags, RenameFlags, fstat, link, mkdir, rename, renameat_with, stat, symlink};
use rustix::process::chdir;

use crate::files::{inode, kind, links, list, lstat, names, open, put, rest, text, there, write};
use crate::said::{Result, Said};

cases![
    plain,
    over_a_file,
    over_an_open_file,
    to_itself,
    to_another_name_of_the_same_file,
    missing_source,
    missing_target_folder,
    file_over_folder,
    folder_over_file,
    folder_over_empty_folder,
    folder_over_full_folder,
    folder_into_itself,
    folder_over_its_parent,
    into_another_folder,
    folder_into_another_folder,
    of_an_open_file,
    of_a_folder_with_open_files,
    of_the_working_folder,
    of_a_symbolic_link,
    over_a_symbolic_link,
    of_a_special_file,
    across_file_systems,
    without_replacing,
    exchanging_files,
    exchanging_file_and_folder,
    exchanging_with_nothing,
    with_contradicting_flags,
    there_and_back_again,
    inode_is_kept,
];

fn plain(said: &mut Said) -> Result {
    write("old", "data")?;
    said.tried("rename", rename("old", "new"));
    said.value("text", text("new"));
    said.show("old", there("old"));
    Ok(())
}

fn over_a_file(said: &mut Said) -> Result {
    write("old", "old")?;
    write("new", "new")?;
    said.tried("rename", rename("old", "new"));
    said.value("text", text("new"));
    said.value("names", names("."));
    Ok(())
}

fn over_an_open_file(said: &mut Said) -> Result {
    write("old", "old")?;
    write("new", "new")?;
    let file = open("new", OFlags::RDWR)?;
    rename("old", "new")?;
    said.value("read", rest(&file));
    put(&file, b"more")?;
    said.value("links", fstat(&file).map(|stat| stat.st_nlink));
    said.value("size", fstat(&file).map(|stat| stat.st_size));
    said.value("text", text("new"));
    Ok(())
}

fn to_itself(said: &mut Said) -> Result {
    write("file", "data")?;
    said.tried("file", rename("file", "file"));
    mkdir("folder", 0o755.into())?;
    said.tried("folder", rename("folder", "folder"));
    said.value("text", text("file"));
    Ok(())
}

fn to_another_name_of_the_same_file(said: &mut Said) -> Result {
    write("a", "data")?;
    link("a", "b")?;
    said.tried("rename", rename("a", "b"));
    said.value("names", names("."));
    said.value("links", links("b"));
    Ok(())
}

fn missing_source(said: &mut Said) -> Result {
    said.tried("missing", rename("missing", "new"));
    said.tried("below", rename("missing/below", "new"));
    Ok(())
}

fn missing_target_folder(said: &mut Said) -> Result {
    write("file", "")?;
    said.tried("missing", rename("file", "missing/file"));
    said.tried("file", rename("file", "file/below"));
    Ok(())
}

fn file_over_folder(said: &mut Said) -> Result {
    write("file", "")?;
    mkdir("folder", 0o755.into())?;
    said.tried("rename", rename("file", "folder"));
    Ok(())
}

fn folder_over_file(said: &mut Said) -> Result {
    write("file", "")?;
    mkdir("folder", 0o755.into())?;
    said.tried("rename", rename("folder", "file"));
    Ok(())
}

fn folder_over_empty_folder(said: &mut Said) -> Result {
    mkdir("old", 0o755.into())?;
    write("old/file", "data")?;
    mkdir("new", 0o755.into())?;
    said.tried("rename", rename("old", "new"));
    said.value("text", text("new/file"));
    said.show("old", there("old"));
    Ok(())
}

fn folder_over_full_folder(said: &mut Said) -> Result {
    mkdir("old", 0o755.into())?;
    mkdir("new", 0o755.into())?;
    write("new/file", "")?;
    said.tried("rename", rename("old", "new"));
    Ok(())
}

fn folder_into_itself(said: &mut Said) -> Result {
    mkdir("folder", 0o755.into())?;
    mkdir("folder/below", 0o755.into())?;
    said.tried("rename", rename("folder", "folder/below/folder"));
    Ok(())
}

fn folder_over_its_parent(said: &mut Said) -> Result {
    mkdir("folder", 0o755.into())?;
    mkdir("folder/below", 0o755.into())?;
    said.tried("rename", rename("folder/below", "folder"));
    Ok(())
}

fn into_another_folder(said: &mut Said) -> Result {
    mkdir("a", 0o755.into())?;
    mkdir("b", 0o755.into())?;
    write("a/file", "data")?;
    said.tried("rename", rename("a/file", "b/other"));
    said.value("text", text("b/other"));
    said.show("left", list("a")?.len());
    Ok(())
}

fn folder_into_another_folder(said: &mut Said) -> Result {
    mkdir("a", 0o755.into())?;
    mkdir("b", 0o755.into())?;
    mkdir("a/folder", 0o755.into())?;
    write("a/folder/file", "data")?;
    said.tried("rename", rename("a/folder", "b/folder"));
    said.value("text", text("b/folder/file"));
    said.show("parent", stat("b/folder/..")?.st_ino == stat("b")?.st_ino);
    Ok(())
}

fn of_an_open_file(said: &mut Said) -> Result {
    write("old", "data")?;
    let file = open("old", OFlags::RDWR)?;
    rename("old", "new")?;
    said.value("read", rest(&file));
    put(&file, b"more")?;
    said.value("text", text("new"));
    Ok(())
}

fn of_a_folder_with_open_files(said: &mut Said) -> Result {
    mkdir("old", 0o755.into())?;
    write("old/file", "data")?;
    let file = open("old/file", OFlags::RDWR)?;
    rename("old", "new")?;
    said.value("read", rest(&file));
    put(&file, b"more")?;
    said.value("text", text("new/file"));
    mkdir("old", 0o755.into())?;
    said.show("other", there("old/file"));
    Ok(())
}

fn of_the_working_folder(said: &mut Said) -> Result {
    mkdir("old", 0o755.into())?;
    chdir("old")?;
    rename("../old", "../new")?;
    said.tried("write", write("file", "data"));
    said.value("text", text("../new/file"));
    Ok(())
}

fn of_a_symbolic_link(said: &mut Said) -> Result {
    write("file", "data")?;
    symlink("file", "link")?;
    said.tried("rename", rename("link", "other"));
    said.value("kind", lstat("other").map(|stat| kind(stat.st_mode)));
    said.value("names", names("."));
    Ok(())
}

fn over_a_symbolic_link(said: &mut Said) -> Result {
    write("file", "file")?;
    write("new", "new")?;
    symlink("file", "link")?;
    said.tried("rename", rename("new", "link"));
    said.value("kind", lstat("link").map(|stat| kind(stat.st_mode)));
    said.value("text", text("file"));
    Ok(())
}

fn of_a_special_file(said: &mut Said) -> Result {
    rustix::fs::mknodat(CWD, "pipe", rustix::fs::FileType::Fifo, 0o644.into(), 0)?;
    said.tried("rename", rename("pipe", "other"));
    said.value("kind", lstat("other").map(|stat| kind(stat.st_mode)));
    Ok(())
}

fn across_file_systems(said: &mut Said) -> Result {
    write("file", "")?;
    said.tried("out", rename("file", "/dev/posix-other"));
    said.tried("in", rename("/proc/self/stat", "other"));
    Ok(())
}

fn with(flags: RenameFlags, from: &str, to: &str) -> Result {
    renameat_with(CWD, from, CWD, to, flags)
}

fn without_replacing(said: &mut Said) -> Result {
    write("old", "old")?;
    write("new", "new")?;
    said.tried("there", with(RenameFlags::NOREPLACE, "old", "new"));
    said.tried("not-there", with(RenameFlags::NOREPLACE, "old", "other"));
    said.value("names", names("."));
    Ok(())
}

fn exchanging_files(said: &mut Said) -> Result {
    write("a", "a")?;
    write("b", "b")?;
    said.tried("exchange", with(RenameFlags::EXCHANGE, "a", "b"));
    said.value("a", text("a"));
    said.value("b", text("b"));
    Ok(())
}

fn exchanging_file_and_folder(said: &mut Said) -> Result {
    write("a", "a")?;
    mkdir("b", 0o755.into())?;
    said.tried("exchange", with(RenameFlags::EXCHANGE, "a", "b"));
    said.value("a", lstat("a").map(|stat| kind(stat.st_mode)));
    Ok(())
}

fn exchanging_with_nothing(said: &mut Said) -> Result {
    write("a", "a")?;
    said.tried("exchange", with(RenameFlags::EXCHANGE, "a", "missing"));
    Ok(())
}

fn with_contradicting_flags(said: &mut Said) -> Result {
    write("a", "a")?;
    said.tried("both", with(RenameFlags::EXCHANGE | RenameFlags::NOREPLACE, "a", "b"));
    Ok(())
}

fn there_and_back_again(said: &mut Said) -> Result {
    mkdir("folder", 0o755.into())?;
    write("file", "data")?;
    for _ in 0..50 {
        rename("file", "folder/file")?;
        rename("folder/file", "file")?;
    }
    said.value("text", text("file"));
    said.show("below", list("folder")?.len());
    Ok(())
}

fn inode_is_kept(said: &mut Said) -> Result {
    write("old", "")?;
    mkdir("folder", 0o755.into())?;
    let before = [inode("old")?, inode("folder")?];
    rename("old", "new")?;
    rename("folder", "other")?;
    said.show("same", [inode("new")?, inode("other")?] == before);
    Ok(())
}
