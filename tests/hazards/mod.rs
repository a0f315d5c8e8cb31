//! A random program on the streams of a simulated GPU, for the checker of order: kernels, frees,
//! waits, captures and streams that come and go, everything in an order that the pool's contract
//! asks for. So whatever the checker finds is the pool's.

#![allow(dead_code, clippy::unwrap_used)]

use std::sync::Arc;

use forebay::error::Kind;
use forebay::lifetime::{self, Lifetime, Options};
use forebay::order::Stream;
use forebay::pool::{Config, Pool};

use super::gpu::{Gpu, cu};

const KIB: u64 = 1 << 10;
const LIMIT: u64 = 192 << 20;
const STREAMS: usize = 8;

/// Numbers that look random and repeat with their seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 20) % end as u64) as usize
    }
}

#[derive(Clone)]
struct Block {
    address: usize,
    size: usize,
    /// All of its uses are behind what is queued here, but for those that were recorded.
    stream: Stream,
    /// A graph's output, which its next launch writes again: used on the graph's stream alone.
    output: bool,
}

struct Graph {
    number: u64,
    graph: u64,
    exec: u64,
    /// Where it is launched: launches come one after the other.
    stream: Stream,
}

/// The program, as far as it has run.
pub struct Program {
    // Before the device, which is another test's as soon as it is gone.
    pool: Arc<Pool>,
    gpu: Gpu,
    reuse_handles: bool,
    random: Random,
    streams: Vec<Stream>,
    blocks: Vec<Block>,
    graphs: Vec<Graph>,
    next_graph: u64,
    found: Vec<sim_cuda::Hazard>,
    /// What was done to which bytes.
    log: Vec<(usize, usize, String)>,
    /// Allocations that found nothing.
    pub refused: u64,
}

impl Program {
    pub fn new(seed: u64) -> Program {
        // Handles of destroyed streams serve again, as real drivers have it, or do not.
        let reuse_handles = seed.is_multiple_of(2);
        let gpu =
            Gpu::with(sim_cuda::Config { bookkeeping: true, reuse_handles, ..Default::default() });
        let pool = gpu.pool(&Config { max_bytes: LIMIT, ..Config::default() });
        let streams = (0..STREAMS).map(|_| gpu.stream()).collect();
        Program {
            gpu,
            pool,
            reuse_handles,
            random: Random::new(seed),
            streams,
            blocks: Vec::new(),
            graphs: Vec::new(),
            next_graph: 1,
            found: Vec::new(),
            log: Vec::new(),
            refused: 0,
        }
    }

    /// From here on, small blocks are mostly served from a plan.
    pub fn apply_plan(&mut self) {
        let (mut lifetime, mut live) = (Lifetime::new(), Vec::new());
        for id in 0..200 {
            let size = self.size().min(2 << 20) as u64;
            lifetime.record_alloc(2 * id, id, size).unwrap();
            lifetime.align(id, 64 * KIB).unwrap();
            live.push(id);
            if live.len() > 24 {
                let freed = live.swap_remove(self.random.below(live.len()));
                lifetime.record_free(2 * id + 1, freed).unwrap();
            }
        }
        let options = Options { time_limit: std::time::Duration::ZERO, seed: 0 };
        let plan = lifetime::plan(lifetime.instance().unwrap(), &options, None).unwrap();
        self.pool.apply_plan(&plan, self.streams[0]).unwrap();
    }

    /// How many allocations the plan served.
    pub fn served(&self) -> u64 {
        self.pool.plan_usage().unwrap().served
    }

    fn note(&mut self, what: &str, block: &Block, stream: Stream) {
        // Of long ago, a checker finds nothing.
        if self.log.len() > 200_000 {
            self.log.drain(..100_000);
        }
        let Block { address, size, stream: own, .. } = *block;
        let text = format!("{what} {address:#x} +{size:#x} of {:#x} on {:#x}", own.0, stream.0);
        self.log.push((address, size, text));
    }

