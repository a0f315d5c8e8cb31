//! What lives when, as it is recorded: by steps that use tensors, by allocations and frees, or
//! from a trace.

use std::collections::HashMap;

use super::instance::{Instance, Tensor};
use crate::error::{Error, Result, fail};
use crate::trace::{Checker, Meaning, Trace};

/// One tensor, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    id: u64,
    size: u64,
    alignment: u64,
    offset: Option<u64>,
    alias: Option<u64>,
    /// When it was allocated, or used first.
    begin: u64,
    /// When it was used last, and how often it was used.
    last_use: u64,
    uses: u64,
    /// When it was freed; none while it lives, and for one that was only ever used.
    freed: Option<u64>,
    allocated: bool,
}

/// Lifetimes of the tensors of a program.
///
/// A tensor that [`Lifetime::record`] saw lives from the step of its first use to that of its
/// last, both included. One that was allocated lives until it is freed; what is never freed
/// lives to the end.
#[derive(Clone, Debug, Default)]
pub struct Lifetime {
    known: Vec<Known>,
    places: HashMap<u64, u32>,
    now: u64,
}

/// What could be better in a program, by bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Suggestions {
    /// Tensors.
    pub tensors: u64,
    /// Steps or times from the first to the last, both included.
    pub steps: u64,
    /// The bytes of all tensors.
    pub total_bytes: u64,
    /// The peak of live bytes.
    pub peak_bytes: u64,
    /// What a plan needs.
    pub planned_bytes: u64,
    /// Bytes that need not be there: all less what a plan needs.
    pub reusable_bytes: u64,
    /// Tensors that live for at most a tenth of the time.
    pub temporary_tensors: u64,
    /// Their bytes.
    pub temporary_bytes: u64,
    /// Tensors that live for at least nine tenths of it.
    pub long_lived_tensors: u64,
    /// Their bytes.
    pub long_lived_bytes: u64,
    /// Tensors that were allocated and never used after.
    pub never_read_tensors: u64,
    /// Their bytes.
    pub never_read_bytes: u64,
    /// Tensors that were freed later than their last use.
    pub free_earlier_tensors: u64,
    /// Their bytes.
    pub free_earlier_bytes: u64,
    /// By how much the peak of live bytes would sink if they were freed after their last use.
    pub free_earlier_peak_bytes: u64,
}

impl Lifetime {
    /// Nothing recorded.
    pub fn new() -> Lifetime {
        Lifetime::default()
    }

    /// How many tensors there are.
    pub fn tensors(&self) -> usize {
        self.known.len()
    }

    /// The tensor `id` of `bytes` is used in `step`.
    ///
    /// # Errors
    /// `InvalidArgument` when `step` is before the last one, `bytes` are zero or not those of
    /// its first use; `InvalidState` when it was freed.
    pub fn record(&mut self, step: u64, id: u64, bytes: u64) -> Result<()> {
        self.check_time(step)?;
        let Some(&place) = self.places.get(&id) else {
            self.add(step, id, bytes, false)?;
            self.known_mut(id)?.uses = 1;
            self.now = step;
            return Ok(());
        };
        let known = self.known[place as usize];
        if bytes != known.size {
            return Err(fail!(
                InvalidArgument,
                "tensor {id}: bytes is {bytes}; at first it was {}",
                known.size
            ));
        }
        if let Some(freed) = known.freed {
            return Err(fail!(InvalidState, "tensor {id}: used at {step}, but freed at {freed}"));
        }
        let known = &mut self.known[place as usize];
        known.last_use = step;
        known.uses += 1;
        self.now = step;
        Ok(())
    }

    /// The tensor `id` of `bytes` begins to live at `time`.
    ///
    /// # Errors
    /// `InvalidArgument` when `time` is before the last one, `bytes` are zero, or `id` is known.
    pub fn record_alloc(&mut self, time: u64, id: u64, bytes: u64) -> Result<()> {
        self.check_time(time)?;
        self.add(time, id, bytes, true)?;
        self.now = time;
        Ok(())
    }

