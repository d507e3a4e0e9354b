//! Starting corpora, made by code.

use std::path::Path;

/// Names the folder that [`write_if_asked`] fills.
pub const FOLDER_VARIABLE: &str = "CALGARY_FUZZ_SEEDS";

/// Writes each seed to a file in the folder that the environment names, if it names one.
///
/// # Panics
/// The folder cannot be written.
pub fn write_if_asked(seeds: &[Vec<u8>]) {
    let Some(folder) = std::env::var_os(FOLDER_VARIABLE) else { return };
    for (number, seed) in seeds.iter().enumerate() {
        std::fs::write(Path::new(&folder).join(format!("seed-{number:02}")), seed)
            .expect("the corpus folder is writable");
    }
}