    fn note_for_all(&mut self, text: String) {
        self.log.push((0, usize::MAX, text));
    }

    /// A hazard, and what the program did to the bytes it is about.
    pub fn explain(&self, hazard: &sim_cuda::Hazard) -> String {
        let (from, to) = (hazard.address as usize, (hazard.address + hazard.bytes) as usize);
        let about =
            |(at, size, _): &&(usize, usize, String)| *at < to && from < at.saturating_add(*size);
        let mut last: Vec<&str> =
            self.log.iter().rev().filter(about).take(60).map(|entry| &*entry.2).collect();
        last.reverse();
        format!("{hazard}\n{}", last.join("\n"))
    }

    /// Runs `operations` steps, and scans the pool's invariants every `scan`-th. Ends early once
    /// the checker has found something.
    pub fn run(&mut self, operations: usize, scan: usize) {
        for number in 0..operations {
            self.step();
            if number % scan == scan - 1 {
                self.pool.check().unwrap();
            }
            if number % 16 == 15 && self.has_found() {
                return;
            }
        }
    }

    /// What the checker has found so far.
    pub fn hazards(&mut self) -> Vec<sim_cuda::Hazard> {
        self.found.append(&mut sim_cuda::take_hazards());
        std::mem::take(&mut self.found)
    }

    /// Whether it has found something.
    pub fn has_found(&mut self) -> bool {
        self.found.append(&mut sim_cuda::take_hazards());
        !self.found.is_empty()
    }

    fn stream(&mut self) -> Stream {
        self.streams[self.random.below(STREAMS)]
    }

    fn block(&mut self) -> Option<usize> {
        let count = self.blocks.len();
        (count > 0).then(|| self.random.below(count))
    }

    fn size(&mut self) -> usize {
        let most = [32 * KIB, 4096 * KIB, 24_000 * KIB][self.random.below(5).saturating_sub(2)];
        1 + self.random.below(most as usize)
    }

    fn step(&mut self) {
        match self.random.below(1000) {
            0..300 => self.alloc(),
            300..550 => self.kernel(),
            550..650 => self.use_elsewhere(),
            650..890 => self.free(),
            890..930 => sim_cuda::advance(self.random.below(200_000) as u64),
            930..940 => {
                let stream = self.stream();
                self.gpu.synchronize(stream);
            }
            940..950 => self.pool.trim(self.random.below(LIMIT as usize) as u64).map(drop).unwrap(),
            950..955 => self.pool.defragment().map(drop).unwrap(),
            955..970 => self.realloc(),
            970..980 => self.batch(),
            980..985 => self.replace_stream(),
            985..990 => self.capture(),
            990..998 => self.launch(),
            _ => self.release(),
        }
    }

    /// A kernel that reads and writes whole blocks.
    fn queue(&mut self, stream: Stream, reads: &[&Block], writes: &[&Block]) {
        reads.iter().for_each(|block| self.note("read", block, stream));
        writes.iter().for_each(|block| self.note("write", block, stream));
        let range = |block: &&Block| (block.address as u64, block.size as u64);
        let reads: Vec<_> = reads.iter().map(range).collect();
        let writes: Vec<_> = writes.iter().map(range).collect();
        let code = sim_cuda::launch(stream.0, "kernel", &reads, &writes, 5_000, None);
        assert_eq!(code, 0);
    }

    fn take(&mut self, size: usize, stream: Stream) -> Option<Block> {
        match self.pool.alloc(size, stream) {
            Ok(address) => {
                let block = Block { address, size, stream, output: false };
                self.queue(stream, &[], &[&block]);
                Some(block)
            }
            Err(error) => {
                assert_eq!(error.kind(), Kind::OutOfMemory, "{error}");
                self.refused += 1;
                None
            }
        }
    }

