//! An apt of our own: it shares the machine's mirrors, proxies and keys, and nothing that it changes.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::bundle::BundleError;
use super::progress::Progress;

/// The Debian release that the guest kernel and the libraries come from.
const RELEASE: &str = "trixie";

/// The suite that QEMU comes from: the release's own is too old.
const BACKPORTS: &str = "trixie-backports";

/// Overrides the mirror found in the machine's own configuration.
const MIRROR_VARIABLE: &str = "CALGARY_MIRROR";

/// Suites by which a Debian archive is known among the machine's sources.
const DEBIAN_SUITES: [&str; 9] =
    ["bullseye", "bookworm", "trixie", "forky", "sid", "oldstable", "stable", "testing", "unstable"];

/// Debian's keys, by the names that its keyring package has used.
const KEYRINGS: [&str; 2] =
    ["/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"];

/// An apt whose state, cache and sources are in one folder.
pub(super) struct PrivateApt {
    folder: PathBuf,
}

impl PrivateApt {
    /// Writes the configuration into `folder`, which must be empty. Packages of `foreign` can be fetched besides those of
    /// this machine's architecture.
    pub(super) fn set_up(folder: &Path, foreign: Option<&str>) -> Result<Self, BundleError> {
        for (program, package) in [("apt-get", "apt"), ("dpkg-deb", "dpkg")] {
            Command::new(program)
                .arg("--version")
                .stdin(Stdio::null())
                .output()
                .map_err(|source| BundleError::MissingProgram { program: program.to_owned(), package, source })?;
        }
        let keyring = KEYRINGS.into_iter().find(|path| Path::new(path).exists()).ok_or(BundleError::NoKeyring)?;
        let apt = Self { folder: folder.to_owned() };
        for name in ["lists/partial", "cache/archives/partial", "etc"] {
            let path = folder.join(name);
            fs::create_dir_all(&path).map_err(BundleError::io("create", &path))?;
        }
        apt.write("status", "")?;
        apt.write("apt.conf", &configuration(folder, foreign)?)?;
        // Asked before our own sources exist, so that the answer is the machine's.
        let mirror = mirror()?;
        apt.write(
            "etc/bundle.sources",
            &format!(
                "Types: deb\nURIs: {mirror}\nSuites: {RELEASE} {BACKPORTS}\nComponents: main\nTargets: Packages\n\
                 Architectures: amd64 {}\nSigned-By: {keyring}\n",
                foreign.unwrap_or_default()
            ),
        )?;
        Ok(apt)
    }

    fn write(&self, name: &str, content: &str) -> Result<(), BundleError> {
        let path = self.folder.join(name);
        fs::write(&path, content).map_err(BundleError::io("write", &path))
    }

    /// Fetches the package indexes.
    pub(super) fn update(&self, progress: &dyn Progress) -> Result<(), BundleError> {
        // Without Error-Mode a mirror that cannot be reached is a warning, and the failure comes later and unexplained.
        self.get(
            "fetching the package indexes",
            &["-o", "APT::Update::Error-Mode=any", "update"],
            &self.folder,
            progress,
        )
    }

    /// Downloads `packages` from backports where they exist there, with all that they need; returns the files.
    pub(super) fn fetch_closure(
        &self,
        packages: &[&str],
        text: &str,
        progress: &dyn Progress,
    ) -> Result<Vec<PathBuf>, BundleError> {
        let mut args = vec!["-t", BACKPORTS, "--no-install-recommends", "--download-only", "install"];
        args.extend(packages);
        self.get(text, &args, &self.folder, progress)?;
        packages_in(&self.folder.join("cache/archives"))
    }

    /// Downloads the kernel that the release's `metapackage` depends on, and that package alone.
    pub(super) fn fetch_kernel(&self, metapackage: &str, progress: &dyn Progress) -> Result<Vec<PathBuf>, BundleError> {
        let release = format!("APT::Default-Release={RELEASE}");
        let mut show = self.command("apt-cache");
        show.args(["-o", &release, "show", "--no-all-versions", metapackage]);
        let output = show.output().map_err(BundleError::io("run", Path::new("apt-cache")))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let package = kernel_package(&text).ok_or_else(|| BundleError::Command {
            what: format!("looking up the kernel that {metapackage} depends on"),
            said: format!("{text}{}", String::from_utf8_lossy(&output.stderr)),
        })?;
        let architecture = metapackage.split_once(':').map(|(_, architecture)| format!(":{architecture}"));
        let package = format!("{package}{}", architecture.unwrap_or_default());
        self.fetch_alone(&package, "kernel", "downloading the guest kernel", progress)
    }

