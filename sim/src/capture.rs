//! Capture: what is queued to a stream becomes nodes of a graph, and is not run.
//!
//! Which calls are illegal meanwhile depends on the mode of each capture and of each thread.
//! An illegal call invalidates the captures that it disturbs.

use std::cell::Cell;
use std::collections::BTreeMap;

use crate::State;
use crate::code::*;
use crate::graph::{Graph, Node, Task};
use crate::stream::{Stream, thread};

/// Modes of captures and of threads.
const GLOBAL: u32 = 0;
const RELAXED: u32 = 2;

/// A capture under way.
struct Capture {
    /// The stream that it began in.
    origin: u64,
    mode: u32,
    /// The thread that began it.
    thread: u64,
    invalid: bool,
    graph: u64,
    nodes: Vec<Node>,
    /// For each stream in it, the nodes that the next one comes after.
    streams: BTreeMap<u64, Vec<usize>>,
    /// What `cuStreamGetCaptureInfo_v2` pointed its caller to.
    shown: Vec<u64>,
}

/// Captures under way, by their ids, which no other had.
#[derive(Default)]
pub struct Captures(BTreeMap<u64, Capture>);

/// What a captured event stands for: a capture and nodes of it.
#[derive(Clone)]
pub struct Mark {
    capture: u64,
    nodes: Vec<usize>,
}

/// What `cuStreamGetCaptureInfo_v2` answers; the last two are an address and a count.
pub struct Info {
    pub status: u32,
    pub id: u64,
    pub graph: u64,
    pub nodes: (*const u64, usize),
}

thread_local! {
    /// The mode of this thread, and the reset it belongs to.
    static MODE: Cell<(u64, u32)> = const { Cell::new((0, GLOBAL)) };
}

/// Calls that may do something to a device behind the streams, and are therefore illegal
/// for threads that are not in relaxed mode. Those that wait, ask or use the legacy stream are
/// so too, and are looked at where what they wait for is known.
fn is_unsafe(name: &str) -> bool {
    matches!(
        name,
        "cuMemAlloc_v2"
            | "cuMemFree_v2"
            | "cuMemAllocHost_v2"
            | "cuMemHostAlloc"
            | "cuMemFreeHost"
            | "cuMemHostRegister_v2"
            | "cuMemHostUnregister"
            | "cuMemCreate"
            | "cuMemMap"
            | "cuMemUnmap"
            | "cuMemSetAccess"
    )
}

impl State {
    /// Sets the capture mode of this thread; gives the one before.
    pub fn exchange_mode(&self, new: u32) -> u32 {
        let (generation, old) = MODE.replace((self.generation, new));
        if generation == self.generation { old } else { GLOBAL }
    }

    fn mode(&self) -> u32 {
        let (generation, mode) = MODE.get();
        if generation == self.generation { mode } else { GLOBAL }
    }

    /// Ends the use of captures for which `which` is true; whether there are any.
    fn invalidate(&mut self, which: impl Fn(&Capture) -> bool) -> bool {
        let mut any = false;
        for capture in self.captures.0.values_mut().filter(|capture| which(capture)) {
            capture.invalid = true;
            any = true;
        }
        any
    }

    /// Whether this thread may make this call with regard to all captures.
    pub fn allow(&mut self, name: &str) -> Outcome {
        if is_unsafe(name) { self.allow_unsafe() } else { Ok(()) }
    }

    /// Whether this thread may make calls that are unsafe.
    pub fn allow_unsafe(&mut self) -> Outcome {
        if self.captures.0.is_empty() {
            return Ok(());
        }
        let (mode, thread) = (self.mode(), thread());
        let disturbed = self.invalidate(|capture| match mode {
            RELAXED => false,
            GLOBAL if capture.mode == GLOBAL => true,
            _ => capture.thread == thread && capture.mode != RELAXED,
        });
        if disturbed { Err(ERROR_STREAM_CAPTURE_UNSUPPORTED) } else { Ok(()) }
    }

    /// Whether the stream is a legacy one that other streams' captures block.
    fn implicit(&self, key: u64) -> bool {
        let Some(device) = self.legacy_device(key) else { return false };
        let blocks =
            |&key: &u64| self.stream(key).is_ok_and(|row| row.device == device && row.blocking);
        self.captures.0.values().any(|capture| capture.streams.keys().any(blocks))
    }

