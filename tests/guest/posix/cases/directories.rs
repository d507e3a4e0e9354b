//! Folders: making, listing while they change, counting links.

use std::collections::HashSet;

use rustix::fs::{AtFlags, Dir, OFlags, mkdir, rmdir, stat, unlink, unlinkat};
use rustix::process::chdir;

use crate::files::{inode, kind, list, lstat, names, open, there, write};
use crate::said::{Result, Said, errno};

cases![
    make_and_remove,
    remove_a_folder_with_content,
    remove_a_file_as_folder,
    unlink_a_folder,
    links_count_subfolders,
    a_folder_of_600_entries,
    types_in_the_listing,
    inodes_in_the_listing,
    dots_in_the_listing,
    rewinding_sees_new_names,
    removal_while_listing,
    creation_while_listing,
    positions_can_be_returned_to,
    listing_a_removed_folder,
    creating_in_a_removed_folder,
    listing_a_file,
    a_buffer_too_small,
    two_listings_at_once,
    the_path_of_the_working_folder,
    deep_nesting,
    removing_a_tree,
];

fn make_and_remove(said: &mut Said) -> Result {
    said.tried("make", mkdir("folder", 0o755.into()));
    said.tried("again", mkdir("folder", 0o755.into()));
    said.value("names", names("folder"));
    said.tried("remove", rmdir("folder"));
    said.tried("removed", rmdir("folder"));
    write("file", "")?;
    said.tried("over-file", mkdir("file", 0o755.into()));
    Ok(())
}

fn remove_a_folder_with_content(said: &mut Said) -> Result {
    mkdir("folder", 0o755.into())?;
    write("folder/file", "")?;
    said.tried("full", rmdir("folder"));
    unlink("folder/file")?;
    said.tried("empty", rmdir("folder"));
    Ok(())
}

fn remove_a_file_as_folder(said: &mut Said) -> Result {
    write("file", "")?;
    said.tried("file", rmdir("file"));
    rustix::fs::symlink(".", "link")?;
    said.tried("link", rmdir("link"));
    Ok(())
}

fn unlink_a_folder(said: &mut Said) -> Result {
    mkdir("folder", 0o755.into())?;
    said.tried("unlink", unlink("folder"));
    let here = open(".", OFlags::RDONLY | OFlags::DIRECTORY)?;
    said.tried("unlinkat", unlinkat(&here, "folder", AtFlags::empty()));
    said.tried("removedir", unlinkat(&here, "folder", AtFlags::REMOVEDIR));
    Ok(())
}

fn links_count_subfolders(said: &mut Said) -> Result {
    mkdir("folder", 0o755.into())?;
    let links = || Ok(stat("folder")?.st_nlink);
    said.value("empty", links());
    mkdir("folder/a", 0o755.into())?;
    mkdir("folder/b", 0o755.into())?;
    write("folder/file", "")?;
    said.value("two", links());
    rustix::fs::rename("folder/a", "a")?;
    said.value("one", links());
    rmdir("folder/b")?;
    said.value("none", links());
    Ok(())
}

fn a_folder_of_600_entries(said: &mut Said) -> Result {
    for number in 0..600 {
        write(&format!("entry-{number}"), "")?;
    }
    let listed = list(".")?;
    said.show("listed", listed.len());
    said.show("different", listed.iter().collect::<HashSet<_>>().len());
    for number in (0..600).step_by(2) {
        unlink(format!("entry-{number}"))?;
    }
    said.show("left", list(".")?.len());
    Ok(())
}

/// The entries of a folder with the letter of their type, without the dots.
fn entries(folder: Dir) -> Result<Vec<(String, char, u64)>> {
    let mut entries = Vec::new();
    for entry in folder {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            entries.push((name, kind(entry.file_type().as_raw_mode()), entry.ino()));
        }
    }
    entries.sort();
    Ok(entries)
}

fn folder() -> Result<Dir> {
    Dir::read_from(open(".", OFlags::RDONLY | OFlags::DIRECTORY)?)
}

fn types_in_the_listing(said: &mut Said) -> Result {
    write("file", "")?;
    mkdir("folder", 0o755.into())?;
    rustix::fs::symlink("file", "link")?;
    rustix::fs::mknodat(rustix::fs::CWD, "pipe", rustix::fs::FileType::Fifo, 0o644.into(), 0)?;
    for (name, letter, _) in entries(folder()?)? {
        said.show(&name, letter);
    }
    Ok(())
}

fn inodes_in_the_listing(said: &mut Said) -> Result {
    write("file", "")?;
    mkdir("folder", 0o755.into())?;
    rustix::fs::link("file", "other")?;
    for (name, _, number) in entries(folder()?)? {
        said.show(&name, number == inode(&name)?);
    }
    Ok(())
}

fn dots_in_the_listing(said: &mut Said) -> Result {
    let found: Vec<_> = folder()?.filter_map(std::result::Result::ok).collect();
    for name in [c".", c".."] {
        let number = found.iter().find(|entry| entry.file_name() == name).map(rustix::fs::DirEntry::ino);
        said.show(&name.to_string_lossy(), number == Some(stat(name)?.st_ino));
    }
    Ok(())
}

fn rewinding_sees_new_names(said: &mut Said) -> Result {
    write("first", "")?;
    let mut folder = folder()?;
    let count = |folder: &mut Dir| std::iter::from_fn(|| folder.read()).filter_map(std::result::Result::ok).count();
    said.show("before", count(&mut folder));
    write("second", "")?;
    folder.rewind();
    said.show("after", count(&mut folder));
    Ok(())
}

