//! Kernel modules: where they are, what they depend on, and the order to load them in.
//!
//! The order comes from the `depends=` entry of each module's `.modinfo` section. `modules.dep` holds the same facts,
//! but it is written by depmod when a kernel package is installed, and a package that is only unpacked lacks it.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Why a module cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// A folder or file could not be read.
    #[error("cannot read {}: {source}; check that it is the modules folder of the guest kernel", path.display())]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The kernel has no such module, neither loadable nor built in.
    #[error(
        "the kernel whose modules are in {} has no module {name}; choose a kernel that has it \
         (Debian's kernels since 6.12 have all of them, its cloud variants do not)", folder.display()
    )]
    Missing {
        /// The module's name.
        name: String,
        /// The modules folder.
        folder: PathBuf,
    },
    /// The file is not a module, or is compressed in a way that is not understood.
    #[error("{} is not a usable module: {problem}", path.display())]
    Unusable {
        /// The module's file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// A module, decompressed.
#[derive(Debug, Clone)]
pub(super) struct Module {
    /// Its name, with underscores.
    pub(super) name: String,
    /// The ELF image.
    pub(super) image: Vec<u8>,
}

/// The modules of one kernel.
#[derive(Debug)]
pub struct ModuleTree {
    folder: PathBuf,
    files: HashMap<String, PathBuf>,
    built_in: HashSet<String>,
}

impl ModuleTree {
    /// Finds the modules under `folder` (`lib/modules/RELEASE`).
    ///
    /// # Errors
    /// [`ModuleError::Io`] if the folder cannot be read. A folder without `modules.builtin` is accepted.
    pub fn scan(folder: &Path) -> Result<Self, ModuleError> {
        let built_in = fs::read_to_string(folder.join("modules.builtin")).unwrap_or_default();
        let mut tree = Self {
            folder: folder.to_owned(),
            files: HashMap::new(),
            built_in: built_in.lines().filter_map(|line| module_name(Path::new(line))).collect(),
        };
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            let io = |source| ModuleError::Io { path: folder.clone(), source };
            for entry in fs::read_dir(&folder).map_err(io)? {
                let entry = entry.map_err(io)?;
                // Not followed: `build` and `source` lead to whole kernel trees.
                if entry.file_type().map_err(io)?.is_dir() {
                    folders.push(entry.path());
                } else if let Some(name) = module_name(&entry.path()) {
                    tree.files.insert(name, entry.path());
                }
            }
        }
        Ok(tree)
    }

    /// Whether the kernel has the module, loadable or built in.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        let name = normalised(name);
        self.files.contains_key(&name) || self.built_in.contains(&name)
    }

    /// `wanted` and all it needs, each after what it depends on; what is built in is left out.
    pub(super) fn load(&self, wanted: &[&str]) -> Result<Vec<Module>, ModuleError> {
        let mut modules = Vec::new();
        let order = load_order(wanted, |name| {
            let Some(path) = self.files.get(name) else {
                let built_in = self.built_in.contains(name);
                let missing = || ModuleError::Missing { name: name.to_owned(), folder: self.folder.clone() };
                return if built_in { Ok(None) } else { Err(missing()) };
            };
            let image = read_module(path)?;
            let depends = module_info(&image, "depends").ok_or_else(|| ModuleError::Unusable {
                path: path.clone(),
                problem: "it has no .modinfo section with an entry `depends`".to_owned(),
            })?;
            let depends = depends.split(',').filter(|name| !name.is_empty()).map(normalised).collect();
            modules.push(Module { name: name.to_owned(), image });
            Ok(Some(depends))
        })?;
        modules.sort_by_key(|module| order.iter().position(|name| *name == module.name));
        Ok(modules)
    }
}

/// Module names are written with either dash or underscore; the kernel's own form has underscores.
fn normalised(name: &str) -> String {
    name.replace('-', "_")
}

/// The name of the module in the file `path`, `None` if it is not a module.
fn module_name(path: &Path) -> Option<String> {
    let (name, compression) = path.file_name()?.to_str()?.split_once(".ko")?;
    matches!(compression, "" | ".xz" | ".zst" | ".gz").then(|| normalised(name))
}

