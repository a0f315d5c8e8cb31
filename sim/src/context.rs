//! Primary contexts, and which one is current to a thread.

use std::cell::{Cell, RefCell};

use crate::State;
use crate::code::{
    ERROR_INVALID_CONTEXT, ERROR_INVALID_DEVICE, ERROR_PEER_ACCESS_ALREADY_ENABLED,
    ERROR_PEER_ACCESS_NOT_ENABLED, ERROR_PEER_ACCESS_UNSUPPORTED, Outcome,
};

/// Contexts of all devices: the handle of device `n` is `FIRST + 16 n`.
pub struct Contexts {
    retained: Vec<u64>,
    /// `reach[a]` has bit `b` if work of device `a` may use plain memory of `b`.
    reach: Vec<u64>,
}

const FIRST: u64 = 0x1_0000;

thread_local! {
    /// The contexts of this thread, the current one last, and the reset they belong to.
    static STACK: RefCell<(u64, Vec<u64>)> = const { RefCell::new((0, Vec::new())) };
}

thread_local! {
    /// The last of them again, for those who ask at every turn.
    static CURRENT: Cell<u64> = const { Cell::new(0) };
}

/// The context that is current to this thread, 0 for none, without a call of the driver.
pub fn current() -> u64 {
    CURRENT.try_with(Cell::get).unwrap_or(0)
}

impl Contexts {
    pub fn new(devices: usize) -> Contexts {
        let reach = (0..devices).map(|device| 1 << device).collect();
        Contexts { retained: vec![0; devices], reach }
    }

    /// Whether work of `from` may use plain memory of `to`.
    pub fn reaches(&self, from: usize, to: usize) -> bool {
        self.reach[from] & 1 << to != 0
    }
}

fn stack<T>(generation: u64, body: impl FnOnce(&mut Vec<u64>) -> T) -> T {
    let own = STACK.try_with(|own| own.take());
    // A thread that is ending has none any more, and may still call.
    let (of, mut stack) = own.unwrap_or_default();
    if of != generation {
        stack.clear();
    }
    let value = body(&mut stack);
    let _ = CURRENT.try_with(|current| current.set(stack.last().copied().unwrap_or(0)));
    let _ = STACK.try_with(|own| own.replace((generation, stack)));
    value
}

impl State {
    pub fn device(&self, device: i32) -> Outcome<usize> {
        let device = usize::try_from(device).map_err(|_| ERROR_INVALID_DEVICE)?;
        if device < self.config.devices { Ok(device) } else { Err(ERROR_INVALID_DEVICE) }
    }

    /// Whether the primary context of a device is there.
    pub fn is_retained(&self, device: i32) -> Outcome<bool> {
        Ok(self.contexts.retained[self.device(device)?] > 0)
    }

    /// The device of a context that is retained.
    pub fn context_device(&self, context: u64) -> Outcome<usize> {
        let device = context.wrapping_sub(FIRST) / 16;
        let live = context.is_multiple_of(16)
            && self.contexts.retained.get(device as usize).is_some_and(|&count| count > 0);
        if live { Ok(device as usize) } else { Err(ERROR_INVALID_CONTEXT) }
    }

    /// The context of a device.
    pub fn context_of(device: usize) -> u64 {
        FIRST + 16 * device as u64
    }

    /// The context that is current to this thread, 0 for none.
    pub fn current(&self) -> u64 {
        stack(self.generation, |stack| stack.last().copied().unwrap_or(0))
    }

    /// The device whose context is current.
    pub fn current_device(&self) -> Outcome<usize> {
        self.context_device(self.current())
    }

    pub fn retain(&mut self, device: i32) -> Outcome<u64> {
        let device = self.device(device)?;
        self.contexts.retained[device] += 1;
        Ok(State::context_of(device))
    }

    pub fn release(&mut self, device: i32) -> Outcome {
        let device = self.device(device)?;
        let count = &mut self.contexts.retained[device];
        *count = count.checked_sub(1).ok_or(ERROR_INVALID_CONTEXT)?;
        Ok(())
    }

    pub fn push(&mut self, context: u64) -> Outcome {
        self.context_device(context)?;
        stack(self.generation, |stack| stack.push(context));
        Ok(())
    }

    pub fn pop(&mut self) -> Outcome<u64> {
        stack(self.generation, |stack| stack.pop().ok_or(ERROR_INVALID_CONTEXT))
    }

    /// Takes the place of the current context; 0 leaves none.
    pub fn set_current(&mut self, context: u64) -> Outcome {
        if context != 0 {
            self.context_device(context)?;
        }
        stack(self.generation, |stack| {
            stack.pop();
            if context != 0 {
                stack.push(context);
            }
        });
        Ok(())
    }

    pub fn disable_peer(&mut self, peer: u64) -> Outcome {
        let from = self.current_device()?;
        let to = self.context_device(peer)?;
        if from == to || !self.contexts.reaches(from, to) {
            return Err(ERROR_PEER_ACCESS_NOT_ENABLED);
        }
        self.contexts.reach[from] &= !(1 << to);
        Ok(())
    }

    pub fn enable_peer(&mut self, peer: u64) -> Outcome {
        let from = self.current_device()?;
        let to = self.context_device(peer)?;
        if from == to || !self.config.reaches(from, to) {
            return Err(ERROR_PEER_ACCESS_UNSUPPORTED);
        }
        if self.contexts.reaches(from, to) {
            return Err(ERROR_PEER_ACCESS_ALREADY_ENABLED);
        }
        self.contexts.reach[from] |= 1 << to;
        Ok(())
    }
}