    /// Downloads `package` and nothing that it depends on; `name` is a folder for it alone.
    pub(super) fn fetch_alone(
        &self,
        package: &str,
        name: &str,
        text: &str,
        progress: &dyn Progress,
    ) -> Result<Vec<PathBuf>, BundleError> {
        let folder = self.folder.join(name);
        fs::create_dir_all(&folder).map_err(BundleError::io("create", &folder))?;
        self.get(text, &["download", package], &folder, progress)?;
        packages_in(&folder)
    }

    /// Unpacks package files into `root`, several at a time.
    pub(super) fn unpack(
        &self,
        packages: &[PathBuf],
        root: &Path,
        text: &str,
        progress: &dyn Progress,
    ) -> Result<(), BundleError> {
        fs::create_dir_all(root).map_err(BundleError::io("create", root))?;
        let total = packages.len() as u64;
        progress.step(text, 0, total);
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let worker = || {
            while let Some(package) = packages.get(next.fetch_add(1, Ordering::Relaxed)) {
                let mut unpack = Command::new("dpkg-deb");
                unpack.arg("-x").args([package.as_path(), root]).stdin(Stdio::null());
                let output = unpack.output().map_err(BundleError::io("run dpkg-deb on", package))?;
                if !output.status.success() {
                    return Err(BundleError::Command {
                        what: format!("unpacking {}", package.display()),
                        said: String::from_utf8_lossy(&output.stderr).into_owned(),
                    });
                }
                progress.step(text, done.fetch_add(1, Ordering::Relaxed) as u64 + 1, total);
            }
            Ok(())
        };
        let threads = std::thread::available_parallelism().map_or(1, |count| count.get().min(4));
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
            workers
                .into_iter()
                .try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-c").arg(self.folder.join("apt.conf")).env("LC_ALL", "C").stdin(Stdio::null());
        command
    }

    /// Runs apt-get in `folder` and reports its percentage.
    fn get(&self, text: &str, args: &[&str], folder: &Path, progress: &dyn Progress) -> Result<(), BundleError> {
        progress.step(text, 0, 100);
        let errors = self.folder.join("errors");
        let io = || BundleError::io("run", Path::new("apt-get"));
        let mut command = self.command("apt-get");
        command.args(["-y", "-qq", "-o", "APT::Status-Fd=1"]).args(args).current_dir(folder);
        let errors_file = File::create(&errors).map_err(BundleError::io("create", &errors))?;
        let mut child = command.stdout(Stdio::piped()).stderr(errors_file).spawn().map_err(io())?;
        // Taken before anything can fail, so that the child is always waited for.
        let stdout = child.stdout.take();
        for line in stdout.into_iter().flat_map(|stdout| BufReader::new(stdout).lines()).map_while(Result::ok) {
            if let Some(percent) = download_percent(&line) {
                progress.step(text, percent.clamp(1, 99), 100);
            }
        }
        if !child.wait().map_err(io())?.success() {
            let said = fs::read_to_string(&errors).unwrap_or_default();
            return Err(BundleError::Command { what: text.to_owned(), said });
        }
        progress.step(text, 100, 100);
        Ok(())
    }
}

/// The configuration that keeps apt inside `folder` and away from the machine's hooks, pins and index targets.
fn configuration(folder: &Path, foreign: Option<&str>) -> Result<String, BundleError> {
    let root = folder.to_str().filter(|root| !root.contains(['"', '\n', '\\'])).ok_or(BundleError::NoCacheFolder)?;
    let foreign = foreign.map_or_else(String::new, |foreign| format!("\"{foreign}\"; "));
    // Backports have a low priority by Debian's own Release file, so `-t` alone brings packages in from there.
    Ok(format!(
        r#"#clear APT::Update;
#clear DPkg;
#clear APT::Architectures;
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; {foreign}}};
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::PDiffs "false";
Acquire::Retries "3";
Dir::State "{root}";
Dir::State::lists "{root}/lists";
Dir::State::status "{root}/status";
Dir::State::extended_states "{root}/extended_states";
Dir::Cache "{root}/cache";
Dir::Cache::archives "{root}/cache/archives";
Dir::Etc::SourceList "{root}/etc/bundle.sources";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::Log "{root}";
"#
    ))
}

/// The address of a Debian archive, from the environment or the machine's own apt.
fn mirror() -> Result<String, BundleError> {
    if let Some(mirror) = std::env::var(MIRROR_VARIABLE).ok().filter(|mirror| !mirror.is_empty()) {
        return Ok(mirror);
    }
    let targets = ["indextargets", "--format", "$(REPO_URI)|$(ORIGIN)|$(LABEL)", "Created-By: Packages"];
    if let Some(mirror) = mirror_of_targets(&machine_apt(&targets.map(OsStr::new))?) {
        return Ok(mirror);
    }
    // A machine that never ran `apt-get update` has no index targets, but it has sources.
    let empty = tempfile::tempdir().map_err(BundleError::io("create", Path::new("a temporary folder")))?;
    let mut lists = OsString::from("Dir::State::lists=");
    lists.push(empty.path());
    let uris = machine_apt(&["-o".as_ref(), &lists, "update".as_ref(), "--print-uris".as_ref()])?;
    mirror_of_uris(&uris).ok_or(BundleError::NoMirror)
}

