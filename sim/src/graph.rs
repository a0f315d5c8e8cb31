//! Graphs: work that was captured, and runs of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::State;
use crate::code::*;
use crate::order::{Clock, What};
use crate::stream::Point;
use crate::work::{Call, Place, Work};

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
    /// A function of the host.
    Host(Call),
}

/// A task, the stream that it was captured from, and the nodes before it.
#[derive(Clone)]
pub struct Node {
    pub handle: u64,
    pub stream: u64,
    pub device: usize,
    pub after: Vec<usize>,
    pub task: Task,
}

/// References to objects of the program, and how many of each.
pub type Objects = BTreeMap<u64, u64>;

/// Nodes, each after those that it depends on.
#[derive(Default)]
pub struct Graph {
    /// Whether the capture that makes it is at an end.
    pub whole: bool,
    pub nodes: Vec<Node>,
    pub objects: Objects,
}

/// A graph that can run.
struct Exec {
    nodes: Arc<[Node]>,
    /// For each stream that was captured, one that runs its nodes, once there is one.
    branches: BTreeMap<u64, u64>,
    /// The end of its last run, which the next one waits for.
    last: Option<(Point, Clock)>,
    objects: Objects,
}

/// All graphs, by handle.
#[derive(Default)]
pub struct Graphs {
    pub rows: BTreeMap<u64, Graph>,
    execs: BTreeMap<u64, Exec>,
}

impl State {
    /// A graph is gone.
    pub fn drop_graph(&mut self, graph: u64) {
        if let Some(it) = self.graphs.rows.remove(&graph) {
            self.release_objects(&it.objects);
        }
    }

    fn graph(&self, graph: u64) -> Outcome<&Graph> {
        // Before the end of a capture its graph is only to be looked at.
        self.graphs.rows.get(&graph).filter(|it| it.whole).ok_or(ERROR_INVALID_VALUE)
    }

    /// The nodes of a graph, in the order of their capture.
    pub fn nodes(&self, graph: u64) -> Outcome<Vec<u64>> {
        Ok(self.graph(graph)?.nodes.iter().map(|node| node.handle).collect())
    }

    pub fn destroy_graph(&mut self, graph: u64) -> Outcome {
        self.graph(graph)?;
        self.drop_graph(graph);
        Ok(())
    }

    pub fn instantiate(&mut self, graph: u64) -> Outcome<u64> {
        let it = self.graph(graph)?;
        let (nodes, objects) = (it.nodes.clone().into(), it.objects.clone());
        self.retain_objects(&objects);
        let handle = self.handle();
        let exec = Exec { nodes, branches: BTreeMap::new(), last: None, objects };
        self.graphs.execs.insert(handle, exec);
        Ok(handle)
    }

    /// What runs goes on, and keeps its objects until it is done.
    pub fn destroy_exec(&mut self, exec: u64) -> Outcome {
        let it = self.graphs.execs.remove(&exec).ok_or(ERROR_INVALID_VALUE)?;
        let running = it.last.filter(|(point, _)| !self.is_done(*point));
        match (running, it.branches.values().next()) {
            (Some((point, _)), Some(&branch)) => {
                self.enqueue(branch, vec![point], 0, Work::Release(it.objects));
            }
            _ => self.release_objects(&it.objects),
        }
        for branch in it.branches.into_values() {
            self.end_stream(branch)?;
        }
        Ok(())
    }

    /// The branch of an executable graph for what was captured from a stream.
    fn branch(&mut self, exec: u64, node: &Node) -> Outcome<u64> {
        let it = self.graphs.execs.get(&exec).ok_or(ERROR_INVALID_VALUE)?;
        if let Some(&branch) = it.branches.get(&node.stream) {
            return Ok(branch);
        }
        let branch = self.add_stream(node.device, "branch of a graph", false);
        if let Some(it) = self.graphs.execs.get_mut(&exec) {
            it.branches.insert(node.stream, branch);
        }
        Ok(branch)
    }

    /// Runs a graph behind the work of a stream and behind its own last run. What has no order
    /// in the graph has none here.
    pub fn launch_graph(&mut self, exec: u64, stream: u64) -> Outcome {
        let key = self.stream_key(stream)?;
        let it = self.graphs.execs.get(&exec).ok_or(ERROR_INVALID_VALUE)?;
        let (nodes, last) = (Arc::clone(&it.nodes), it.last.clone());
        if self.capture_of(key)?.is_some() {
            self.refuse_capture(key)?;
        }
        let begin = self.after_all(key, last.into_iter().collect(), What::Begin(exec))?;
        let mut done: Vec<(Point, Clock)> = Vec::new();
        let mut tail: BTreeMap<u64, usize> = BTreeMap::new();
        for (n, node) in nodes.iter().enumerate() {
            let branch = self.branch(exec, node)?;
            // Behind the one before it in its branch it is without a wait.
            let next = matches!(node.after[..], [n] if tail.get(&branch) == Some(&n));
            if !next {
                let mut before: Vec<_> = node.after.iter().map(|&n| done[n].clone()).collect();
                if node.after.is_empty() {
                    before.push(begin.clone());
                }
                self.after_all(branch, before, What::Branch(exec))?;
            }
            let point = self.start(branch, &node.task)?;
            done.push((point, self.now_of(branch)?));
            tail.insert(branch, n);
        }
        let before = tail.into_values().map(|n| done[n].clone()).collect();
        let end = self.after_all(key, before, What::End(exec))?;
        if let Some(it) = self.graphs.execs.get_mut(&exec) {
            it.last = Some(end);
        }
        Ok(())
    }

    /// The clock of what a stream has queued.
    fn now_of(&self, key: u64) -> Outcome<Clock> {
        Ok(self.order.clock(self.stream(key)?.slot).clone())
    }

    /// An operation of a stream that waits for all these; where it is.
    fn after_all(
        &mut self,
        key: u64,
        before: Vec<(Point, Clock)>,
        what: What,
    ) -> Outcome<(Point, Clock)> {
        let slot = self.stream(key)?.slot;
        for (_, clock) in &before {
            self.order.join(slot, clock);
        }
        let (_, mut after) = self.place(key, what)?;
        after.extend(before.iter().map(|&(point, _)| point));
        let point = self.enqueue(key, after, 0, Work::Nothing);
        Ok((point, self.now_of(key)?))
    }
}
