//! Every call of the driver fails once: each call of the pool gives a status, the bookkeeping
//! holds after every one, nothing is lost, and at the end everything is given back.

// The helpers of a test are tests too.
#![allow(clippy::unwrap_used)]

mod gpu;

use std::sync::Arc;

use forebay::device::{Cuda, CudaOptions};
use forebay::order::Stream;
use forebay::pool::{Config, Pool, SleepMode};
use gpu::{Gpu, MIB, cu};

/// A block that is live, and what was written to all of it.
#[derive(Clone, Copy)]
struct Block {
    address: usize,
    size: usize,
    stream: Stream,
    value: u8,
}

/// The script, as far as it came.
struct Script<'a> {
    gpu: &'a Gpu,
    pool: Arc<Pool>,
    blocks: Vec<Block>,
    value: u8,
    failed: u32,
}

impl Script<'_> {
    /// Notes how a call ended; whatever it was, the pool is as it should be.
    fn after<T>(&mut self, result: forebay::error::Result<T>) -> Option<T> {
        self.pool.check().unwrap();
        if let Err(error) = &result {
            assert!(!error.message().is_empty());
            self.failed += 1;
        }
        result.ok()
    }

    fn take(&mut self, size: usize, stream: Stream) -> Option<Block> {
        let taken = self.pool.alloc(size, stream);
        let address = self.after(taken)?;
        self.value = self.value % 250 + 1;
        let block = Block { address, size, stream, value: self.value };
        self.write(block);
        self.blocks.push(block);
        Some(block)
    }

    /// Work that writes to both ends of a block: what is written nowhere takes no memory here.
    fn write(&self, block: Block) {
        for at in [block.address, block.address + block.size - 500] {
            self.gpu.write(block.stream, at, 500, block.value);
        }
    }

    /// Gives a block back; one that cannot be is kept.
    fn give(&mut self, block: Block) {
        let freed = self.pool.free(block.address, block.stream);
        if self.after(freed).is_some() {
            self.blocks.retain(|other| other.address != block.address);
        }
    }

    /// Whether every live block holds what was written to it, at both ends.
    fn read(&self) {
        for block in &self.blocks {
            let Block { address, size, stream, value } = *block;
            for at in [address, address + size - 500] {
                assert!(self.gpu.is_all(stream, at, 500, value), "{size} bytes of {value}");
            }
        }
    }
}

fn capture(script: &mut Script<'_>, stream: Stream) {
    let begun = script.pool.begin_graph(5, stream);
    if script.after(begun).is_none() {
        return;
    }
    let gpu = script.gpu;
    assert_eq!(cu!(gpu, cuStreamBeginCapture_v2(stream.0 => u64, 2 => u32)), 0);
    for size in [2000, 2 * MIB] {
        let taken = script.pool.alloc(size, stream);
        if let Some(address) = script.after(taken) {
            gpu.write(stream, address, size, 9);
            let freed = script.pool.free(address, stream);
            if script.after(freed).is_none() {
                // It is freed with the others, outside the capture; nothing has run.
                let block = Block { address, size, stream, value: 0 };
                script.blocks.push(block);
            }
        }
    }
    let mut graph = 0u64;
    let code = cu!(gpu, cuStreamEndCapture(stream.0 => u64, &mut graph => *mut u64));
    assert_eq!(code, 0, "the pool's calls did not spoil the capture");
    assert_eq!(cu!(gpu, cuGraphDestroy(graph => u64)), 0);
    let ended = script.pool.end_graph(5);
    script.after(ended).unwrap();
    let released = script.pool.release_graph(5);
    script.after(released).unwrap();
}

