//! Several processes at the same names and files at once.

use rustix::fs::{OFlags, link, mkdir, rename, rmdir, unlink};
use rustix::io::Errno;

use crate::files::{append, list, open, put, text, there, write};
use crate::people::{Child, child};
use crate::said::{Result, Said, name};

cases![
    appending_from_four_processes,
    exclusive_creation_has_one_winner,
    mkdir_has_one_winner,
    link_as_a_lock,
    a_name_replaced_is_never_missing,
    creating_and_removing_in_one_folder,
    renames_in_circles,
    listing_while_others_work,
];

/// That many processes, which do the same at the same time.
fn together(count: usize, body: impl Fn(usize, &mut Said) -> Result) -> Vec<String> {
    let children: Vec<Child> = (0..count).map(|number| child(|said| body(number, said))).collect();
    children.into_iter().map(Child::wait).collect()
}

fn appending_from_four_processes(said: &mut Said) -> Result {
    write("file", "")?;
    together(4, |number, _| {
        for line in 0..25 {
            append("file", format!("{number}:{line}\n"))?;
        }
        Ok(())
    });
    let text = text("file")?;
    let mut lines: Vec<_> = text.lines().collect();
    said.show("lines", lines.len());
    lines.sort_unstable();
    lines.dedup();
    said.show("different", lines.len());
    Ok(())
}

/// How often `attempt` succeeds, when 4 processes try each of 20 names.
fn winners(said: &mut Said, attempt: impl Fn(&str) -> Result) {
    let results = together(4, |_, said| {
        let mut won = 0;
        for round in 0..20 {
            match attempt(&format!("round-{round}")) {
                Ok(()) => won += 1,
                Err(Errno::EXIST) => {}
                Err(error) => said.show("error", name(error.raw_os_error())),
            }
        }
        said.show("won", won);
        Ok(())
    });
    let won = results.iter().filter_map(|line| line.strip_prefix("won=")?.parse::<usize>().ok());
    said.show("winners", won.sum::<usize>());
    said.show("errors", results.iter().filter(|line| line.contains("error")).count());
}

fn exclusive_creation_has_one_winner(said: &mut Said) -> Result {
    winners(said, |name| open(name, OFlags::CREATE | OFlags::EXCL | OFlags::RDWR).map(drop));
    Ok(())
}

fn mkdir_has_one_winner(said: &mut Said) -> Result {
    winners(said, |name| mkdir(name, 0o755.into()));
    Ok(())
}

fn link_as_a_lock(said: &mut Said) -> Result {
    write("file", "")?;
    winners(said, |name| link("file", name));
    Ok(())
}

fn a_name_replaced_is_never_missing(said: &mut Said) -> Result {
    write("file", "0")?;
    let results = together(2, |number, said| {
        let mut failures = 0;
        for round in 0..60 {
            if number == 0 {
                write("new", round.to_string())?;
                rename("new", "file")?;
            } else {
                failures += usize::from(text("file").map_or(true, |text| text.is_empty()));
            }
        }
        said.show("failures", failures);
        Ok(())
    });
    said.show("processes", results.join(","));
    Ok(())
}

fn creating_and_removing_in_one_folder(said: &mut Said) -> Result {
    let results = together(4, |number, said| {
        for round in 0..20 {
            let name = format!("{number}-{round}");
            put(open(&name, OFlags::CREATE | OFlags::RDWR)?, b"data")?;
            mkdir(format!("{name}-folder"), 0o755.into())?;
            unlink(&name)?;
            rmdir(format!("{name}-folder"))?;
        }
        said.show("done", 20);
        Ok(())
    });
    said.show("processes", results.join(","));
    said.show("left", list(".")?.len());
    Ok(())
}

fn renames_in_circles(said: &mut Said) -> Result {
    for name in ["a", "b", "c"] {
        mkdir(name, 0o755.into())?;
    }
    write("a/file", "data")?;
    together(3, |number, _| {
        let folders = ["a", "b", "c", "a"];
        for _ in 0..30 {
            // Succeeds for whoever comes when the file is there.
            let _ = rename(format!("{}/file", folders[number]), format!("{}/file", folders[number + 1]));
        }
        Ok(())
    });
    let found = ["a/file", "b/file", "c/file"].iter().filter(|path| there(path)).count();
    said.show("files", found);
    Ok(())
}

fn listing_while_others_work(said: &mut Said) -> Result {
    for number in 0..100 {
        write(&format!("stay-{number}"), "")?;
    }
    let results = together(2, |number, said| {
        for round in 0..10 {
            if number == 0 {
                for file in 0..10 {
                    write(&format!("new-{round}-{file}"), "")?;
                    unlink(format!("new-{round}-{file}"))?;
                }
            } else {
                let stay = list(".")?.iter().filter(|name| name.starts_with("stay-")).count();
                if stay != 100 {
                    said.show("listed", stay);
                }
            }
        }
        said.show("done", number);
        Ok(())
    });
    said.show("processes", results.join(","));
    Ok(())
}
