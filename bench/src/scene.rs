//! Where a run takes place.

use std::path::{Path, PathBuf};

use crate::failure::Failure;
use crate::measure::Cores;
use crate::peers::Programs;
use crate::progress::Steps;

/// What all runs need.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scene<'a> {
    /// The processors.
    pub(crate) cores: Cores,
    /// Sockets and logs.
    pub(crate) work: &'a Path,
    /// The shared folder.
    pub(crate) folder: &'a Path,
    /// The peers' programs; without them only this project's own servers run.
    pub(crate) programs: Option<&'a Programs>,
    /// Further arguments of `calgaryd serve`.
    pub(crate) daemon_args: &'a [String],
    /// Who is told how far it is.
    pub(crate) steps: &'a Steps,
}

impl Scene<'_> {
    /// A new folder for one server's sockets.
    pub(crate) fn place(&self, name: &str) -> Result<PathBuf, Failure> {
        // A comma would end the key of a share that names a socket there.
        let place = self.work.join(name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-"));
        std::fs::create_dir_all(&place).map_err(|cause| Failure::system("make a folder for sockets", cause))?;
        Ok(place)
    }
}
