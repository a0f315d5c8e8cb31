//! Graphs: memory that a captured graph uses stays the graph's.
//!
//! A graph is launched again and again with the addresses that it was captured with. So what
//! is taken in a capture comes from memory of the graph's own, is used again within the graph
//! only, and is nobody else's until the graph is released; PyTorch calls that a private pool.
//! Captures are announced ([`Pool::begin_graph`]), because the hit path asks no driver whether
//! a stream is capturing. One that was not announced is found out when the pool has to look
//! for memory, and refused.

use std::sync::atomic::Ordering;

use std::thread::ThreadId;

use super::Pool;
use super::core::Core;
use super::lane::Lane;
use crate::error::{Error, Result, fail};
use crate::order::Stream;
use crate::sync::MutexGuard;

/// A graph whose capture was announced without a stream.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// The graph.
    pub graph: u64,
    /// Who announced it.
    pub thread: ThreadId,
}

impl Pool {
    /// From now on until [`Pool::end_graph`], what is taken on `stream`, and on streams that
    /// take part in its capture, belongs to `graph`. To be called before the capture begins,
    /// or in it before anything is taken.
    pub fn begin_graph(&self, graph: u64, stream: Stream) -> Result<()> {
        self.check_graph(graph)?;
        self.order.check(stream)?;
        let lane = Lane { stream: self.order.name(stream), graph };
        let mut core = self.core.lock();
        core.check_not_captured(graph)?;
        if let Some(other) = core.captures.iter().find(|other| other.stream == lane.stream) {
            return Err(fail!(
                InvalidState,
                "stream {:#x} is capturing graph {} already; end that first",
                stream.0,
                other.graph
            ));
        }
        core.begin_capture(&*self.order, lane);
        self.note_capture(core, graph);
        Ok(())
    }

    /// As [`Pool::begin_graph`], where the stream is not known yet: it is that of the first
    /// capture from which memory is asked for, on the calling thread, or on any while no other
    /// graph is expected.
    pub fn expect_graph(&self, graph: u64) -> Result<()> {
        self.check_graph(graph)?;
        let mut core = self.core.lock();
        core.check_not_captured(graph)?;
        core.expected.push(Expected { graph, thread: std::thread::current().id() });
        self.note_capture(core, graph);
        Ok(())
    }

    fn check_graph(&self, graph: u64) -> Result<()> {
        self.check_open()?;
        if graph == 0 || graph == u64::MAX {
            return Err(fail!(
                InvalidArgument,
                "graph is {graph}; any number but 0 and 2^64 - 1 can name a graph"
            ));
        }
        if !self.order.can_capture() {
            return Err(fail!(
                Unsupported,
                "pool {} is on {}, where no graphs are captured",
                self.id,
                self.device.name()
            ));
        }
        Ok(())
    }

    fn note_capture(&self, mut core: MutexGuard<'_, Core>, graph: u64) {
        *core.graphs.entry(graph).or_default() += 1;
        self.captures.fetch_add(1, Ordering::AcqRel);
        drop(core);
        // From here on every call asks whose it is.
        self.update_attention();
    }

    /// The capture of `graph` is over, and the streams that took part are joined.
    pub fn end_graph(&self, graph: u64) -> Result<()> {
        self.check_open()?;
        let mut core = self.core.lock();
        if let Some(at) = core.captures.iter().position(|it| it.graph == graph) {
            core.captures.swap_remove(at);
        } else if let Some(at) = core.expected.iter().position(|it| it.graph == graph) {
            core.expected.swap_remove(at);
        } else {
            return Err(fail!(InvalidState, "graph {graph} is not being captured"));
        }
        self.captures.fetch_sub(1, Ordering::AcqRel);
        drop(core);
        self.update_attention();
        Ok(())
    }

