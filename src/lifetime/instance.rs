//! What is to be placed.

use std::collections::HashMap;

use crate::error::{Result, fail};

/// One tensor: bytes that live from `lower` until just before `upper`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Its name; no other tensor of the instance has it.
    pub id: u64,
    /// When it begins to live.
    pub lower: u64,
    /// When it no longer lives; above `lower`.
    pub upper: u64,
    /// Bytes, at least 1.
    pub size: u64,
    /// Its offset is a multiple of this power of two.
    pub alignment: u64,
    /// Where it has to be, if that is not for the planner to choose.
    pub offset: Option<u64>,
    /// The tensor in whose place it may be written, by id. The two may overlap, but only
    /// from the same offset on.
    pub alias: Option<u64>,
}

impl Tensor {
    /// A tensor that may be anywhere.
    pub const fn new(id: u64, lower: u64, upper: u64, size: u64) -> Tensor {
        Tensor { id, lower, upper, size, alignment: 1, offset: None, alias: None }
    }
}

/// Tensors that share an arena.
#[derive(Clone, Debug, Default)]
pub struct Instance {
    tensors: Vec<Tensor>,
    places: HashMap<u64, u32>,
    /// All sizes, rounded up to their alignment: an arena in which they lie side by side.
    total: u64,
}

/// All sizes together, and the end of what is fixed, are at most this, an exbibyte: sums of a few
/// offsets never overflow.
const TOTAL_MAX: u64 = 1 << 60;

impl Instance {
    /// The most tensors of an instance.
    pub const MAX_TENSORS: usize = 1 << 30;

    /// An instance without tensors.
    pub fn new() -> Instance {
        Instance::default()
    }

    /// Adds `tensor`.
    ///
    /// # Errors
    /// `InvalidArgument` when it ends before it begins, has no bytes, an id that is taken, an
    /// alignment that is no power of two, an offset that does not fit its alignment, or an
    /// alias that is not known yet; when all bytes together are more than an exbibyte; when there
    /// are [`Instance::MAX_TENSORS`] already.
    pub fn add(&mut self, tensor: Tensor) -> Result<()> {
        let Tensor { id, lower, upper, size, alignment, offset, alias } = tensor;
        if upper <= lower {
            return Err(fail!(
                InvalidArgument,
                "tensor {id}: upper is {upper}; it must be above lower, which is {lower}"
            ));
        }
        if size == 0 {
            return Err(fail!(InvalidArgument, "tensor {id}: size is 0; it must be at least 1"));
        }
        if !alignment.is_power_of_two() {
            return Err(fail!(
                InvalidArgument,
                "tensor {id}: alignment is {alignment}; it must be a power of two"
            ));
        }
        if let Some(offset) = offset.filter(|offset| !offset.is_multiple_of(alignment)) {
            return Err(fail!(
                InvalidArgument,
                "tensor {id}: offset is {offset}, which is no multiple of its alignment {alignment}"
            ));
        }
        if let Some(alias) = alias.filter(|alias| !self.places.contains_key(alias)) {
            return Err(fail!(
                InvalidArgument,
                "tensor {id}: alias is {alias}; no tensor before it has that id"
            ));
        }
        if self.tensors.len() >= Instance::MAX_TENSORS {
            let most = Instance::MAX_TENSORS;
            return Err(fail!(InvalidArgument, "tensor {id}: there are {most} already, the limit"));
        }
        let end = |from: u64| from.checked_add(size)?.checked_add(alignment - 1);
        let total = end(self.total).filter(|&total| total <= TOTAL_MAX);
        // What is fixed may lie high, and everything else above it.
        let reach = offset.map_or(Some(0), |offset| end(offset).filter(|end| *end <= TOTAL_MAX));
        let (Some(total), Some(_)) = (total, reach) else {
            return Err(fail!(
                InvalidArgument,
                "tensor {id}: size {size}, with alignment {alignment}, behind offset {} or all \
                 sizes before it, {}, is beyond the limit {TOTAL_MAX}",
                offset.unwrap_or(0),
                self.total
            ));
        };
        if self.places.contains_key(&id) {
            return Err(fail!(InvalidArgument, "tensor {id}: its id is that of another tensor"));
        }
        let full = || fail!(OutOfMemory, "no memory for another tensor");
        self.tensors.try_reserve(1).map_err(|_| full())?;
        self.places.try_reserve(1).map_err(|_| full())?;
        self.places.insert(id, self.tensors.len() as u32);
        self.tensors.push(tensor);
        self.total = total;
        Ok(())
    }

    /// The tensors, in the order in which they were added.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The place in [`Instance::tensors`] of the tensor `id`.
    pub fn place_of(&self, id: u64) -> Option<usize> {
        self.places.get(&id).map(|&place| place as usize)
    }

    /// All sizes, each with what its alignment may cost.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Times to sweep over: the tensors in the order in which they begin and end. What ends
    /// at a time comes before what begins there.
    pub(super) fn events(&self) -> Vec<Event> {
        let mut events = Vec::with_capacity(2 * self.tensors.len());
        for (place, tensor) in self.tensors.iter().enumerate() {
            let place = place as u32;
            events.push(Event { time: tensor.lower, begins: true, place });
            events.push(Event { time: tensor.upper, begins: false, place });
        }
        events.sort_unstable();
        events
    }
}

/// A tensor begins or ends to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Event {
    pub(super) time: u64,
    pub(super) begins: bool,
    pub(super) place: u32,
}
