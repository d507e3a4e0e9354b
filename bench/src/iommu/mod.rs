//! MAP and UNMAP through the real request queue: what one request costs, by requests per kick and by live mappings.

mod batches;
mod run;

pub(crate) use run::{IommuPlan, IommuPoint, IommuReport, run};
