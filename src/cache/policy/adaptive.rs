//! Follows whichever of a few policies does best.
//!
//! No single policy is good everywhere: what is best on a loop is worst where keys come back
//! soon and then never. So shadow caches of five policies run beside the cache, see [`Panel`],
//! and the cache itself runs the one that is ahead: LIRS, LRU, GDSF, or W-TinyLFU with a window
//! of a fifth or of a hundredth. With each other they cover what is asked for in loops, by
//! popularity, by recency, and by what it is worth for its bytes.
//!
//! It begins with LIRS, as the panel says why; where what is kept until the cache is full differs
//! much in what it is worth for the room that it takes, with GDSF, which looks at that.
//!
//! A change of policy is spread over the accesses that follow. The new one begins without entries;
//! what comes in and what is used goes over to it, and with every access a few more, those first
//! that the old one would give up first. What is given up meanwhile is the old one's choice. So no
//! call takes long for it, and nothing that the cache has is lost by it. What W-TinyLFU counts is
//! counted all the time, for it takes long to learn.

use super::load::{Budget, Room};
use super::panel::{GDSF, Member, Panel};
use super::sketch::{Short, Sketch};
use super::twos::Twos;
use super::{All, Entries, Goal, Id, Leaving, Policy};

/// Entries that move to a new policy with every access. Until the last one has moved what is given up
/// is the old one's choice: with 4 that was 0.12 points of hits on eight recorded traces, and 0.04
/// on generated ones that were kept apart.
const MOVES: u32 = 8;

/// From this variance of what entries are worth for their room on, as a part of the mean's square,
/// it begins with GDSF. 0 where all have one size.
const UNEQUAL: f64 = 1.0;

/// What entries are worth for the room that they take.
#[derive(Clone, Copy, Debug, Default)]
struct Spread {
    entries: f64,
    sum: f64,
    squares: f64,
}

impl Spread {
    fn add(&mut self, density: f64) {
        self.entries += 1.0;
        self.sum += density;
        self.squares += density * density;
    }

    fn is_unequal(self) -> bool {
        // Squares' mean beside the mean's square.
        self.squares * self.entries > (1.0 + UNEQUAL) * self.sum * self.sum
    }
}

/// A policy and how many entries it has.
struct Part {
    policy: Member,
    which: usize,
    entries: u64,
}

/// Follows whichever of a few policies does best.
pub struct Adaptive {
    goal: Goal,
    /// Whose each entry is.
    sides: Twos,
    /// How many entries there is room for.
    held: u32,
    /// The policy that is followed; its entries have this side.
    lead: Part,
    side: u8,
    /// The one that was followed before, while it has entries.
    old: Option<Part>,
    panel: Panel,
    /// What W-TinyLFU counts, when it is not that which is followed.
    sketch: Sketch,
    room: Room,
    /// Of what came before the first victim was asked for.
    spread: Option<Spread>,
}

impl Adaptive {
    /// Without entries.
    pub fn new(goal: Goal) -> Adaptive {
        Adaptive::beside(Panel::new(goal), goal)
    }

    /// With shadows that see every key of so many entries only.
    #[cfg(test)]
    pub(super) fn with_sample(goal: Goal, entries: u64) -> Adaptive {
        Adaptive::beside(Panel::with_sample(goal, entries), goal)
    }

    fn beside(panel: Panel, goal: Goal) -> Adaptive {
        let which = panel.leader();
        Adaptive {
            goal,
            sides: Twos::new(),
            held: 0,
            lead: Part { policy: Member::new(which, goal), which, entries: 0 },
            side: 0,
            old: None,
            panel,
            sketch: Sketch::new(),
            room: Room::new(),
            spread: Some(Spread::default()),
        }
    }

    /// Chooses what to begin with: the cache is full for the first time.
    #[cold]
    fn begin(&mut self, spread: Spread, of: &dyn Entries) {
        if spread.is_unequal() {
            self.follow(GDSF, of);
        }
    }

