//! Objects of the program whose lives follow graphs, and calls of functions of the host.

use std::cell::Cell;
use std::collections::BTreeMap;

use crate::State;
use crate::code::*;
use crate::graph::Objects;
use crate::work::Call;

struct Object {
    destroy: Call,
    references: u64,
}

/// All objects, by handle.
#[derive(Default)]
pub struct Table {
    rows: BTreeMap<u64, Object>,
    /// What is to be destroyed once the driver is left.
    due: Vec<Call>,
}

thread_local! {
    /// Whether this thread is in a function that the driver called.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is in a function that the driver called, and may therefore not call it.
pub fn inside() -> bool {
    INSIDE.get()
}

impl Call {
    /// Calls the function.
    pub fn make(self) {
        let before = INSIDE.replace(true);
        // SAFETY: who gave the function gave it for this argument.
        unsafe { (self.function)(self.data as *mut _) };
        INSIDE.set(before);
    }
}

impl Table {
    pub fn take_due(&mut self) -> Vec<Call> {
        std::mem::take(&mut self.due)
    }
}

impl State {
    pub fn create_object(&mut self, destroy: Call, references: u64) -> Outcome<u64> {
        if references == 0 || references > i32::MAX as u64 {
            return Err(ERROR_INVALID_VALUE);
        }
        let handle = self.handle();
        self.objects.rows.insert(handle, Object { destroy, references });
        Ok(handle)
    }

    pub fn retain_object(&mut self, object: u64, count: u64) -> Outcome {
        let it = self.objects.rows.get_mut(&object).ok_or(ERROR_INVALID_VALUE)?;
        if count == 0 || count > i32::MAX as u64 {
            return Err(ERROR_INVALID_VALUE);
        }
        it.references += count;
        Ok(())
    }

    pub fn release_object(&mut self, object: u64, count: u64) -> Outcome {
        let it = self.objects.rows.get_mut(&object).ok_or(ERROR_INVALID_VALUE)?;
        if count == 0 || count > it.references {
            return Err(ERROR_INVALID_VALUE);
        }
        it.references -= count;
        if it.references == 0
            && let Some(it) = self.objects.rows.remove(&object)
        {
            self.objects.due.push(it.destroy);
        }
        Ok(())
    }

    /// References of one more graph.
    pub fn retain_objects(&mut self, objects: &Objects) {
        for (&object, &count) in objects {
            // Held by the graph that they are copied from, so they are there.
            let _ = self.retain_object(object, count);
        }
    }

    pub fn release_objects(&mut self, objects: &Objects) {
        for (&object, &count) in objects {
            let _ = self.release_object(object, count);
        }
    }

    /// Gives a graph references to an object: the caller's own if `own`.
    pub fn graph_retain(&mut self, graph: u64, object: u64, count: u64, own: bool) -> Outcome {
        let it = self.objects.rows.get(&object).ok_or(ERROR_INVALID_VALUE)?;
        if !self.graphs.rows.contains_key(&graph) || own && count > it.references {
            return Err(ERROR_INVALID_VALUE);
        }
        if !own {
            self.retain_object(object, count)?;
        }
        if let Some(it) = self.graphs.rows.get_mut(&graph) {
            *it.objects.entry(object).or_default() += count;
        }
        Ok(())
    }

    pub fn graph_release(&mut self, graph: u64, object: u64, count: u64) -> Outcome {
        let it = self.graphs.rows.get_mut(&graph).ok_or(ERROR_INVALID_VALUE)?;
        let held = it.objects.get_mut(&object).ok_or(ERROR_INVALID_VALUE)?;
        *held = held.checked_sub(count).ok_or(ERROR_INVALID_VALUE)?;
        if *held == 0 {
            it.objects.remove(&object);
        }
        self.release_object(object, count)
    }
}