    /// The capture that a stream is in, if it is in one.
    fn capture_in(&self, key: u64) -> Option<(u64, &Capture)> {
        let mut all = self.captures.0.iter();
        all.find(|(_, it)| it.streams.contains_key(&key)).map(|(&id, it)| (id, it))
    }

    /// The capture that an operation of a stream goes to, if any.
    pub fn capture_of(&mut self, key: u64) -> Outcome<Option<u64>> {
        if self.captures.0.is_empty() {
            return Ok(None);
        }
        self.refuse_legacy(key)?;
        match self.capture_in(key) {
            Some((_, capture)) if capture.invalid => Err(ERROR_STREAM_CAPTURE_INVALIDATED),
            found => Ok(found.map(|(id, _)| id)),
        }
    }

    /// A legacy stream is not for use while a stream that it is in order with captures.
    fn refuse_legacy(&mut self, key: u64) -> Outcome {
        if !self.implicit(key) {
            return Ok(());
        }
        let device = self.stream(key)?.device;
        let blocking: Vec<u64> = self.blocking_streams(device);
        self.invalidate(|capture| blocking.iter().any(|key| capture.streams.contains_key(key)));
        Err(ERROR_STREAM_CAPTURE_IMPLICIT)
    }

    /// The host may not wait for a stream that captures, nor ask for its progress.
    pub fn refuse_to_wait(&mut self, key: u64) -> Outcome {
        self.refuse_capture(key)?;
        self.allow_unsafe()
    }

