//! Programs of the host that run in the guest: each with the loader and the libraries that the host would run it with.
//!
//! The guest has libraries of its own, of another Debian release, so that what comes from the host stays apart:
//! `/host/NAME` is the program, `/host/lib` holds the rest, and `/bin/NAME` is a script that puts them together.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Folder of the loader and the libraries in the guest.
const LIBRARIES: &str = "host/lib";

/// A file for the initramfs.
pub(super) struct GuestFile {
    pub(super) path: String,
    pub(super) data: Vec<u8>,
}

/// The program `name` of the guest, which is `path` on the host, and all that it needs there.
pub(super) fn files(name: &str, path: &Path) -> io::Result<Vec<GuestFile>> {
    let image = fs::read(path)?;
    let mut files = Vec::new();
    if let Some(loader) = interpreter(&image) {
        let loader_name = file_name(&loader)?;
        files.push(GuestFile {
            path: format!("bin/{name}"),
            data: format!(
                "#!/bin/sh\nexec /{LIBRARIES}/{loader_name} --library-path /{LIBRARIES} /host/{name} \"$@\"\n"
            )
            .into_bytes(),
        });
        for library in std::iter::once(loader.clone()).chain(libraries(&loader, path)?) {
            files.push(GuestFile { path: format!("{LIBRARIES}/{}", file_name(&library)?), data: fs::read(&library)? });
        }
        files.push(GuestFile { path: format!("host/{name}"), data: image });
    } else {
        files.push(GuestFile { path: format!("bin/{name}"), data: image });
    }
    Ok(files)
}

fn file_name(path: &Path) -> io::Result<&str> {
    path.file_name()
        .and_then(OsStr::to_str)
        .ok_or_else(|| io::Error::other(format!("{} has no usable name", path.display())))
}

/// The libraries that `loader` would load for `program`, by the loader's own account.
fn libraries(loader: &Path, program: &Path) -> io::Result<Vec<PathBuf>> {
    let output = Command::new(loader).arg("--list").arg(program).stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("its libraries are not all there: {said}{errors}")));
    }
    Ok(listed(&said))
}

/// The files in lines such as `libc.so.6 => /lib/libc.so.6 (0x7f00)`. The line of the loader itself has no arrow.
fn listed(lines: &str) -> Vec<PathBuf> {
    let library = |line: &str| Some(line.split_once(" => ")?.1.rsplit_once(" (")?.0.into());
    lines.lines().filter_map(library).collect()
}

/// The dynamic loader that a 64-bit little-endian ELF program asks for in a program header of type PT_INTERP.
pub(super) fn interpreter(image: &[u8]) -> Option<PathBuf> {
    const HEADER_SIZE: usize = 56;
    const PT_INTERP: [u8; 4] = [3, 0, 0, 0];
    let word = |bytes: &[u8], at: usize| {
        let word = bytes.get(at..at + 8)?;
        usize::try_from(u64::from_le_bytes(word.try_into().ok()?)).ok()
    };
    let count = u16::from_le_bytes(image.get(56..58)?.try_into().ok()?);
    let table = image.get(word(image, 32)?..)?;
    let header = table.chunks_exact(HEADER_SIZE).take(count.into()).find(|header| header.starts_with(&PT_INTERP))?;
    let (offset, size) = (word(header, 8)?, word(header, 32)?);
    let text = image.get(offset..offset.checked_add(size)?)?;
    Some(OsStr::from_bytes(text.strip_suffix(b"\0").unwrap_or(text)).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dynamic_programs_are_told_from_static_ones() {
        let program = |kinds: &[u8]| {
            let mut image = vec![0; 64];
            image[32] = 64;
            image[56] = u8::try_from(kinds.len()).unwrap();
            for kind in kinds {
                let mut header = [0; 56];
                header[0] = *kind;
                (header[8], header[32]) = (1, 4);
                image.extend_from_slice(&header);
            }
            image[1..5].copy_from_slice(b"/ld\0");
            image
        };
        assert_eq!(interpreter(&program(&[1, 4])), None);
        assert_eq!(interpreter(&program(&[6, 3, 1])), Some("/ld".into()));
        assert_eq!(interpreter(b"#!/bin/sh\n"), None);
        // This test itself is a dynamic program wherever the standard library is.
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(interpreter(&own).is_some(), cfg!(not(target_feature = "crt-static")));
    }

    #[test]
    fn the_loader_lists_what_a_program_needs() {
        let lines = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/libc.so.6 (0x2)\n\t/lib64/ld.so.2 (0x3)\n";
        assert_eq!(listed(lines), [Path::new("/lib/libc.so.6")]);
    }

    #[test]
    fn a_program_comes_with_its_loader() {
        let own = std::env::current_exe().unwrap();
        let names: Vec<String> = files("own", &own).unwrap().into_iter().map(|file| file.path).collect();
        assert_eq!(names.first().unwrap(), "bin/own");
        if cfg!(not(target_feature = "crt-static")) {
            assert_eq!(names.last().unwrap(), "host/own");
            assert!(names.iter().any(|name| name.starts_with("host/lib/ld-")), "{names:?}");
        }
    }
}
