//! What the figures depend on besides the programs.

use std::fmt;

use serde::Serialize;

use crate::measure::Cores;
use crate::peers::Programs;

/// The machine during a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Environment {
    /// Version of the kernel.
    pub(crate) kernel: String,
    /// Model of the processor.
    pub(crate) processor: String,
    /// Processors of client and server.
    pub(crate) cores: [usize; 2],
    /// QEMU's version, if it took part.
    pub(crate) qemu: Option<String>,
    /// Runnable threads on average over the last minute, at the start and at the end. About 2 are the run's own.
    pub(crate) load: [f64; 2],
}

impl Environment {
    /// At the start of a run.
    pub(crate) fn at_start(cores: Cores, programs: Option<&Programs>) -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            processor: model.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, model)| model.to_owned()),
            cores: [cores.client, cores.server],
            qemu: programs.map(Programs::qemu_version),
            load: [load(), 0.0],
        }
    }

    /// At its end.
    pub(crate) fn finish(&mut self) {
        self.load[1] = load();
    }
}

fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(f64::NAN)
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [client, server] = self.cores;
        write!(f, "{}, Linux {}, client on processor {client}, servers on {server}", self.processor, self.kernel)?;
        if let Some(qemu) = &self.qemu {
            write!(f, ", QEMU {qemu}")?;
        }
        write!(f, "; load {:.1} at the start, {:.1} at the end", self.load[0], self.load[1])
    }
}