    /// Follows another policy, unless the last change is still under way.
    #[cold]
    fn follow(&mut self, which: usize, of: &dyn Entries) {
        match &mut self.old {
            Some(old) if old.which == which => std::mem::swap(&mut self.lead, old),
            Some(_) => return,
            None => {
                let mut policy = Member::new(which, self.goal);
                policy.set_budget(self.room.full(), of);
                if !policy.reserve(self.held) {
                    return;
                }
                let fresh = Part { policy, which, entries: 0 };
                self.old = Some(std::mem::replace(&mut self.lead, fresh));
            }
        }
        self.side ^= 1;
        // From the old one first: both may be W-TinyLFU.
        let parts = [self.old.as_mut(), Some(&mut self.lead)];
        for part in parts.into_iter().flatten() {
            if let Member::Lfu(lfu) = &mut part.policy {
                lfu.swap_sketch(&mut self.sketch);
            }
        }
        self.panel.follow(which);
        self.drop_old();
    }

    #[inline]
    fn count(&mut self, key: Short) {
        if !matches!(self.lead.policy, Member::Lfu(_)) {
            self.sketch.count(key);
        }
    }

    /// Moves a few entries from the old policy to the new one, those first that are worth least.
    #[inline]
    fn go_on(&mut self, of: &dyn Entries) {
        if self.old.is_some() {
            self.move_some(of);
        }
    }

    #[cold]
    fn move_some(&mut self, of: &dyn Entries) {
        for _ in 0..MOVES {
            let Some(old) = &mut self.old else { return };
            let Some(entry) = old.policy.victim(&mut All(of)) else { return };
            self.move_over(entry, of);
        }
    }

    fn move_over(&mut self, entry: Id, of: &dyn Entries) {
        let Some(old) = &mut self.old else { return };
        old.policy.remove(entry, false, of);
        old.entries -= 1;
        self.lead.policy.insert(entry, of);
        self.lead.entries += 1;
        self.sides.set(entry, self.side);
        self.drop_old();
    }

    fn drop_old(&mut self) {
        if self.old.as_ref().is_some_and(|old| old.entries == 0) {
            self.old = None;
        }
    }
}

impl Policy for Adaptive {
    fn reserve(&mut self, entries: u32) -> bool {
        // The old one may be followed again.
        let is_there = self.sides.reserve(entries as usize)
            && self.lead.policy.reserve(entries)
            && self.old.as_mut().is_none_or(|old| old.policy.reserve(entries));
        if is_there {
            self.held = self.held.max(entries);
        }
        is_there
    }

    fn missed(&mut self, key: u64, of: &dyn Entries) {
        self.count(Short::of(key));
        self.lead.policy.missed(key, of);
        self.go_on(of);
        if let Some(rival) = self.panel.missed(Short::of(key)) {
            self.follow(rival, of);
        }
    }

    fn hit(&mut self, entry: Id, of: &dyn Entries) {
        let key = of.key(entry);
        self.count(key);
        if self.old.is_some() && self.sides.get(entry) != self.side {
            self.move_over(entry, of);
        }
        self.lead.policy.hit(entry, of);
        self.go_on(of);
        if let Some(rival) = self.panel.hit(key, of.size(entry)) {
            self.follow(rival, of);
        }
    }

    fn in_use(&mut self, entry: Id, of: &dyn Entries) {
        match &mut self.old {
            Some(old) if self.sides.get(entry) != self.side => old.policy.in_use(entry, of),
            _ => self.lead.policy.in_use(entry, of),
        }
    }

