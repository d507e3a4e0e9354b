//! How hard the model makes it for a driver.

/// A choice of [`Knobs`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Everything that is not forced stays as it was: the worst that a driver may meet.
    Adversarial,
    /// A cache of 1024 entries that evicts at random, and lines that are written back at random: what a machine may do.
    /// A mistake shows sooner or later.
    Realistic,
    /// Stores and register writes arrive at once, and the cache is small. A driver that passes only here is wrong.
    Lenient,
}

/// What nobody knows of the chip, and what differs from machine to machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Knobs {
    /// Entries of the TCE cache of each PHB; `None` never evicts.
    pub cache_entries: Option<usize>,
    /// Chance per tick, in percent, that some line is written back without being flushed.
    pub write_back_percent: u32,
    /// Whether every store reaches memory at once.
    pub write_through: bool,
    /// Ticks after which a register write arrives although nobody read; 0 is at once.
    pub posted_ticks: u64,
    /// Longest time that a split takes, in ticks.
    pub split_ticks: u64,
    /// Chance per tick, in percent, that a device does an access of [`Model::set_traffic`](super::Model::set_traffic).
    pub traffic_percent: u32,
    /// Chance, in percent, that a request slips into a soft stop of CalIOC2.
    pub slip_percent: u32,
    /// First address that is no memory: an entry that points there is reported.
    pub real_limit: u64,
    /// Start of the random numbers.
    pub seed: u64,
}

impl Knobs {
    /// The knobs of a mode.
    #[must_use]
    pub fn new(mode: Mode, seed: u64) -> Self {
        let adversarial = Self {
            cache_entries: None,
            write_back_percent: 0,
            write_through: false,
            posted_ticks: u64::MAX,
            split_ticks: 60,
            traffic_percent: 40,
            slip_percent: 30,
            real_limit: 1 << 48,
            seed,
        };
        match mode {
            Mode::Adversarial => adversarial,
            Mode::Realistic => Self {
                cache_entries: Some(1024),
                write_back_percent: 5,
                posted_ticks: 16,
                split_ticks: 12,
                traffic_percent: 20,
                slip_percent: 5,
                ..adversarial
            },
            Mode::Lenient => Self {
                cache_entries: Some(64),
                write_through: true,
                posted_ticks: 0,
                split_ticks: 2,
                traffic_percent: 10,
                slip_percent: 0,
                ..adversarial
            },
        }
    }
}

/// A small generator, so that a run can be repeated.
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `sides`, which is not 0.
    pub(super) fn below(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 8) as usize % sides
    }

    pub(super) fn percent(&mut self, percent: u32) -> bool {
        self.below(100) < percent as usize
    }
}
