//! Clocks, processors and figures.

mod cores;
mod cpu_clock;
mod idle;
mod limits;
mod series;

pub(crate) use cores::Cores;
pub(crate) use cpu_clock::CpuClock;
pub(crate) use idle::{Idle, idle};
pub(crate) use limits::{Limits, ping_pongs};
pub(crate) use series::{Figure, Sample, Series, count, percentile};
