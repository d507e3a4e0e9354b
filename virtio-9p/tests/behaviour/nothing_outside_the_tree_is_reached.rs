//! No name, link or race leads out of the shared folder, with `openat2` and without.

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::client::{Client, ROOT, connect_with};
use tempfile::TempDir;
use virtio_9p::wire::{Fid, OpenFlags};
use virtio_9p::{Errno, Options, PassthroughOptions};

/// `base/share` is served; `base/secret` and `base/outside/` must stay out of reach.
struct Scene {
    base: TempDir,
    client: Client,
}

impl Scene {
    fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    /// Every inode number outside the share.
    fn forbidden(&self) -> Vec<u64> {
        ["", "secret", "outside", "outside/file", "share2"]
            .iter()
            .map(|name| std::fs::metadata(self.path(name)).unwrap().ino())
            .chain([std::fs::metadata("/").unwrap().ino()])
            .collect()
    }

    fn assert_inside(&self, fid: Fid) {
        let reached = self.client.getattr(fid).unwrap().qid.path;
        assert!(!self.forbidden().contains(&reached), "reached a file outside");
    }

    fn assert_outside_untouched(&self) {
        assert_eq!(std::fs::read_to_string(self.path("secret")).unwrap(), "secret");
        assert_eq!(std::fs::read_to_string(self.path("outside/file")).unwrap(), "file");
        assert_eq!(std::fs::read_dir(self.path("outside")).unwrap().count(), 1);
        assert_eq!(std::fs::read_dir(self.path("share2")).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(self.base.path()).unwrap().count(), 4);
    }
}

fn both(test: impl Fn(Scene)) {
    for openat2 in [true, false] {
        let base = tempfile::tempdir().unwrap();
        let path = |name: &str| base.path().join(name);
        std::fs::create_dir_all(path("share/dir/sub")).unwrap();
        std::fs::create_dir(path("share2")).unwrap();
        std::fs::create_dir(path("outside")).unwrap();
        std::fs::write(path("outside/file"), "file").unwrap();
        std::fs::write(path("secret"), "secret").unwrap();
        symlink("../secret", path("share/to_file")).unwrap();
        symlink("..", path("share/to_parent")).unwrap();
        symlink(path("outside"), path("share/to_dir")).unwrap();
        symlink("/proc/self/root", path("share/to_magic")).unwrap();
        symlink("../../outside/file", path("share/dir/deep")).unwrap();
        let mut passthrough = PassthroughOptions::default();
        passthrough.openat2 = openat2;
        let client = connect_with(&path("share"), Options::default(), passthrough);
        let scene = Scene { base, client };
        test(scene);
    }
}

const BAD_NAMES: [&[u8]; 10] =
    [b"", b".", b"/", b"../secret", b"dir/../../secret", b"/etc", b"dir/sub", b"dir\0", b"\0", b"./dir"];

#[test]
fn names_with_structure_are_not_walked() {
    both(|scene| {
        for name in BAD_NAMES {
            assert_eq!(scene.client.walk(ROOT, Fid(1), &[name]), Err(Errno::ENOENT), "{name:?}");
            assert_eq!(scene.client.walk(ROOT, Fid(1), &[b"dir", name]).unwrap().len(), 1, "{name:?}");
        }
        assert_eq!(scene.client.walk(ROOT, Fid(1), &[&[b'n'; 256]]), Err(Errno::ENAMETOOLONG));
        assert_eq!(scene.client.server.fid_count(), 1);
    });
}

#[test]
fn names_with_structure_are_not_made_or_changed() {
    both(|scene| {
        let client = &scene.client;
        client.reach(Fid(1), "dir").unwrap();
        for name in BAD_NAMES.into_iter().chain([&b".."[..]]) {
            client.walk(ROOT, Fid(2), &[]).unwrap();
            assert!(client.create(Fid(2), name, OpenFlags::RDWR, 0o644).is_err(), "{name:?}");
            client.clunk(Fid(2)).unwrap();
            assert!(client.mkdir(ROOT, name, 0o755).is_err(), "{name:?}");
            assert!(client.symlink(ROOT, name, b"x").is_err(), "{name:?}");
            assert!(client.link(Fid(1), ROOT, name).is_err(), "{name:?}");
            assert!(client.renameat(ROOT, b"dir", ROOT, name).is_err(), "{name:?}");
            assert!(client.renameat(ROOT, name, ROOT, b"new").is_err(), "{name:?}");
            assert!(client.rename(Fid(1), ROOT, name).is_err(), "{name:?}");
            assert!(client.unlinkat(ROOT, name, 0).is_err(), "{name:?}");
            assert!(client.unlinkat(ROOT, name, 0x200).is_err(), "{name:?}");
        }
        scene.assert_outside_untouched();
    });
}