    fn alloc(&mut self) {
        let (size, stream) = (self.size(), self.stream());
        match self.take(size, stream) {
            Some(block) => self.blocks.push(block),
            None => (0..4).for_each(|_| self.free()),
        }
    }

    fn kernel(&mut self) {
        let (Some(a), Some(b)) = (self.block(), self.block()) else { return };
        let (a, b) = (self.blocks[a].clone(), self.blocks[b].clone());
        if a.stream == b.stream {
            self.queue(a.stream, &[&b], &[&a]);
        } else {
            self.queue(a.stream, &[&a], &[&a]);
        }
    }

    /// Another stream uses a block: behind its own stream, and then either that one waits for
    /// the other, or the pool is told.
    fn use_elsewhere(&mut self) {
        let (Some(at), other) = (self.block(), self.stream()) else { return };
        let block = self.blocks[at].clone();
        if block.stream == other || block.output {
            return;
        }
        self.gpu.order(block.stream, other);
        if self.random.below(2) == 0 {
            self.queue(other, &[], &[&block]);
            self.gpu.order(other, block.stream);
        } else {
            self.queue(other, &[&block], &[]);
            self.pool.record_stream(block.address, other).unwrap();
            // What is queued on its own stream from now on may only read.
            self.gpu.order(other, block.stream);
            self.queue(other, &[&block], &[]);
            self.give(at, block.stream);
        }
    }

    fn give(&mut self, at: usize, stream: Stream) {
        let block = self.blocks.swap_remove(at);
        self.note("free", &block, stream);
        self.pool.free(block.address, stream).unwrap();
    }

    fn free(&mut self) {
        let Some(at) = self.block() else { return };
        let Block { stream: own, output, .. } = self.blocks[at];
        let elsewhere = !output && self.random.below(5) == 0;
        let stream = if elsewhere { self.stream() } else { own };
        if stream != own {
            self.gpu.order(own, stream);
        }
        self.give(at, stream);
    }

    fn realloc(&mut self) {
        let (Some(at), size) = (self.block(), self.size()) else { return };
        let Block { address, stream, .. } = self.blocks[at];
        // The bytes are copied in the stream's order.
        if let Ok(address) = self.pool.realloc(address, size, stream) {
            self.blocks[at] = Block { address, size, stream, output: false };
            let block = self.blocks[at].clone();
            self.queue(stream, &[], &[&block]);
        }
    }

    fn batch(&mut self) {
        let stream = self.stream();
        let sizes: Vec<usize> = (0..8).map(|_| 1 + self.random.below(200_000)).collect();
        let Ok(addresses) = self.pool.alloc_batch(&sizes, stream) else { return };
        for (&address, &size) in addresses.iter().zip(&sizes) {
            self.queue(stream, &[], &[&Block { address, size, stream, output: false }]);
        }
        let (done, result) = self.pool.free_batch(&addresses, stream);
        result.unwrap();
        assert_eq!(done, addresses.len());
    }

    /// A stream is destroyed, and another one takes its place. Blocks go over to that.
    fn replace_stream(&mut self) {
        let at = self.random.below(STREAMS);
        let old = self.streams[at];
        if self.graphs.iter().any(|graph| graph.stream == old) {
            return;
        }
        let fresh = self.gpu.stream();
        self.gpu.order(old, fresh);
        for block in self.blocks.iter_mut().filter(|block| block.stream == old) {
            block.stream = fresh;
        }
        self.streams[at] = fresh;
        self.note_for_all(format!("stream {:#x} in place of {:#x}", fresh.0, old.0));
        // A stream that is destroyed without notice is found out, unless its handle serves again.
        if self.reuse_handles || self.random.below(4) > 0 {
            self.pool.forget_stream(old).unwrap();
        }
        self.gpu.destroy(old);
    }

