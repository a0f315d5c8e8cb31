//! The five presets.

use std::time::Duration;

/// How a pool weighs speed against memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Keeps what is likely to be used again, gives back what lies idle.
    #[default]
    Balanced,
    /// As few bytes as possible: fine size classes, a free gives its pages back.
    Conservative,
    /// As many hits as possible: coarse size classes, nothing is given back unasked.
    AggressiveReuse,
    /// Every block zeroed, large ones at page boundaries.
    QualityFirst,
    /// Initial bytes mapped and touched at the start, no system call after.
    LatencyFirst,
}

/// When idle pages are given back without being asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrimWhen {
    /// With the free that made them idle.
    AtOnce,
    /// Once they have been idle for this long.
    Idle(Duration),
    /// When the device has nothing left.
    Pressure,
    /// Never; `forebay_pool_trim` does it.
    Asked,
}

/// What a policy stands for.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Size classes per doubling of the size.
    pub classes_per_doubling: u32,
    /// Runs of their own begin at a multiple of this, in bytes.
    pub large_alignment: u64,
    /// How much of the limit may lie idle, in quarters of it.
    pub keep_quarters: u64,
    /// Whether threads keep just-freed blocks for themselves.
    pub front_caches: bool,
    /// Whether initial bytes are touched as well as mapped.
    pub touch_initial: bool,
    /// Whether every block is zeroed before it is given out.
    pub zeroed: bool,
    /// Whether to ask for the largest pages the hardware has.
    pub huge_pages: bool,
    /// Idle pages are moved where they are needed, instead of asking the device, once
    /// mapped bytes exceed this many percent of the peak of used ones.
    pub move_above_percent: u64,
    /// How much more may be mapped to save moving pages for ever, in percent of what is used.
    pub buy_percent: u64,
    /// When idle pages go back.
    pub trim: TrimWhen,
}

impl Preset {
    /// The same for the memory of a GPU. There is little of it, and a move there is no fault of
    /// the next access: 1.5 µs a page and 62 a range, beside steps of a second. With these two
    /// numbers the ten recorded and synthetic traces reserve 1.000 to 1.014 of what lives at
    /// their peaks (one of 744 MiB 1.038) and move fewer pages than with 102 and 25.
    pub fn for_gpu(self) -> Preset {
        let move_above_percent = match self.move_above_percent {
            102 => 101,
            other => other,
        };
        Preset { move_above_percent, buy_percent: 0, ..self }
    }
}

impl Policy {
    /// All five.
    pub const ALL: [Policy; 5] = [
        Policy::Balanced,
        Policy::Conservative,
        Policy::AggressiveReuse,
        Policy::QualityFirst,
        Policy::LatencyFirst,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Policy::Balanced => "balanced",
            Policy::Conservative => "conservative",
            Policy::AggressiveReuse => "aggressive_reuse",
            Policy::QualityFirst => "quality_first",
            Policy::LatencyFirst => "latency_first",
        }
    }

    /// What it stands for.
    pub fn preset(self) -> Preset {
        let balanced = Preset {
            classes_per_doubling: 8,
            large_alignment: 1,
            keep_quarters: 2,
            front_caches: true,
            touch_initial: false,
            zeroed: false,
            huge_pages: true,
            move_above_percent: 102,
            buy_percent: 25,
            trim: TrimWhen::Idle(Duration::from_secs(10)),
        };
        match self {
            Policy::Balanced => balanced,
            Policy::Conservative => Preset {
                classes_per_doubling: 16,
                keep_quarters: 0,
                front_caches: false,
                huge_pages: false,
                move_above_percent: 100,
                trim: TrimWhen::AtOnce,
                ..balanced
            },
            Policy::AggressiveReuse => Preset {
                classes_per_doubling: 1,
                keep_quarters: 4,
                move_above_percent: 150,
                trim: TrimWhen::Asked,
                ..balanced
            },
            Policy::QualityFirst => Preset {
                large_alignment: crate::space::PAGE,
                keep_quarters: 3,
                zeroed: true,
                trim: TrimWhen::Pressure,
                ..balanced
            },
            Policy::LatencyFirst => Preset {
                classes_per_doubling: 4,
                keep_quarters: 4,
                touch_initial: true,
                move_above_percent: 150,
                trim: TrimWhen::Asked,
                ..balanced
            },
        }
    }
}