    fn insert(&mut self, entry: Id, of: &dyn Entries) {
        let size = of.size(entry);
        self.sides.set(entry, self.side);
        self.lead.policy.insert(entry, of);
        self.lead.entries += 1;
        self.room.add(size);
        if let Some(spread) = &mut self.spread {
            let room = if self.room.counts_bytes() { size.bytes().max(1) } else { 1 };
            spread.add(self.goal.worth(size.bytes()) as f64 / room as f64);
        }
        if !matches!(self.lead.policy, Member::Lfu(_)) {
            self.sketch.hold(self.room.load.entries);
        }
        self.panel.insert(of.key(entry), size);
        self.panel.has(self.room.load.entries, self.room.full());
    }

    fn remove(&mut self, entry: Id, evicted: bool, of: &dyn Entries) {
        let part = match &mut self.old {
            Some(old) if self.sides.get(entry) != self.side => old,
            _ => &mut self.lead,
        };
        part.policy.remove(entry, evicted, of);
        part.entries -= 1;
        self.room.sub(of.size(entry));
        self.panel.remove(of.key(entry), evicted);
        self.drop_old();
    }

    fn victim(&mut self, of: &mut dyn Leaving) -> Option<Id> {
        self.room.asked();
        self.panel.set_full(self.room.full());
        if let Some(spread) = self.spread.take() {
            self.begin(spread, of);
        }
        let old = self.old.as_mut().and_then(|old| old.policy.victim(of));
        old.or_else(|| self.lead.policy.victim(of))
    }

    fn set_budget(&mut self, budget: Budget, of: &dyn Entries) {
        self.room.set_budget(budget);
        self.lead.policy.set_budget(budget, of);
        self.panel.set_full(self.room.full());
    }

    fn bookkeeping_bytes(&self) -> usize {
        let old = self.old.as_ref().map_or(0, |old| old.policy.bookkeeping_bytes());
        self.sides.bytes()
            + self.lead.policy.bookkeeping_bytes()
            + old
            + self.panel.bytes()
            + self.sketch.bytes()
    }

    fn validate(&self, of: &dyn Entries) -> Result<(), String> {
        self.panel.validate()?;
        self.lead.policy.validate(of)?;
        let old = self.old.as_ref().map_or(0, |old| old.entries);
        if let Some(old) = &self.old {
            old.policy.validate(of)?;
        }
        match self.lead.entries + old == self.room.load.entries {
            true => Ok(()),
            false => Err(format!("{} and {old} entries of {:?}", self.lead.entries, self.room)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Short, Size};
    use super::*;

    /// An entry, and nothing else.
    struct One;

    impl Entries for One {
        fn key(&self, _: Id) -> Short {
            Short::of(7)
        }

        fn size(&self, _: Id) -> Size {
            Size::of(1)
        }
    }

    #[test]
    fn what_was_counted_goes_from_leader_to_leader() {
        for way in [[3, 4, 3], [3, 2, 4], [4, 3, 0], [2, 4, 3]] {
            let mut adaptive = Adaptive::new(Goal::HITS);
            adaptive.set_budget(Budget { bytes: u64::MAX, entries: 10 }, &One);
            assert!(adaptive.reserve(1));
            adaptive.insert(0, &One);
            for (counted, which) in way.into_iter().enumerate() {
                // What the last one has moves on the way.
                (0..3).for_each(|_| adaptive.missed(7, &One));
                assert!(adaptive.old.is_none(), "before {which} in {way:?}");
                adaptive.follow(which, &One);
                let mut sketch = Sketch::new();
                match &mut adaptive.lead.policy {
                    Member::Lfu(lfu) => lfu.swap_sketch(&mut sketch),
                    _ => std::mem::swap(&mut adaptive.sketch, &mut sketch),
                }
                assert_eq!(sketch.estimate(Short::of(7)) as usize, 3 * (counted + 1), "{way:?}");
                match &mut adaptive.lead.policy {
                    Member::Lfu(lfu) => lfu.swap_sketch(&mut sketch),
                    _ => std::mem::swap(&mut adaptive.sketch, &mut sketch),
                }
            }
            adaptive.validate(&One).unwrap();
        }
    }
}