    /// The tensor `id` no longer lives at `time`.
    ///
    /// # Errors
    /// `InvalidArgument` when `time` is before the last one or not after the allocation, or
    /// `id` is not known; `InvalidState` when it was freed before.
    pub fn record_free(&mut self, time: u64, id: u64) -> Result<()> {
        self.check_time(time)?;
        let known = self.known_mut(id)?;
        if let Some(freed) = known.freed {
            return Err(fail!(
                InvalidState,
                "tensor {id}: freed at {time}, and before that at {freed}"
            ));
        }
        if time <= known.last_use.max(known.begin) && (known.uses > 0 || time <= known.begin) {
            return Err(fail!(
                InvalidArgument,
                "tensor {id}: freed at {time}, but allocated or used at {}; a free comes after",
                known.last_use.max(known.begin)
            ));
        }
        known.freed = Some(time);
        self.now = time;
        Ok(())
    }

    /// The offset of `id` is a multiple of `alignment`.
    ///
    /// # Errors
    /// `InvalidArgument` when `id` is not known or `alignment` no power of two.
    pub fn align(&mut self, id: u64, alignment: u64) -> Result<()> {
        if !alignment.is_power_of_two() {
            return Err(fail!(
                InvalidArgument,
                "tensor {id}: alignment is {alignment}; it must be a power of two"
            ));
        }
        self.known_mut(id)?.alignment = alignment;
        Ok(())
    }

    /// `id` has to be at `offset`.
    ///
    /// # Errors
    /// `InvalidArgument` when `id` is not known.
    pub fn fix(&mut self, id: u64, offset: u64) -> Result<()> {
        self.known_mut(id)?.offset = Some(offset);
        Ok(())
    }

    /// `id` may be written in the place of `with`, which was recorded before it.
    ///
    /// # Errors
    /// `InvalidArgument` when one is not known, or `with` came later.
    pub fn alias(&mut self, id: u64, with: u64) -> Result<()> {
        let (with_place, place) = (self.place_of(with)?, self.place_of(id)?);
        if with_place >= place {
            return Err(fail!(
                InvalidArgument,
                "tensor {id}: its alias {with} has to be recorded before it"
            ));
        }
        self.known[place as usize].alias = Some(with);
        Ok(())
    }

    /// Adds the blocks of `trace`: times are its rows, ids count from `first_id`, sizes are
    /// rounded up to `alignment`.
    ///
    /// # Errors
    /// `MalformedTrace` when it frees what it never allocated, `InvalidArgument` as
    /// [`Lifetime::record_alloc`].
    pub fn add_trace(&mut self, trace: &Trace, first_id: u64, alignment: u64) -> Result<()> {
        let mut checker = Checker::new();
        let (mut in_slot, mut id, mut time) = (Vec::new(), first_id, self.now);
        for (index, event) in trace.events.iter().enumerate() {
            match checker.check(Trace::line_of(index), event) {
                // A block without bytes needs no place.
                Meaning::Allocate { slot } => {
                    in_slot.resize(in_slot.len().max(slot + 1), None);
                    in_slot[slot] = None;
                    if event.size > 0 {
                        let Some(size) = event.size.checked_next_multiple_of(alignment) else {
                            return Err(fail!(InvalidArgument, "{} bytes", event.size));
                        };
                        self.record_alloc(time, id, size)?;
                        self.align(id, alignment)?;
                        in_slot[slot] = Some(id);
                        id += 1;
                    }
                    time += 1;
                }
                Meaning::Free { slot } => {
                    if let Some(id) = in_slot.get_mut(slot).and_then(Option::take) {
                        self.record_free(time, id)?;
                    }
                    time += 1;
                }
                Meaning::Nothing => {}
            }
        }
        self.now = time;
        checker.faults().check(&trace.path)
    }

    /// Adds the tensors of `instance`, as if each had been allocated and freed at its times.
    ///
    /// # Errors
    /// `InvalidArgument` when an id is known.
    pub fn add_instance(&mut self, instance: &Instance) -> Result<()> {
        let known = |tensor: &&Tensor| self.places.contains_key(&tensor.id);
        if let Some(tensor) = instance.tensors().iter().find(known) {
            return Err(fail!(InvalidArgument, "tensor {}: it was recorded before", tensor.id));
        }
        for tensor in instance.tensors() {
            self.add(tensor.lower, tensor.id, tensor.size, true)?;
            let known = self.known_mut(tensor.id)?;
            known.freed = Some(tensor.upper);
            (known.alignment, known.offset) = (tensor.alignment, tensor.offset);
            known.alias = tensor.alias;
            self.now = self.now.max(tensor.upper);
        }
        Ok(())
    }

    /// What there is to plan.
    ///
    /// # Errors
    /// `InvalidArgument` when all bytes together are beyond the limit of [`Instance::add`].
    pub fn instance(&self) -> Result<Instance> {
        self.instance_with(|known| self.upper(known))
    }