/// Names that stay must come exactly once, whatever happens to the others.
fn listed_once(said: &mut Said, change: impl Fn(usize, &str) -> Result) -> Result {
    for number in 0..150 {
        write(&format!("stay-{number}"), "")?;
        write(&format!("go-{number}"), "")?;
    }
    let mut seen = Vec::new();
    for (number, entry) in folder()?.enumerate() {
        let name = entry?.file_name().to_string_lossy().into_owned();
        change(number, &name)?;
        if name.starts_with("stay-") {
            seen.push(name);
        }
    }
    said.show("seen", seen.len());
    said.show("different", seen.iter().collect::<HashSet<_>>().len());
    Ok(())
}

fn removal_while_listing(said: &mut Said) -> Result {
    listed_once(said, |_, name| if name.starts_with("go-") { unlink(name) } else { Ok(()) })?;
    said.show("left", list(".")?.len());
    Ok(())
}

fn creation_while_listing(said: &mut Said) -> Result {
    listed_once(said, |number, _| if number < 100 { write(&format!("new-{number}"), "") } else { Ok(()) })?;
    said.show("left", list(".")?.len());
    Ok(())
}

fn positions_can_be_returned_to(said: &mut Said) -> Result {
    for number in 0..100 {
        write(&format!("entry-{number}"), "")?;
    }
    let mut folder = folder()?;
    let mut tail = Vec::new();
    let mut position = None;
    for number in 0.. {
        let Some(entry) = folder.read() else { break };
        let entry = entry?;
        if number == 40 {
            position = Some(entry.offset());
        } else if number > 40 {
            tail.push(entry.file_name().to_owned());
        }
    }
    let Some(position) = position else { return Ok(()) };
    folder.seek(position)?;
    let again: Vec<_> =
        std::iter::from_fn(|| folder.read()).flatten().map(|entry| entry.file_name().to_owned()).collect();
    said.show("same", again == tail);
    said.show("count", again.len());
    Ok(())
}

fn listing_a_removed_folder(said: &mut Said) -> Result {
    mkdir("folder", 0o755.into())?;
    let folder = open("folder", OFlags::RDONLY | OFlags::DIRECTORY)?;
    rmdir("folder")?;
    let mut dir = Dir::read_from(&folder)?;
    said.show("entry", dir.read().is_some_and(|entry| entry.is_ok()));
    said.value("links", rustix::fs::fstat(&folder).map(|stat| stat.st_nlink));
    Ok(())
}

fn creating_in_a_removed_folder(said: &mut Said) -> Result {
    mkdir("folder", 0o755.into())?;
    chdir("folder")?;
    rmdir("../folder")?;
    said.tried("create", write("file", ""));
    said.tried("mkdir", mkdir("below", 0o755.into()));
    said.tried("stat", stat("."));
    Ok(())
}

fn listing_a_file(said: &mut Said) -> Result {
    write("file", "")?;
    said.tried("file", std::fs::read_dir("file").map_err(|error| errno(&error)));
    said.tried("missing", std::fs::read_dir("missing").map_err(|error| errno(&error)));
    Ok(())
}

fn a_buffer_too_small(said: &mut Said) -> Result {
    use std::mem::MaybeUninit;
    write("a-name-that-needs-some-room", "")?;
    let folder = open(".", OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut buffer = [MaybeUninit::uninit(); 8];
    let mut raw = rustix::fs::RawDir::new(&folder, &mut buffer);
    said.tried("read", raw.next().transpose());
    Ok(())
}

fn two_listings_at_once(said: &mut Said) -> Result {
    for number in 0..150 {
        write(&format!("entry-{number}"), "")?;
    }
    let (mut first, mut second) = (folder()?, folder()?);
    let mut counts = [0, 0];
    loop {
        let next = [first.read(), second.read()];
        if next.iter().all(Option::is_none) {
            break;
        }
        for (count, entry) in counts.iter_mut().zip(next) {
            *count += usize::from(entry.is_some());
        }
    }
    said.show("counts", format!("{counts:?}"));
    Ok(())
}

fn the_path_of_the_working_folder(said: &mut Said) -> Result {
    mkdir("folder", 0o755.into())?;
    chdir("folder")?;
    let last = || {
        let path = std::env::current_dir().map_err(|error| errno(&error))?;
        Ok(path.file_name().unwrap_or_default().to_string_lossy().into_owned())
    };
    said.value("made", last());
    rustix::fs::rename("../folder", "../moved")?;
    said.value("moved", last());
    rmdir("../moved")?;
    said.value("removed", last());
    Ok(())
}

fn deep_nesting(said: &mut Said) -> Result {
    for _ in 0..100 {
        mkdir("d", 0o755.into())?;
        chdir("d")?;
    }
    write("file", "")?;
    for _ in 0..100 {
        chdir("..")?;
    }
    said.show("reached", there(&format!("{}file", "d/".repeat(100))));
    said.value("kind", lstat(&*"d/".repeat(99)).map(|stat| kind(stat.st_mode)));
    Ok(())
}

fn removing_a_tree(said: &mut Said) -> Result {
    for number in 0..10 {
        let folder = format!("tree/{}/{number}", number % 3);
        std::fs::create_dir_all(&folder).map_err(|error| errno(&error))?;
        write(&format!("{folder}/file"), "data")?;
        rustix::fs::symlink("/", format!("{folder}/link"))?;
    }
    said.tried("remove", std::fs::remove_dir_all("tree").map_err(|error| errno(&error)));
    said.show("there", there("tree"));
    Ok(())
}