    /// What cannot be done with a stream that captures.
    pub fn refuse_capture(&mut self, key: u64) -> Outcome {
        if self.captures.0.is_empty() {
            return Ok(());
        }
        self.refuse_legacy(key)?;
        if self.invalidate(|capture| capture.streams.contains_key(&key)) {
            return Err(ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        Ok(())
    }

    /// Nor for the device of one.
    pub fn refuse_capture_on(&mut self, device: usize) -> Outcome {
        let keys: Vec<u64> = self.device_streams(device);
        if self.invalidate(|capture| keys.iter().any(|key| capture.streams.contains_key(key))) {
            return Err(ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        self.allow_unsafe()
    }

    /// Nor for an event that was last recorded in one.
    pub fn refuse_captured(&mut self, mark: &Mark) -> Code {
        if let Some(capture) = self.captures.0.get_mut(&mark.capture) {
            capture.invalid = true;
        }
        ERROR_CAPTURED_EVENT
    }

    /// Puts a node at the end of what the stream has captured.
    pub fn add_node(&mut self, id: u64, key: u64, task: Task) {
        let handle = self.handle();
        let Ok(&Stream { device, .. }) = self.stream(key) else { return };
        let Some(capture) = self.captures.0.get_mut(&id) else { return };
        let Some(last) = capture.streams.get_mut(&key) else { return };
        let after = std::mem::replace(last, vec![capture.nodes.len()]);
        capture.nodes.push(Node { handle, stream: key, device, after, task });
    }

    /// What an event that is recorded in a capturing stream stands for.
    pub fn mark(&self, id: u64, key: u64) -> Option<Mark> {
        let nodes = self.captures.0.get(&id)?.streams.get(&key)?.clone();
        Some(Mark { capture: id, nodes })
    }

    /// A stream waits for an event that was recorded in a capture: it joins that.
    pub fn join_capture(&mut self, key: u64, mark: &Mark) -> Outcome {
        let (mine, legacy) = (self.capture_of(key)?, self.legacy_device(key).is_some());
        let capture = self.captures.0.get_mut(&mark.capture).ok_or(ERROR_CAPTURED_EVENT)?;
        if capture.invalid {
            return Err(ERROR_STREAM_CAPTURE_INVALIDATED);
        }
        if mine.is_some_and(|mine| mine != mark.capture) {
            let both = [mine.unwrap_or(0), mark.capture];
            for id in both {
                if let Some(capture) = self.captures.0.get_mut(&id) {
                    capture.invalid = true;
                }
            }
            return Err(ERROR_STREAM_CAPTURE_MERGE);
        }
        if legacy {
            capture.invalid = true;
            return Err(ERROR_STREAM_CAPTURE_IMPLICIT);
        }
        let last = capture.streams.entry(key).or_default();
        last.extend(&mark.nodes);
        last.sort_unstable();
        last.dedup();
        Ok(())
    }

    /// A capturing stream waits for work that is not captured.
    pub fn isolate(&mut self, id: u64) -> Code {
        if let Some(capture) = self.captures.0.get_mut(&id) {
            capture.invalid = true;
        }
        ERROR_STREAM_CAPTURE_ISOLATION
    }

    pub fn begin_capture(&mut self, stream: u64, mode: u32) -> Outcome {
        let key = self.stream_key(stream)?;
        if mode > RELAXED {
            return Err(ERROR_INVALID_VALUE);
        }
        if self.legacy_device(key).is_some() {
            return Err(ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        if self.capture_in(key).is_some() {
            return Err(ERROR_ILLEGAL_STATE);
        }
        let (id, graph) = (self.handle(), self.handle());
        let streams = BTreeMap::from([(key, Vec::new())]);
        let (invalid, nodes, shown) = (false, Vec::new(), Vec::new());
        let thread = thread();
        let capture = Capture { origin: key, mode, thread, invalid, graph, nodes, streams, shown };
        self.captures.0.insert(id, capture);
        self.graphs.rows.insert(graph, Graph::default());
        Ok(())
    }

    /// Gives the graph that was captured.
    pub fn end_capture(&mut self, stream: u64) -> Outcome<u64> {
        let key = self.stream_key(stream)?;
        let (id, capture) = self.capture_in(key).ok_or(ERROR_ILLEGAL_STATE)?;
        let wrong = if capture.origin != key {
            Some(ERROR_STREAM_CAPTURE_UNMATCHED)
        } else if capture.mode != RELAXED && capture.thread != thread() {
            Some(ERROR_STREAM_CAPTURE_WRONG_THREAD)
        } else {
            None
        };
        if let Some(code) = wrong {
            self.invalidate(|capture| capture.streams.contains_key(&key));
            return Err(code);
        }
        let capture = self.captures.0.remove(&id).ok_or(ERROR_ILLEGAL_STATE)?;
        let failed = if capture.invalid {
            Some(ERROR_STREAM_CAPTURE_INVALIDATED)
        } else if capture.is_unjoined() {
            Some(ERROR_STREAM_CAPTURE_UNJOINED)
        } else {
            None
        };
        if let Some(code) = failed {
            self.drop_graph(capture.graph);
            return Err(code);
        }
        if let Some(graph) = self.graphs.rows.get_mut(&capture.graph) {
            graph.whole = true;
            graph.nodes = capture.nodes;
        }
        Ok(capture.graph)
    }

    /// 0 none, 1 active, 2 invalidated; and the rest if there is one.
    pub fn capture_info(&mut self, stream: u64) -> Outcome<Info> {
        let key = self.stream_key(stream)?;
        if self.implicit(key) {
            return Err(ERROR_STREAM_CAPTURE_IMPLICIT);
        }
        let found = self.capture_in(key).map(|(id, _)| id);
        let Some((id, capture)) = found.and_then(|id| Some((id, self.captures.0.get_mut(&id)?)))
        else {
            return Ok(Info { status: 0, id: 0, graph: 0, nodes: (std::ptr::null(), 0) });
        };
        let last = capture.streams.get(&key).map(Vec::as_slice).unwrap_or_default();
        capture.shown = last.iter().map(|&node| capture.nodes[node].handle).collect();
        let nodes = (capture.shown.as_ptr(), capture.shown.len());
        let status = if capture.invalid { 2 } else { 1 };
        Ok(Info { status, id, graph: capture.graph, nodes })
    }
}

impl Capture {
    /// Whether nodes are left that the origin's next one would not come after.
    fn is_unjoined(&self) -> bool {
        let mut joined = vec![false; self.nodes.len()];
        let mut open = self.streams.get(&self.origin).cloned().unwrap_or_default();
        while let Some(node) = open.pop() {
            if !std::mem::replace(&mut joined[node], true) {
                open.extend(&self.nodes[node].after);
            }
        }
        joined.contains(&false)
    }
}
