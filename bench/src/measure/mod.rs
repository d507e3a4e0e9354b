//! Clocks, processors and figures.

mod cores;
mod cpu_clock;
mod limits;
mod series;

pub(crate) use cores::Cores;
pub(crate) use cpu_clock::CpuClock;
pub(crate) use limits::{Limits, ping_pongs};
pub(crate) use series::{Figure, Sample, Series, count, percentile};