/// Depth-first order over `depends_of`, which answers `None` for a module that is built in.
fn load_order<E>(
    wanted: &[&str],
    mut depends_of: impl FnMut(&str) -> Result<Option<Vec<String>>, E>,
) -> Result<Vec<String>, E> {
    enum Visit {
        Enter(String),
        Leave(String),
    }
    let mut order = Vec::new();
    let mut seen = HashSet::new();
    for name in wanted {
        let mut visits = vec![Visit::Enter(normalised(name))];
        while let Some(visit) = visits.pop() {
            match visit {
                Visit::Leave(name) => order.push(name),
                Visit::Enter(name) if seen.insert(name.clone()) => {
                    if let Some(depends) = depends_of(&name)? {
                        visits.push(Visit::Leave(name));
                        visits.extend(depends.into_iter().rev().map(Visit::Enter));
                    }
                }
                Visit::Enter(_) => {}
            }
        }
    }
    Ok(order)
}

fn read_module(path: &Path) -> Result<Vec<u8>, ModuleError> {
    let unusable = |problem: String| ModuleError::Unusable { path: path.to_owned(), problem };
    let bytes = fs::read(path).map_err(|source| ModuleError::Io { path: path.to_owned(), source })?;
    let mut image = Vec::new();
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => image = bytes,
        Some("xz") => {
            lzma_rs::xz_decompress(&mut &bytes[..], &mut image).map_err(|error| unusable(error.to_string()))?;
        }
        Some("zst") => {
            let mut decoder =
                ruzstd::decoding::StreamingDecoder::new(&bytes[..]).map_err(|error| unusable(error.to_string()))?;
            decoder.read_to_end(&mut image).map_err(|error| unusable(error.to_string()))?;
        }
        _ => return Err(unusable("its compression is not known here; decompress it with gunzip".to_owned())),
    }
    Ok(image)
}

/// The value of `key` in the `.modinfo` section of a 64-bit little-endian ELF image: strings `key=value`, each ended
/// by a zero byte.
fn module_info(image: &[u8], key: &str) -> Option<String> {
    section(image, b".modinfo")?.split(|byte| *byte == 0).find_map(|entry| {
        let value = entry.strip_prefix(key.as_bytes())?.strip_prefix(b"=")?;
        Some(String::from_utf8_lossy(value).into_owned())
    })
}

