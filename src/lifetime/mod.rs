//! Lifetimes of tensors, and plans that place them.
//!
//! An [`Instance`] is a set of tensors, each with a lifetime `[lower, upper)` and a size. A
//! [`Plan`] gives each an offset in one arena, so that no two that live at one time overlap.
//! Its *arena bytes* are the largest offset plus size; its *lower bound* is the peak of live
//! bytes, which no plan can be below.
//!
//! A plan is made in stages, each of which keeps the best so far:
//!
//! 1. `greedy`: a few orders, first fit and best fit; milliseconds. For thousands of tensors, more of
//!    them between tries of the search: by size, sections and load, each to some power.
//! 2. `search`: the exact search, below one height after the other: the lower bound first, then
//!    halfway between what failed and what is there, with ever more effort until the time is
//!    over. It fills the valleys of the skyline from below, and decides first where the
//!    fewest tensors can come next.
//!
//! [`sweep`] checks every plan before anyone gets it; [`picture`] draws it.

mod clock;
pub mod file;
mod greedy;
mod instance;
pub mod picture;
mod plan;
mod planner;
mod problem;
mod record;
mod repeat;
mod search;
pub mod sweep;

pub use clock::{Progress, Stage, Watch};
pub use instance::{Instance, Tensor};
pub use plan::Plan;
pub use planner::{Options, plan};
pub use record::Lifetime;
pub use repeat::{Repeat, Taken};
