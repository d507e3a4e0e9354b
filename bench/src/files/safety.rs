//! How far a device is isolated, and what makes that fast.

use calgary_tests::guest::Mapping;

/// How far a device is isolated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Safety {
    /// No IOMMU.
    Off,
    /// Behind the IOMMU, attached to a bypass domain: addresses are the guest's.
    Passthrough,
    /// Buffers mapped once and kept: what a pool of bounce buffers costs.
    Kept,
    /// MAP before each request, UNMAPs put off.
    Lazy,
    /// MAP before and UNMAP after each request of the pages of file data, with one kick; the driver's own pages stay mapped.
    StrictData,
    /// The same of all pages of a request.
    StrictTogether,
    /// The same with a kick for each page, as Linux does for the rings of a virtio device.
    Strict,
}

impl Safety {
    /// All, least safe first.
    pub(crate) const ALL: [Self; 7] =
        [Self::Off, Self::Passthrough, Self::Kept, Self::Lazy, Self::StrictData, Self::StrictTogether, Self::Strict];

    /// What the column of this is called, and the names in reports of the daemon and of QEMU with this.
    const fn names(self) -> [&'static str; 3] {
        macro_rules! names {
            ($title:literal) => {
                [$title, concat!("calgaryd ", $title), concat!("QEMU ", $title)]
            };
        }
        match self {
            Self::Off => ["off", "calgaryd", "QEMU"],
            Self::Passthrough => names!("passthrough"),
            Self::Kept => names!("kept"),
            Self::Lazy => names!("lazy"),
            Self::StrictData => names!("strict, data"),
            Self::StrictTogether => names!("strict, one kick"),
            Self::Strict => names!("strict"),
        }
    }

    /// What the column of this is called.
    pub(crate) const fn title(self) -> &'static str {
        self.names()[0]
    }

    /// The daemon's name in reports, with this.
    pub(crate) const fn own_name(self) -> &'static str {
        self.names()[1]
    }

    /// QEMU's name in reports, with this.
    pub(crate) const fn qemu_name(self) -> &'static str {
        self.names()[2]
    }

    /// When the client maps, if it does.
    pub(super) const fn mapping(self) -> Option<Mapping> {
        match self {
            Self::Off | Self::Passthrough => None,
            Self::Kept => Some(Mapping::Kept),
            Self::Lazy => Some(Mapping::Lazy),
            Self::StrictData => Some(Mapping::StrictData),
            Self::StrictTogether => Some(Mapping::StrictTogether),
            Self::Strict => Some(Mapping::Strict),
        }
    }
}

/// Something that makes the daemon fast, to be switched off: two servers that differ in it alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mechanism {
    /// What it is called.
    pub(crate) title: &'static str,
    /// Name in reports of the server that has it.
    pub(crate) with: &'static str,
    /// Name in reports of the one that does without.
    pub(crate) without: &'static str,
    /// The argument of `calgaryd serve` that switches it off.
    pub(crate) argument: &'static str,
    /// How both are isolated: so that the mechanism has something to do.
    pub(super) safety: Safety,
    /// Whether the client's buffers are neighbouring pages.
    pub(super) contiguous: bool,
}

/// All that can be switched off.
pub(crate) const MECHANISMS: [Mechanism; 4] = [
    Mechanism {
        title: "polling",
        with: Safety::Strict.own_name(),
        without: "strict, no polling",
        argument: "--poll=off",
        safety: Safety::Strict,
        contiguous: false,
    },
    Mechanism {
        title: "batching",
        with: Safety::StrictTogether.own_name(),
        without: "strict, one kick, no batching",
        argument: "--no-batching",
        safety: Safety::StrictTogether,
        contiguous: false,
    },
    Mechanism {
        title: "coalescing",
        with: "kept, contiguous",
        without: "kept, contiguous, no coalescing",
        argument: "--no-coalescing",
        safety: Safety::Kept,
        contiguous: true,
    },
    Mechanism {
        title: "zero copy",
        with: Safety::Kept.own_name(),
        without: "kept, no zero copy",
        argument: "--no-zero-copy",
        safety: Safety::Kept,
        contiguous: false,
    },
];
