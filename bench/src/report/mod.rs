//! Results as tables, as JSON, and as a page with plots.

mod environment;
mod html;
mod plot;
mod plots;
mod ratios;
mod safety;
mod table;

pub(crate) use environment::Environment;
pub(crate) use html::write_page;
pub(crate) use ratios::ratio_table;
pub(crate) use safety::safety_text;
pub(crate) use table::{Look, Table, absent_lines, figure, files_table, idle_line, iommu_table, ratio};

use serde::Serialize;

use crate::files::FilesReport;
use crate::iommu::IommuReport;

/// All that a comparison found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Comparison {
    /// Where and on what.
    pub(crate) environment: Environment,
    /// The IOMMU.
    pub(crate) iommu: IommuReport,
    /// The file servers.
    pub(crate) files: FilesReport,
}