#[test]
fn symbolic_links_are_objects_and_not_ways() {
    both(|scene| {
        let client = &scene.client;
        for (fid, link) in [(1, "to_file"), (2, "to_parent"), (3, "to_dir"), (4, "to_magic"), (5, "dir/deep")] {
            let fid = Fid(fid);
            client.reach(fid, link).unwrap();
            scene.assert_inside(fid);
            assert_eq!(client.getattr(fid).unwrap().mode & 0o170_000, 0o120_000, "{link}");
            for flags in
                [OpenFlags::RDONLY, OpenFlags::RDWR, OpenFlags::DIRECTORY, OpenFlags::WRONLY | OpenFlags::TRUNC]
            {
                assert_eq!(client.open(fid, flags).map(drop), Err(Errno::ELOOP), "{link}");
            }
            assert_eq!(client.walk(fid, Fid(9), &[b"file"]), Err(Errno::ENOTDIR), "{link}");
            assert_eq!(client.walk(fid, Fid(9), &[b".."]), Err(Errno::ENOTDIR), "{link}");
            assert_eq!(client.mkdir(fid, b"new", 0o755), Err(Errno::ENOTDIR), "{link}");
            assert_eq!(client.unlinkat(fid, b"file", 0), Err(Errno::ENOTDIR), "{link}");
            assert_eq!(client.renameat(fid, b"file", ROOT, b"stolen"), Err(Errno::ENOTDIR), "{link}");
            assert_eq!(client.link(ROOT, fid, b"new"), Err(Errno::ENOTDIR), "{link}");
            // Neither mode nor size nor attributes of the target change.
            assert!(client.setattr(fid, 0x1, |change| change.mode = 0o777).is_err(), "{link}");
            assert!(client.setattr(fid, 0x8, |_| {}).is_err(), "{link}");
        }
        client.walk(ROOT, Fid(10), &[]).unwrap();
        for link in [&b"to_file"[..], b"to_dir"] {
            let flags = OpenFlags::RDWR | OpenFlags::TRUNC;
            assert!(client.create(Fid(10), link, flags, 0o644).is_err());
        }
        scene.assert_outside_untouched();
    });
}

#[test]
fn going_up_ends_at_the_root() {
    both(|scene| {
        let client = &scene.client;
        let root = client.getattr(ROOT).unwrap().qid.path;
        let qids = client.walk(ROOT, Fid(1), &[&b".."[..]; 16]).unwrap();
        assert!(qids.iter().all(|qid| qid.path == root));
        client.reach(Fid(2), "dir/sub").unwrap();
        assert_eq!(client.walk(Fid(2), Fid(3), &[&b".."[..]; 16]).unwrap().last().unwrap().path, root);
        assert_eq!(client.walk(Fid(3), Fid(4), &[b"secret"]), Err(Errno::ENOENT));
    });
}

#[test]
fn a_directory_that_was_moved_out_is_no_way_out() {
    both(|scene| {
        let client = &scene.client;
        client.reach(Fid(1), "dir").unwrap();
        client.reach(Fid(2), "dir/sub").unwrap();
        std::fs::rename(scene.path("share/dir"), scene.path("share2/dir")).unwrap();
        assert_eq!(client.walk(Fid(1), Fid(3), &[b".."]), Err(Errno::ESTALE));
        assert_eq!(client.walk(Fid(2), Fid(3), &[b".."]), Err(Errno::ESTALE));
        assert_eq!(client.remove(Fid(2)), Err(Errno::ENOENT));
        assert_eq!(client.rename(Fid(1), ROOT, b"back"), Err(Errno::ENOENT));
        assert!(scene.path("share2/dir/sub").exists());
        // Moved within the tree, it goes up to where it is now.
        std::fs::rename(scene.path("share2/dir"), scene.path("share/elsewhere")).unwrap();
        let root = client.getattr(ROOT).unwrap().qid.path;
        assert_eq!(client.walk(Fid(1), Fid(3), &[b".."]).unwrap()[0].path, root);
    });
}

#[test]
fn a_tree_too_deep_to_climb_is_refused_and_not_believed() {
    both(|scene| {
        let client = &scene.client;
        client.walk(ROOT, Fid(1), &[]).unwrap();
        for _ in 0..virtio_9p::limits::MAX_DEPTH + 3 {
            client.mkdir(Fid(1), b"d", 0o755).unwrap();
            client.walk(Fid(1), Fid(1), &[b"d"]).unwrap();
        }
        assert_eq!(client.walk(Fid(1), Fid(2), &[b".."]), Err(Errno::ENAMETOOLONG));
        // Taken down by hand: it is deeper than a path can say.
        std::process::Command::new("rm").arg("-rf").arg(scene.path("share/d")).status().unwrap();
    });
}

#[test]
fn a_name_that_flips_between_directory_and_link_never_leads_out() {
    both(|scene| {
        let share = scene.path("share");
        std::fs::create_dir(share.join("real")).unwrap();
        std::fs::write(share.join("real/file"), "inside").unwrap();
        symlink(scene.path("outside"), share.join("fake")).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    for (from, to) in [("real", "flip"), ("flip", "real"), ("fake", "flip"), ("flip", "fake")] {
                        std::fs::rename(share.join(from), share.join(to)).unwrap();
                    }
                }
            });
            let client = &scene.client;
            let mut seen = 0;
            for round in 0..5000 {
                if client.walk(ROOT, Fid(1), &[b"flip", b"file"]).is_ok_and(|qids| qids.len() == 2) {
                    scene.assert_inside(Fid(1));
                    client.open(Fid(1), OpenFlags::RDWR).unwrap();
                    assert_eq!(client.read(Fid(1), 0, 100).unwrap(), b"inside");
                    client.clunk(Fid(1)).unwrap();
                    seen += 1;
                }
                if client.walk(ROOT, Fid(2), &[b"flip"]).is_ok() {
                    let _ = client.mkdir(Fid(2), b"new", 0o755);
                    let _ = client.unlinkat(Fid(2), b"new", 0x200);
                    let _ = client.create(Fid(2), b"made", OpenFlags::RDWR, 0o644);
                    client.clunk(Fid(2)).unwrap();
                }
                if round > 1000 && seen > 20 {
                    break;
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        scene.assert_outside_untouched();
    });
}

#[test]
fn the_listing_of_the_root_hides_what_is_above() {
    both(|scene| {
        scene.client.open_path(Fid(1), "", 0).unwrap();
        let above = std::fs::metadata(scene.base.path()).unwrap().ino();
        assert!(scene.client.list(Fid(1), 4096).unwrap().iter().all(|entry| entry.qid.path != above));
    });
}
