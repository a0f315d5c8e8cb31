//! The budget: how much more than what is used may be mapped, before idle pages are moved
//! together instead.
//!
//! Pages are moved once more is mapped than a little above what was ever used at a time. But a
//! move is a call of the device, and a program that goes on as it did would have pages moved
//! for ever. So in two cases new ones are taken after all, up to a share of what is used that the
//! policy sets (a quarter on the host, nothing on a GPU):
//!
//! - Pages for one size keep moving at even intervals: the program repeats a step. Layers of a
//!   network repeat too, some tens of times; steps go on.
//! - More was moved than goes with what was allocated, see [`Situation::free_moves`]: the
//!   program has no step that it repeats.

use std::collections::HashMap;

use super::policy::Preset;
use crate::space::PAGE;

/// Of how many sizes the times of moves are kept.
const SIZES_HEARD: usize = 1024;

/// When pages had to move for blocks of one size, the latest first.
#[derive(Debug, Default)]
struct Rhythm {
    times: [u64; 2 * Rhythm::BEATS + 1],
    even: u64,
}

impl Rhythm {
    /// Most moves for one size within one step that are still recognised as a rhythm.
    const BEATS: usize = 8;
    /// After so many even intervals in a row a size may buy all there is to buy; before, in
    /// proportion.
    const EVEN: u64 = 256;

    /// Pages had to move at `now`. Returns how many intervals in a row were even.
    fn hear(&mut self, now: u64) -> u64 {
        // Threads read the time before they take the core's lock: it may be earlier than the
        // latest one heard.
        let now = now.max(self.times[0]);
        self.times.rotate_right(1);
        self.times[0] = now;
        let even = |beats: usize| {
            let [first, second, third] = [0, beats, 2 * beats].map(|at| self.times[at]);
            third > 0 && first > second && first - second == second - third
        };
        self.even = if (1..=Rhythm::BEATS).any(even) { self.even + 1 } else { 0 };
        self.even.min(Rhythm::EVEN)
    }
}

/// What the budget has to know of the pool at this moment, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// The most that was ever used at a time, with the block that is needed.
    pub live: u64,
    /// Mapped now.
    pub mapped: u64,
    /// The limit of what may be mapped.
    pub limit: u64,
    /// Allocations so far.
    pub allocations: u64,
    /// Bytes of all blocks ever given out.
    pub allocated: u64,
}

impl Situation {
    /// How many bytes a pool may have moved, without taking new ones to save moves: what it
    /// uses, and the geometric mean of that and of all it ever gave out, times 5/8. So the
    /// share of the traffic that moves falls with time: to 7 % once 100 times what is used was
    /// given out, to 0.6 % at 10,000 times. Of ten training and inference traces the one that
    /// moves most comes to 84 % of this; 64 slots of random tensors pass it after a hundred
    /// turns.
    fn free_moves(&self) -> u64 {
        let mean = (u128::from(self.live) * u128::from(self.allocated)).isqrt() as u64;
        self.live.saturating_add(mean) / 8 * 5
    }
}

/// How much may be mapped, and what was moved to keep to it.
#[derive(Debug, Default)]
pub struct Budget {
    rhythms: HashMap<u64, Rhythm>,
    /// Bytes taken new to save moves.
    bought: u64,
    /// Bytes moved.
    moved: u64,
}

impl Budget {
    /// By how much `pages` new bytes would exceed the budget, of which they are a part.
    /// `percent` of what is used may be mapped, and always a page more than that.
    pub fn above(&self, percent: u64, pages: u64, now: &Situation) -> u64 {
        let budget = (now.live * percent / 100).max(now.live + PAGE) + self.bought;
        let above = (now.mapped + pages).saturating_sub(budget.min(now.limit));
        above.next_multiple_of(PAGE).min(pages)
    }

