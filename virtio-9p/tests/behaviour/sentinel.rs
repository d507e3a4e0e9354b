//! A share beside a file that no client may reach.

use std::path::{Path, PathBuf};

/// Makes the share anew in `base`, with a file, a folder and a link that leads to the sentinel beside it.
pub(crate) fn share_beside_sentinel(base: &Path) -> PathBuf {
    let share = base.join("share");
    let _ = std::fs::remove_dir_all(&share);
    std::fs::create_dir_all(share.join("dir")).unwrap();
    std::fs::write(share.join("file"), "content").unwrap();
    std::os::unix::fs::symlink("../sentinel", share.join("link")).unwrap();
    std::fs::write(base.join("sentinel"), "untouched").unwrap();
    share
}

/// Nothing in `base` has changed outside the share.
pub(crate) fn assert_sentinel(base: &Path) {
    assert_eq!(std::fs::read_to_string(base.join("sentinel")).unwrap(), "untouched");
    assert_eq!(std::fs::read_dir(base).unwrap().count(), 2);
}