/// What the machine's own apt answers.
fn machine_apt(args: &[&OsStr]) -> Result<String, BundleError> {
    let output = Command::new("apt-get").args(args).env("LC_ALL", "C").stdin(Stdio::null()).output();
    let output = output.map_err(BundleError::io("run", Path::new("apt-get")))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The first archive that calls itself Debian, leaving out the security archive.
fn mirror_of_targets(lines: &str) -> Option<String> {
    lines.lines().find_map(|line| {
        let mut fields = line.split('|');
        let (uri, origin, label) = (fields.next()?, fields.next()?, fields.next()?);
        (origin == "Debian" && !label.contains("Security")).then(|| uri.to_owned())
    })
}

/// The first archive that has a suite of Debian's, from the output of `apt-get update --print-uris`.
fn mirror_of_uris(lines: &str) -> Option<String> {
    lines.lines().find_map(|line| {
        let uri = line.strip_prefix('\'')?.split('\'').next()?;
        let (mirror, suite) = uri.strip_suffix("/InRelease")?.split_once("/dists/")?;
        DEBIAN_SUITES.contains(&suite).then(|| mirror.to_owned())
    })
}

/// The `linux-image-VERSION` in the Depends field of a package record.
fn kernel_package(record: &str) -> Option<&str> {
    let depends = record.lines().find_map(|line| line.strip_prefix("Depends: "))?;
    depends.split(", ").filter_map(|entry| entry.split(' ').next()).find(|name| name.starts_with("linux-image-"))
}

/// The percentage in a line of `APT::Status-Fd`: `dlstatus:FILE:PERCENT:TEXT`.
fn download_percent(line: &str) -> Option<u64> {
    let mut fields = line.strip_prefix("dlstatus:")?.split(':');
    fields.nth(1)?.split('.').next()?.parse().ok()
}

fn packages_in(folder: &Path) -> Result<Vec<PathBuf>, BundleError> {
    let io = || BundleError::io("list", folder);
    let mut packages = Vec::new();
    for entry in fs::read_dir(folder).map_err(io())? {
        let path = entry.map_err(io())?.path();
        if path.extension() == Some(OsStr::new("deb")) {
            packages.push(path);
        }
    }
    packages.sort();
    Ok(packages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_is_found_among_other_archives() {
        let targets = "https://vendor.example/apt|Vendor|Debian\n\
                       http://security.example/debian-security/|Debian|Debian-Security\n\
                       http://mirror.example/debian/|Debian|Debian\n";
        assert_eq!(mirror_of_targets(targets).as_deref(), Some("http://mirror.example/debian/"));
        assert_eq!(mirror_of_targets("http://mirror.example/ubuntu/|Ubuntu|Ubuntu\n"), None);
        let uris = "'http://vendor.example/apt/dists/nodistro/InRelease' x 0 \n\
                    'http://security.example/debian-security/dists/bookworm-security/InRelease' x 0 \n\
                    'http://mirror.example/debian/dists/bookworm/InRelease' x 0 \n";
        assert_eq!(mirror_of_uris(uris).as_deref(), Some("http://mirror.example/debian"));
        assert_eq!(mirror_of_uris(""), None);
    }

    #[test]
    fn the_kernel_is_the_one_the_metapackage_depends_on() {
        let record =
            "Package: linux-image-amd64\nDepends: linux-base (>= 4), linux-image-6.12.1+deb13-amd64 (= 6.12.1-1)\n";
        assert_eq!(kernel_package(record), Some("linux-image-6.12.1+deb13-amd64"));
        assert_eq!(kernel_package("Package: linux-image-amd64\n"), None);
    }

    #[test]
    fn download_percentages_are_read() {
        assert_eq!(download_percent("dlstatus:12:34.5678:Retrieving file 12 of 100"), Some(34));
        assert_eq!(download_percent("pmstatus:x:3:y"), None);
        assert_eq!(download_percent("dlstatus:12"), None);
    }

    #[test]
    fn a_folder_that_would_break_the_configuration_is_refused() {
        assert!(configuration(Path::new("/tmp/a\"b"), None).is_err());
        assert!(
            configuration(Path::new("/tmp/plain folder"), Some("arm64"))
                .unwrap()
                .contains("\"/tmp/plain folder/lists\"")
        );
    }
}