    /// One graph less uses the memory of `graph`; [`Pool::begin_graph`] counts them. With the
    /// last one it becomes everybody's, once the work that is queued now on every stream that
    /// the pool knows is done. Blocks of it that are live stay live.
    pub fn release_graph(&self, graph: u64) -> Result<()> {
        self.check_open()?;
        let mut core = self.core.lock();
        if core.is_captured(graph) {
            return Err(fail!(
                InvalidState,
                "graph {graph} is being captured; end that before it is released"
            ));
        }
        let Some(uses) = core.graphs.get_mut(&graph) else {
            return Err(fail!(InvalidState, "graph {graph} has no memory in pool {}", self.id));
        };
        *uses -= 1;
        if *uses == 0 {
            core.graphs.remove(&graph);
            let fences = self.order.mark_all();
            core.close_graph(graph, &fences);
        }
        Ok(())
    }

    /// Whether a capture was announced and has not ended.
    pub fn is_announced(&self) -> bool {
        self.captures.load(Ordering::Acquire) > 0
    }

    /// Whether `stream` takes part in a capture.
    pub fn is_capturing(&self, stream: Stream) -> Result<bool> {
        let stream = self.order.name(stream);
        Ok(self.order.can_capture() && self.order.capture(stream)?.is_some())
    }

    /// The lane that a call on `stream` takes memory in.
    #[inline]
    pub(super) fn lane_for(&self, stream: Stream) -> Result<Lane> {
        let stream = self.order.name(stream);
        if self.captures.load(Ordering::Acquire) == 0 {
            return Ok(Lane::eager(stream));
        }
        self.lane_in_captures(stream)?.ok_or_else(|| unannounced(stream))
    }

    /// The lane that a call on `stream` gives memory back in. A capture that was not announced
    /// has none of its own: what it gives back waits for its end, as all that is freed there.
    pub(super) fn lane_for_free(&self, stream: Stream) -> Result<Lane> {
        let stream = self.order.name(stream);
        if self.captures.load(Ordering::Acquire) == 0 {
            return Ok(Lane::eager(stream));
        }
        Ok(self.lane_in_captures(stream)?.unwrap_or(Lane::eager(stream)))
    }

    /// None for a stream that takes part in a capture that was not announced.
    #[cold]
    fn lane_in_captures(&self, stream: Stream) -> Result<Option<Lane>> {
        let announced = self.core.lock().captures.clone();
        if let Some(&lane) = announced.iter().find(|lane| lane.stream == stream) {
            return Ok(Some(lane));
        }
        let Some(capture) = self.order.capture(stream)? else {
            return Ok(Some(Lane::eager(stream)));
        };
        for lane in announced {
            if self.order.capture(lane.stream)? == Some(capture) {
                return Ok(Some(Lane { stream, graph: lane.graph }));
            }
        }
        Ok(self.meet_expected(stream))
    }

    /// The lane of a capture on `stream` that was announced without one.
    fn meet_expected(&self, stream: Stream) -> Option<Lane> {
        let mut core = self.core.lock();
        let own = std::thread::current().id();
        let at = match &core.expected[..] {
            [_] => Some(0),
            several => several.iter().position(|expected| expected.thread == own),
        }?;
        let lane = Lane { stream, graph: core.expected.swap_remove(at).graph };
        core.begin_capture(&*self.order, lane);
        Some(lane)
    }

    /// Before memory is looked for: an error in a capture that nobody announced.
    pub(super) fn check_eager(&self, lane: Lane) -> Result<()> {
        if lane.is_eager() && self.order.can_capture() && self.order.capture(lane.stream)?.is_some()
        {
            return Err(unannounced(lane.stream));
        }
        Ok(())
    }
}

impl Core {
    fn is_captured(&self, graph: u64) -> bool {
        self.captures.iter().any(|lane| lane.graph == graph)
            || self.expected.iter().any(|expected| expected.graph == graph)
    }

    fn check_not_captured(&self, graph: u64) -> Result<()> {
        if !self.is_captured(graph) {
            return Ok(());
        }
        let on = match self.captures.iter().find(|lane| lane.graph == graph) {
            Some(lane) => format!("on stream {:#x} already", lane.stream.0),
            None => "already".to_owned(),
        };
        Err(fail!(InvalidState, "graph {graph} is being captured {on}; end that first"))
    }
}

#[cold]
fn unannounced(stream: Stream) -> Error {
    fail!(
        InvalidState,
        "stream {:#x} is capturing a graph that the pool was not told of: call \
         forebay_graph_begin before anything is taken in the capture",
        stream.0
    )
}
