//! Programs out of the bundle of unpacked Debian packages.

use std::process::Command;

use calgary_tests::vm::{Bundle, Progress};

use crate::failure::Failure;

/// The bundle.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    bundle: Bundle,
}

impl Programs {
    /// The bundle of the cache folder, fetched first if it is not there yet.
    pub(crate) fn obtain(progress: &dyn Progress) -> Result<Self, Failure> {
        Ok(Self { bundle: Bundle::obtain(progress)? })
    }

    /// What guests are made of.
    pub(crate) fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// A command that runs QEMU.
    pub(crate) fn qemu(&self) -> Command {
        self.bundle.qemu.command()
    }

    /// QEMU's version.
    pub(crate) fn qemu_version(&self) -> String {
        self.bundle.qemu.version.to_string()
    }

    /// A command that runs the program at `path` inside the bundle, with the bundle's own C library.
    pub(crate) fn command(&self, peer: &'static str, path: &str) -> Result<Command, Failure> {
        let root = &self.bundle.guest_root;
        let program = root.join(path);
        if !program.exists() {
            return Err(Failure::NoProgram { peer, path: program });
        }
        let mut command = Command::new(root.join("usr/lib64/ld-linux-x86-64.so.2"));
        command.arg("--library-path").arg(root.join("usr/lib/x86_64-linux-gnu")).arg(program);
        Ok(command)
    }
}
