//! The QEMU program: how to start it and which version it is.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::bundle::BundleError;

/// A QEMU release, ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct QemuVersion {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
}

impl QemuVersion {
    /// The first release whose `vhost-user-test-device-pci` a user can create.
    pub const OLDEST: Self = Self { major: 10, minor: 2 };

    /// Reads the first line of `qemu-system-… --version`; `None` if it is not QEMU's.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let number = text.strip_prefix("QEMU emulator version ")?;
        let mut parts = number.split(|c: char| !c.is_ascii_digit());
        Some(Self { major: parts.next()?.parse().ok()?, minor: parts.next()?.parse().ok()? })
    }
}

impl fmt::Display for QemuVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// How to start QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QemuCommand {
    /// The program to execute.
    pub program: PathBuf,
    /// Arguments that come before all others.
    pub leading_args: Vec<OsString>,
    /// Variables added to the environment.
    pub env: Vec<(OsString, OsString)>,
    /// The version it reported.
    pub version: QemuVersion,
}

impl QemuCommand {
    /// The `qemu-system-x86_64` of `PATH`.
    ///
    /// # Errors
    /// [`BundleError::MissingProgram`] if there is none, [`BundleError::OldQemu`] if it is older than
    /// [`QemuVersion::OLDEST`].
    pub fn from_path() -> Result<Self, BundleError> {
        Self::checked(PathBuf::from("qemu-system-x86_64"), Vec::new(), Vec::new())
    }

    /// The QEMU of Debian packages that were unpacked into `root`, run with the C library of that same root.
    pub(super) fn from_root(root: &Path) -> Result<Self, BundleError> {
        Self::from_root_of(root, "qemu-system-x86_64")
    }

    /// The same with another of its programs.
    pub(super) fn from_root_of(root: &Path, program: &str) -> Result<Self, BundleError> {
        let libraries = root.join("usr/lib/x86_64-linux-gnu");
        let args = [
            OsString::from("--library-path"),
            libraries.clone().into(),
            root.join("usr/bin").join(program).into(),
            "-L".into(),
            root.join("usr/share/qemu").into(),
            "-L".into(),
            root.join("usr/share/seabios").into(),
        ];
        let env = vec![("QEMU_MODULE_DIR".into(), libraries.join("qemu").into())];
        Self::checked(root.join("usr/lib64/ld-linux-x86-64.so.2"), args.into(), env)
    }

    fn checked(
        program: PathBuf,
        leading_args: Vec<OsString>,
        env: Vec<(OsString, OsString)>,
    ) -> Result<Self, BundleError> {
        let mut qemu = Self { program, leading_args, env, version: QemuVersion::OLDEST };
        let output = qemu.command().arg("--version").stdin(Stdio::null()).output().map_err(|source| {
            BundleError::MissingProgram {
                program: qemu.program.display().to_string(),
                package: "qemu-system-x86",
                source,
            }
        })?;
        let text = String::from_utf8_lossy(&output.stdout);
        qemu.version = QemuVersion::parse(&text).ok_or_else(|| BundleError::NotQemu {
            program: qemu.program.display().to_string(),
            said: format!("{text}{}", String::from_utf8_lossy(&output.stderr)).trim().to_owned(),
        })?;
        if qemu.version < QemuVersion::OLDEST {
            return Err(BundleError::OldQemu { found: qemu.version });
        }
        Ok(qemu)
    }

    /// A command with the leading arguments and the environment set.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.leading_args).envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_ordered() {
        let debian =
            QemuVersion::parse("QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)\nCopyright").unwrap();
        assert_eq!(debian, QemuVersion { major: 11, minor: 1 });
        assert_eq!(QemuVersion::parse("QEMU emulator version 10.2.0"), Some(QemuVersion::OLDEST));
        assert!(QemuVersion::parse("QEMU emulator version 9.2.0").unwrap() < QemuVersion::OLDEST);
        assert!(QemuVersion::parse("QEMU emulator version 10.1.50").unwrap() < QemuVersion::OLDEST);
        assert!(debian > QemuVersion::OLDEST);
        for bad in ["", "QEMU emulator version", "QEMU emulator version x.y", "qemu 11.1", "QEMU emulator version 11"] {
            assert_eq!(QemuVersion::parse(bad), None, "{bad:?}");
        }
    }
}