    fn instance_with(&self, upper: impl Fn(&Known) -> u64) -> Result<Instance> {
        let mut instance = Instance::new();
        for known in &self.known {
            let &Known { id, begin, size, alignment, offset, alias, .. } = known;
            let upper = upper(known);
            instance.add(Tensor { id, lower: begin, upper, size, alignment, offset, alias })?;
        }
        Ok(instance)
    }

    /// When a tensor no longer lives.
    fn upper(&self, known: &Known) -> u64 {
        match known.freed {
            Some(freed) => freed,
            None if known.allocated => self.now.saturating_add(1),
            None => known.last_use.saturating_add(1),
        }
    }

    /// What could be better, given that a plan needs `planned_bytes`.
    ///
    /// # Errors
    /// As [`Lifetime::instance`].
    pub fn suggest(&self, planned_bytes: u64) -> Result<Suggestions> {
        let instance = self.instance()?;
        let begin = self.known.iter().map(|known| known.begin).min().unwrap_or(0);
        let end = self.known.iter().map(|known| self.upper(known)).max().unwrap_or(0);
        let (steps, total_bytes) = (end - begin, self.known.iter().map(|known| known.size).sum());
        let mut found = Suggestions {
            tensors: self.known.len() as u64,
            steps,
            total_bytes,
            peak_bytes: super::sweep::lower_bound(&instance),
            planned_bytes,
            reusable_bytes: u64::saturating_sub(total_bytes, planned_bytes),
            ..Suggestions::default()
        };
        let used = self.known.iter().any(|known| known.uses > 0);
        for known in &self.known {
            let lived = self.upper(known) - known.begin;
            if lived <= steps / 10 {
                found.temporary_tensors += 1;
                found.temporary_bytes += known.size;
            }
            if lived >= steps - steps / 10 {
                found.long_lived_tensors += 1;
                found.long_lived_bytes += known.size;
            }
            // Where uses were not recorded at all, nothing can be said of them.
            if used && known.allocated && known.uses == 0 {
                found.never_read_tensors += 1;
                found.never_read_bytes += known.size;
            }
            if known.uses > 0 && self.upper(known) > known.last_use + 1 {
                found.free_earlier_tensors += 1;
                found.free_earlier_bytes += known.size;
            }
        }
        let earlier = self.instance_with(|known| match known.uses {
            0 => self.upper(known),
            _ => self.upper(known).min(known.last_use + 1),
        })?;
        found.free_earlier_peak_bytes = found.peak_bytes - super::sweep::lower_bound(&earlier);
        Ok(found)
    }

    fn check_time(&self, time: u64) -> Result<()> {
        if time < self.now || time == u64::MAX {
            return Err(fail!(
                InvalidArgument,
                "time is {time}; it must be at least {}, the last one, and below 2^64 - 1",
                self.now
            ));
        }
        Ok(())
    }

    fn add(&mut self, begin: u64, id: u64, size: u64, allocated: bool) -> Result<()> {
        if size == 0 {
            return Err(fail!(InvalidArgument, "tensor {id}: bytes is 0; it must be at least 1"));
        }
        if self.places.contains_key(&id) {
            return Err(fail!(InvalidArgument, "tensor {id}: it was allocated before"));
        }
        if self.known.len() >= Instance::MAX_TENSORS {
            let most = Instance::MAX_TENSORS;
            return Err(fail!(InvalidArgument, "tensor {id}: there are {most} already, the limit"));
        }
        let full = || -> Error { fail!(OutOfMemory, "no memory for another tensor") };
        self.known.try_reserve(1).map_err(|_| full())?;
        self.places.try_reserve(1).map_err(|_| full())?;
        self.places.insert(id, self.known.len() as u32);
        self.known.push(Known {
            id,
            size,
            alignment: 1,
            offset: None,
            alias: None,
            begin,
            last_use: begin,
            uses: 0,
            freed: None,
            allocated,
        });
        Ok(())
    }

    fn place_of(&self, id: u64) -> Result<u32> {
        let unknown = || fail!(InvalidArgument, "tensor {id}: nothing was recorded of it");
        self.places.get(&id).copied().ok_or_else(unknown)
    }

    fn known_mut(&mut self, id: u64) -> Result<&mut Known> {
        let place = self.place_of(id)?;
        Ok(&mut self.known[place as usize])
    }
}
