//! Results as tables, as JSON, and as a page with plots.

mod table;

pub(crate) use table::iommu_table;