/// The bytes of the section called `name` (System V ABI, chapter 4: ELF header, section header table).
fn section<'a>(image: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    const HEADER_SIZE: usize = 64;
    let half = |at: usize| Some(usize::from(u16::from_le_bytes(image.get(at..at + 2)?.try_into().ok()?)));
    let word = |at: usize| usize::try_from(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?)).ok();
    let long = |at: usize| usize::try_from(u64::from_le_bytes(image.get(at..at + 8)?.try_into().ok()?)).ok();
    if !image.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (table, count, names) = (long(40)?, half(60)?, half(62)?);
    let header = |index: usize| {
        let at = table.checked_add(index.checked_mul(HEADER_SIZE)?)?;
        // The whole header lies in the image, so offsets inside it cannot overflow.
        image.get(at..at.checked_add(HEADER_SIZE)?)?;
        Some(at)
    };
    let bytes = |at: usize| {
        let start = long(at + 24)?;
        image.get(start..start.checked_add(long(at + 32)?)?)
    };
    let names = bytes(header(names)?)?;
    (0..count).find_map(|index| {
        let at = header(index)?;
        let found = names.get(word(at)?..)?.split(|byte| *byte == 0).next()?;
        if found == name { bytes(at) } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of a `modules.dep` as depmod writes it.
    const SAMPLE: &str = "\
kernel/fs/netfs/netfs.ko.xz:
kernel/fs/9p/9p.ko.xz: kernel/fs/netfs/netfs.ko.xz kernel/net/9p/9pnet.ko.xz
kernel/net/9p/9pnet.ko.xz: kernel/fs/netfs/netfs.ko.xz
kernel/net/9p/9pnet_virtio.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz
kernel/drivers/iommu/virtio-iommu.ko.xz:
";

    fn order(sample: &str, wanted: &[&str]) -> Result<Vec<String>, String> {
        load_order(wanted, |name| {
            for line in sample.lines() {
                let (file, depends) = line.split_once(':').unwrap();
                if module_name(Path::new(file)).as_deref() == Some(name) {
                    return Ok(Some(depends.split_whitespace().filter_map(|d| module_name(Path::new(d))).collect()));
                }
            }
            if name == "virtio_pci" { Ok(None) } else { Err(name.to_owned()) }
        })
    }

    #[test]
    fn modules_load_after_what_they_need_and_in_the_wanted_order() {
        let order = order(SAMPLE, &["virtio-iommu", "virtio_pci", "9pnet_virtio", "9p"]).unwrap();
        assert_eq!(order, ["virtio_iommu", "netfs", "9pnet", "9pnet_virtio", "9p"]);
    }

    #[test]
    fn a_missing_module_is_named_and_a_cycle_ends() {
        assert_eq!(order(SAMPLE, &["9p", "nonesuch"]), Err("nonesuch".to_owned()));
        let cycle = "a.ko: b.ko\nb.ko: a.ko\n";
        assert_eq!(order(cycle, &["a"]).unwrap(), ["b", "a"]);
    }

    #[test]
    fn names_come_from_files() {
        for (file, name) in [
            ("kernel/drivers/iommu/virtio-iommu.ko.xz", Some("virtio_iommu")),
            ("9p.ko", Some("9p")),
            ("9p.ko.zst", Some("9p")),
            ("modules.order", None),
            ("x.kore", None),
        ] {
            assert_eq!(module_name(Path::new(file)).as_deref(), name, "{file}");
        }
    }

    /// An ELF image with two sections: the names, and `.modinfo`.
    fn elf(info: &[u8]) -> Vec<u8> {
        let names = b"\0.modinfo\0.shstrtab\0";
        let mut image = vec![0; 64];
        image[..6].copy_from_slice(b"\x7fELF\x02\x01");
        image[40..48].copy_from_slice(&64_u64.to_le_bytes());
        image[60..62].copy_from_slice(&2_u16.to_le_bytes());
        image[62..64].copy_from_slice(&1_u16.to_le_bytes());
        let data = 64 + 2 * 64;
        for (name, start, length) in [(1_u32, data, info.len()), (10, data + info.len(), names.len())] {
            let mut header = [0; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[24..32].copy_from_slice(&(start as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(length as u64).to_le_bytes());
            image.extend_from_slice(&header);
        }
        image.extend_from_slice(info);
        image.extend_from_slice(names);
        image
    }

    #[test]
    fn dependencies_are_read_from_the_image() {
        let image = elf(b"license=GPL\0depends=9pnet,netfs\0name=9p\0");
        assert_eq!(module_info(&image, "depends").as_deref(), Some("9pnet,netfs"));
        assert_eq!(module_info(&image, "name").as_deref(), Some("9p"));
        assert_eq!(module_info(&image, "alias"), None);
        for length in 0..image.len() {
            // A shortened image must not panic.
            let _ = module_info(&image[..length], "depends");
        }
    }

    #[test]
    fn a_tree_knows_loadable_and_built_in_modules() {
        let folder = tempfile::tempdir().unwrap();
        let kernel = folder.path().join("kernel/fs/9p");
        fs::create_dir_all(&kernel).unwrap();
        fs::write(folder.path().join("modules.builtin"), "kernel/drivers/virtio/virtio_pci.ko\n").unwrap();
        fs::write(kernel.join("9p.ko"), elf(b"depends=netfs\0")).unwrap();
        fs::write(kernel.join("netfs.ko"), elf(b"depends=\0")).unwrap();
        fs::write(kernel.join("broken.ko"), b"text").unwrap();
        let tree = ModuleTree::scan(folder.path()).unwrap();
        assert!(tree.has("virtio-pci") && tree.has("9p") && !tree.has("9pnet"));
        let names: Vec<_> = tree.load(&["virtio_pci", "9p"]).unwrap().into_iter().map(|module| module.name).collect();
        assert_eq!(names, ["netfs", "9p"]);
        assert!(matches!(tree.load(&["9pnet"]), Err(ModuleError::Missing { .. })));
        assert!(matches!(tree.load(&["broken"]), Err(ModuleError::Unusable { .. })));
    }
}