/// Returns whether the pool came to be, and how many calls gave an error.
fn run(gpu: &Gpu, n: u64, code: u32) -> Option<u32> {
    gpu.api.refuse(n, code);
    let config = Config { max_bytes: 24 << 20, ..Config::default() };
    let device = Cuda::with_driver(&gpu.api, &CudaOptions::default()).ok()?;
    let pool = Pool::on_device(&config, device).ok()?;
    let mut script = Script { gpu, pool, blocks: Vec::new(), value: 0, failed: 0 };
    let streams = [gpu.stream(), gpu.stream(), gpu.stream()];
    let [a, b, c] = streams;
    for round in 0..2 {
        let held: Vec<Block> = [(1000, a), (3 * MIB, a), (5 * MIB, b), (MIB, c), (2 * MIB, b)]
            .into_iter()
            .filter_map(|(size, stream)| script.take(size, stream))
            .collect();
        if let Some(&block) = held.get(1) {
            gpu.order(block.stream, c);
            gpu.read(c, block.address, block.size);
            let recorded = script.pool.record_stream(block.address, c);
            // If that failed, the stream itself has to wait.
            if script.after(recorded).is_none() {
                gpu.order(c, block.stream);
            }
        }
        held.iter().skip(round).step_by(2).for_each(|&block| script.give(block));
        // Under pressure: others' memory, pages moved together, waits.
        for (size, stream) in [(11 * MIB, c), (9 * MIB, a)] {
            if let Some(block) = script.take(size, stream) {
                script.give(block);
            }
        }
        script.read();
        let trimmed = script.pool.trim(10 << 20);
        script.after(trimmed);
        let moved = script.pool.defragment();
        script.after(moved);
        if let Some(block) = script.blocks.first().copied() {
            let grown = script.pool.realloc(block.address, block.size + MIB, block.stream);
            if let Some(address) = script.after(grown) {
                let block = Block { address, size: block.size + MIB, ..block };
                script.write(block);
                script.blocks[0] = block;
            }
        }
        script.read();
    }
    capture(&mut script, b);
    let slept = script.pool.sleep(SleepMode::Backup);
    if script.after(slept).is_some() {
        let woken = script.pool.wake();
        if script.after(woken).is_none() {
            // Only one call fails.
            let woken = script.pool.wake();
            script.after(woken).unwrap();
        }
    }
    script.read();
    let allowed = script.pool.allow_peer(1);
    script.after(allowed);
    if let Some(block) = script.blocks.iter().find(|block| block.size > MIB).copied() {
        let exported = script.pool.export(block.address);
        script.after(exported);
    }
    script.read();
    for block in script.blocks.clone() {
        script.give(block);
    }
    for block in script.blocks.clone() {
        script.give(block);
    }
    assert!(script.blocks.is_empty(), "only one call fails");
    for stream in streams {
        let forgotten = script.pool.forget_stream(stream);
        if script.after(forgotten).is_none() {
            script.pool.forget_stream(stream).unwrap();
        }
        gpu.destroy(stream);
    }
    Pool::destroy(script.pool).unwrap();
    Some(script.failed)
}

#[test]
fn whichever_call_fails_nothing_is_lost() {
    if gpu::is_real() {
        return;
    }
    for code in [2, 999] {
        let mut told = 0;
        for n in 0.. {
            let gpu = Gpu::new();
            let before = sim_cuda::used(0);
            let first = gpu.api.calls();
            told += run(&gpu, n, code).unwrap_or(1);
            let made = gpu.api.calls() - first;
            // What the test itself reads into.
            gpu.end_of_scratch();
            sim_cuda::run_all();
            let hazards = sim_cuda::take_hazards();
            assert!(hazards.is_empty(), "call {n}, code {code}: {}", hazards[0]);
            assert_eq!(sim_cuda::used(0), before, "call {n}, code {code}");
            let mut mode = 2u32;
            assert_eq!(cu!(gpu, cuThreadExchangeStreamCaptureMode(&mut mode => *mut u32)), 0);
            assert_eq!(mode, 0, "call {n}: the thread's capture mode is as it was");
            if n >= made {
                break;
            }
        }
        assert!(told > 50, "{told} calls gave an error");
    }
}
