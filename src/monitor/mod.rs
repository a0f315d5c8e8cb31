//! What is left to this process: of the machine, of the control groups that it is in, of its own
//! limits, and of GPUs.
//!
//! There is one formula, [`Headroom`]: of all that bounds the memory of this process ([`Bound`]),
//! the one of which least is left is what is left. Pools that give back idle memory when little is
//! left ask [`Monitor::is_short`], which looks at what giving back helps: the machine and the
//! groups. [`Monitor::info`] has everything. GPUs are asked through NVML, which is not theirs.

mod bound;
mod files;
mod group;
mod info;
mod meminfo;
mod mounts;
mod nvml;
mod pinned;
mod pressure;
mod process;
mod reader;
mod report;
mod rlimit;

pub use bound::{Bound, Headroom, Source, is_little};
pub use group::{Events, Group, GroupLimit, Usage, Version};
pub use info::{Info, Level};
pub use meminfo::Machine;
pub use nvml::{Gpu, Gpus, Nvml};
pub use pinned::{pinned, pinned_are_lost, unpinned};
pub use pressure::{Pressure, Stall};
pub use process::Process;
pub use reader::{Monitor, system};
pub use rlimit::Limits;
