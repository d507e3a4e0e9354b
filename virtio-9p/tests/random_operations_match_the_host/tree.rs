//! A whole tree, to compare with another.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::straight::{attribute_names, stat};

/// What is compared of a file: its attributes, its extended attributes, its content or target.
pub(crate) type File = (String, Vec<(String, Vec<u8>)>, Vec<u8>);

/// Every file below `root`, by its path.
pub(crate) fn snapshot(root: &Path) -> BTreeMap<String, File> {
    let mut files = BTreeMap::new();
    visit(root, "", &mut files);
    files
}

fn visit(root: &Path, below: &str, into: &mut BTreeMap<String, File>) {
    for entry in std::fs::read_dir(root.join(below)).unwrap() {
        let name = Path::new(below).join(entry.unwrap().file_name()).into_os_string().into_string().unwrap();
        let path = root.join(&name);
        let status = std::fs::symlink_metadata(&path).unwrap();
        let kind = status.file_type();
        let content = if kind.is_symlink() {
            std::fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
        } else if kind.is_file() && status.size() < 1 << 20 {
            std::fs::read(&path).unwrap_or_default()
        } else {
            Vec::new()
        };
        let mut attributes = Vec::new();
        for name in attribute_names(&path).unwrap_or_default() {
            let mut value = vec![0; 1 << 16];
            let len = rustix::fs::lgetxattr(&path, &*name, value.as_mut_slice()).unwrap_or(0);
            value.truncate(len);
            attributes.push((name, value));
        }
        attributes.sort();
        if kind.is_dir() {
            visit(root, &name, into);
        }
        assert!(!kind.is_block_device());
        into.insert(name, (stat(&status).text(), attributes, content));
    }
}