    /// How many bytes of `pages` missing under a block of `size` bytes should be moved there
    /// from where they lie idle, instead of being taken new.
    pub fn moves_for(&mut self, preset: &Preset, size: u64, pages: u64, now: &Situation) -> u64 {
        let above = self.above(preset.move_above_percent, pages, now);
        if above == 0 {
            return 0;
        }
        if self.rhythms.len() > SIZES_HEARD {
            self.rhythms.clear();
        }
        let even = self.rhythms.entry(size).or_default().hear(now.allocations);
        let most = now.live * preset.buy_percent / 100;
        let in_debt = self.moved + above > now.free_moves();
        let share = if in_debt { most } else { most / Rhythm::EVEN * even };
        if share.saturating_sub(self.bought) < above {
            return above;
        }
        self.bought += above;
        0
    }

    /// `bytes` are moved.
    pub fn note_moved(&mut self, bytes: u64) {
        self.moved += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::super::policy::Policy;
    use super::*;

    const LIVE: u64 = 256 * PAGE;

    /// A pool that uses `LIVE` bytes and has the budget of 2 % mapped, which needs `pages` at
    /// the allocation number `allocations`, every one of which took an eighth of `LIVE`.
    fn need(budget: &mut Budget, size: u64, pages: u64, allocations: u64) -> u64 {
        let now = Situation {
            live: LIVE,
            mapped: LIVE / 100 * 102 + budget.bought,
            limit: u64::MAX,
            allocations,
            allocated: allocations * (LIVE / 8),
        };
        let moved = budget.moves_for(&Policy::Balanced.preset(), size, pages, &now);
        budget.note_moved(moved);
        assert!(budget.bought <= LIVE / 4);
        assert!(moved == 0 || budget.moved <= now.free_moves() || budget.bought + pages > LIVE / 4);
        moved
    }

    #[test]
    fn within_the_budget_nothing_moves() {
        let now = |mapped| Situation {
            live: LIVE,
            mapped,
            limit: u64::MAX,
            allocations: 1,
            allocated: LIVE,
        };
        let budget = Budget::default();
        assert_eq!(budget.above(102, 4 * PAGE, &now(LIVE)), 0);
        assert_eq!(budget.above(102, 4 * PAGE, &now(LIVE + 3 * PAGE)), 2 * PAGE);
        assert_eq!(budget.above(102, 4 * PAGE, &now(2 * LIVE)), 4 * PAGE);
        let preset = Policy::Balanced.preset();
        assert_eq!(Budget::default().moves_for(&preset, 1, 4 * PAGE, &now(LIVE)), 0);
    }

    #[test]
    fn moves_without_a_rhythm_end_once_they_are_too_many() {
        let mut budget = Budget::default();
        // Sizes and intervals that do not repeat.
        let step = |number: u64| (number, number * 3 + number * number % 7);
        let moves: Vec<u64> =
            (1..2000).map(step).map(|(size, at)| need(&mut budget, size, 8 * PAGE, at)).collect();
        assert!(moves[..20].iter().all(|&moved| moved > 0), "at first pages are moved");
        // A quarter of what is used is bought, and some go on moving beyond it.
        assert!(budget.bought + 8 * PAGE > LIVE / 4);
    }

    #[test]
    fn times_of_several_threads_may_go_back_and_are_no_rhythm() {
        let mut rhythm = Rhythm::default();
        let times = [40, 37, 45, 12, 45, 44, 9, 46, 46, 46, 46, 53];
        assert!(times.into_iter().all(|now| rhythm.hear(now) == 0), "{rhythm:?}");
        // From 53 on at even intervals: heard once two of them are known.
        assert_eq!([63, 73, 83].map(|now| rhythm.hear(now)), [0, 1, 2]);
    }

    #[test]
    fn a_step_that_is_repeated_buys_before_it_moved_too_much() {
        let mut budget = Budget::default();
        let moved = (1..).take_while(|&step| need(&mut budget, 7, PAGE, 100 * step) > 0).count();
        assert!(moved < 10, "{moved} moves at even intervals");
    }
}
