//! Graphs: work that was captured.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::State;
use crate::work::Place;

/// What an operation does, before it has a place in a stream.
#[derive(Clone)]
pub enum Task {
    Kernel {
        name: Arc<str>,
        reads: Vec<(u64, u64)>,
        writes: Vec<(u64, u64)>,
        ns: u64,
        fill: Option<u8>,
    },
    Copy {
        to: Place,
        from: Place,
        bytes: u64,
    },
    Set {
        to: u64,
        value: u8,
        bytes: u64,
    },
}

/// A task, the stream that it was captured from, and the nodes before it.
#[derive(Clone)]
pub struct Node {
    pub handle: u64,
    pub stream: u64,
    pub after: Vec<usize>,
    pub task: Task,
}

/// Nodes, each after those that it depends on.
#[derive(Default)]
pub struct Graph {
    /// The stream that the capture began in.
    pub origin: u64,
    pub nodes: Vec<Node>,
}

/// All graphs, by handle.
#[derive(Default)]
pub struct Graphs {
    pub rows: BTreeMap<u64, Graph>,
}

impl State {
    /// A graph is gone.
    pub fn drop_graph(&mut self, graph: u64) {
        self.graphs.rows.remove(&graph);
    }
}
