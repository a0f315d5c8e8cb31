//! What was called: counts always, the sequence on request, and calls that are made to fail.

use std::collections::HashMap;

use crate::code::Code;

/// A call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The entry point.
    pub name: &'static str,
    /// Its arguments as numbers; pointers are addresses.
    pub arguments: Vec<u64>,
}

#[derive(Default)]
struct Row {
    calls: u64,
    /// The numbers of calls that fail, and with what.
    faults: Vec<(u64, Code)>,
}

/// Counts, sequence and faults.
#[derive(Default)]
pub struct Log {
    rows: HashMap<&'static str, Row>,
    kept: Option<Vec<Entry>>,
}

impl Log {
    /// Notes a call; answers the code it has to fail with.
    pub fn note(&mut self, name: &'static str, arguments: &[u64]) -> Option<Code> {
        if let Some(kept) = &mut self.kept {
            kept.push(Entry { name, arguments: arguments.to_vec() });
        }
        let row = self.rows.entry(name).or_default();
        let number = row.calls;
        row.calls += 1;
        let at = row.faults.iter().position(|&(at, _)| at == number)?;
        Some(row.faults.swap_remove(at).1)
    }

    pub fn fail(&mut self, name: &'static str, n: u64, code: Code) {
        let row = self.rows.entry(name).or_default();
        row.faults.push((row.calls + n, code));
    }

    pub fn calls(&self, name: &str) -> u64 {
        self.rows.get(name).map_or(0, |row| row.calls)
    }

    pub fn all(&self) -> u64 {
        self.rows.values().map(|row| row.calls).sum()
    }

    pub fn keep(&mut self) {
        self.kept.get_or_insert_default();
    }

    pub fn take(&mut self) -> Vec<Entry> {
        self.kept.as_mut().map(std::mem::take).unwrap_or_default()
    }
}