    /// A graph is captured on one stream, and on another one that joins it.
    fn capture(&mut self) {
        if self.graphs.len() >= 4 {
            return self.release();
        }
        let (stream, side) = (self.stream(), self.stream());
        let number = self.next_graph;
        self.next_graph += 1;
        self.note_for_all(format!("graph {number} on {:#x} and {:#x}", stream.0, side.0));
        self.pool.begin_graph(number, stream).unwrap();
        assert_eq!(cu!(self.gpu, cuStreamBeginCapture_v2(stream.0 => u64, 2 => u32)), 0);
        let mut own: Vec<Block> = Vec::new();
        for _ in 0..self.random.below(12) {
            let size = self.size().min(6 << 20);
            match self.random.below(5) {
                0..=2 => own.extend(self.take(size, stream)),
                3 if !own.is_empty() => {
                    let block = own.swap_remove(self.random.below(own.len()));
                    self.pool.free(block.address, stream).unwrap();
                }
                _ if side != stream && !own.is_empty() => {
                    let block = own[self.random.below(own.len())].clone();
                    self.gpu.order(stream, side);
                    self.queue(side, &[&block], &[]);
                    if self.random.below(2) == 0 {
                        self.pool.record_stream(block.address, side).unwrap();
                        own.retain(|other| other.address != block.address);
                        self.pool.free(block.address, stream).unwrap();
                        own.extend(self.take(size, stream));
                    }
                    if let Some(block) = self.take(size, side) {
                        self.pool.free(block.address, side).unwrap();
                    }
                    self.gpu.order(side, stream);
                }
                _ => {}
            }
        }
        let (mut graph, mut exec) = (0u64, 0u64);
        assert_eq!(cu!(self.gpu, cuStreamEndCapture(stream.0 => u64, &mut graph => *mut u64)), 0);
        self.pool.end_graph(number).unwrap();
        self.note_for_all(format!("end of graph {number}"));
        let code = cu!(self.gpu, cuGraphInstantiateWithFlags(&mut exec => *mut u64, graph => u64, 0 => u64));
        assert_eq!(code, 0);
        self.graphs.push(Graph { number, graph, exec, stream });
        // What lives on is used and freed like any other block of that stream.
        self.blocks.extend(own.into_iter().map(|block| Block { output: true, ..block }));
    }

    fn launch(&mut self) {
        if self.graphs.is_empty() {
            return;
        }
        let number = self.random.below(self.graphs.len());
        self.note_for_all(format!("launch of graph {}", self.graphs[number].number));
        let graph = &self.graphs[number];
        let code = cu!(self.gpu, cuGraphLaunch(graph.exec => u64, graph.stream.0 => u64));
        assert_eq!(code, 0);
    }

    fn release(&mut self) {
        if self.graphs.is_empty() {
            return;
        }
        let Graph { number, graph, exec, .. } =
            self.graphs.swap_remove(self.random.below(self.graphs.len()));
        assert_eq!(cu!(self.gpu, cuGraphExecDestroy(exec => u64)), 0);
        assert_eq!(cu!(self.gpu, cuGraphDestroy(graph => u64)), 0);
        self.pool.release_graph(number).unwrap();
        self.note_for_all(format!("release of graph {number}"));
    }

    /// Frees everything, and waits for it. Nothing may be left.
    pub fn end(mut self) {
        while !self.graphs.is_empty() {
            self.release();
        }
        while !self.blocks.is_empty() {
            let stream = self.blocks[0].stream;
            self.give(0, stream);
        }
        if self.pool.plan_usage().is_ok() {
            self.pool.remove_plan().unwrap();
        }
        for _ in 0..3 {
            self.pool.trim(0).unwrap();
            self.gpu.synchronize_all();
        }
        self.pool.trim(0).unwrap();
        self.pool.check().unwrap();
        let stats = self.pool.stats();
        assert_eq!((stats.live_blocks, stats.reserved[0]), (0, 0));
        self.gpu.finish();
        let Program { gpu, pool, .. } = self;
        Pool::destroy(pool).unwrap();
        assert_eq!(sim_cuda::used(0), 0);
        drop(gpu);
    }
}
