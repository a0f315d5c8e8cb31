//! A picture of a pool's memory: every mapped stretch of its addresses, piece by piece.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::atomic::Ordering;

use super::Pool;
use super::block::{Word, state};
use super::core::{Block, Core};
use crate::order::Stream;
use crate::space::{NONE, READY, State};

/// What a piece of mapped memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceState {
    /// Given out.
    Live,
    /// Freed, but streams may still use it, or it is a graph's.
    Waiting,
    /// Free, or in a front cache.
    Free,
}

impl PieceState {
    /// Its name in the JSON.
    pub fn name(self) -> &'static str {
        match self {
            PieceState::Live => "live",
            PieceState::Waiting => "waiting",
            PieceState::Free => "free",
        }
    }
}

/// A block, or free memory.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// First byte.
    pub address: usize,
    /// Bytes.
    pub size: u64,
    /// Bytes that were asked for; 0 of what is not live.
    pub requested: u64,
    /// What it is.
    pub state: PieceState,
    /// The stream it was taken on, or freed on; the default stream where nobody knows.
    pub stream: Stream,
    /// Whether it is cut from a slab.
    pub small: bool,
}

/// A stretch of mapped addresses; its pieces follow each other without a gap.
#[derive(Clone, Debug)]
pub struct Stretch {
    /// First byte.
    pub address: usize,
    /// Bytes.
    pub size: u64,
    /// In the order of their addresses.
    pub pieces: Vec<Piece>,
}

impl Pool {
    /// Every mapped stretch, in the order of addresses. Walks over everything, under the lock.
    pub fn snapshot(&self) -> Vec<Stretch> {
        let planned = self.planned.lock();
        let core = self.core.lock();
        let slabs: HashMap<u32, u32> =
            core.space.slabs().map(|(id, slab)| (slab.run, id)).collect();
        let mut stretches: Vec<Stretch> = Vec::new();
        let mut runs: Vec<_> = core.space.runs().iter().map(|(id, run)| (id, *run)).collect();
        runs.retain(|(_, run)| matches!(run.state, State::Free | State::Used));
        runs.sort_unstable_by_key(|(_, run)| run.offset);
        for (id, run) in runs {
            let address = self.table.base() + run.offset as usize;
            let stretch = match stretches.last_mut() {
                Some(last) if last.address + last.size as usize == address => last,
                _ => {
                    stretches.push(Stretch { address, size: 0, pieces: Vec::new() });
                    let newest = stretches.len() - 1;
                    &mut stretches[newest]
                }
            };
            stretch.size += run.size;
            if let Some(&slab) = slabs.get(&id) {
                self.put_slab(&core, slab, address, run.size, &mut stretch.pieces);
            } else if let Some(planned) = planned.as_ref().filter(|plan| plan.is_at(address)) {
                planned.put_pieces(run.size, &mut stretch.pieces);
            } else if run.state == State::Used && core.space.is_large(id, &run) {
                let block = Block { head: core.heads.of_run(id), index: 0 };
                let piece = self.piece_of(&core, &block, run.size, false);
                stretch.pieces.push(Piece { address, ..piece });
            } else {
                let ready = run.state == State::Free && run.tag == READY;
                let state = if ready { PieceState::Free } else { PieceState::Waiting };
                let stream = core.stream_of(run.tag);
                let (size, requested) = (run.size, 0);
                stretch.pieces.push(Piece {
                    address,
                    size,
                    requested,
                    state,
                    stream,
                    small: false,
                });
            }
        }
        stretches
    }

    /// The blocks of a slab; free ones that are neighbours as one piece.
    fn put_slab(&self, core: &Core, id: u32, address: usize, bytes: u64, to: &mut Vec<Piece>) {
        let slab = core.space.slab(id);
        let end = address + bytes as usize;
        let (mut at, first) = (address, to.len());
        for index in 0..slab.capacity as usize {
            let block = Block { head: core.heads.of_slab(id), index };
            let size = block.head().size();
            let mut piece = self.piece_of(core, &block, size, true);
            if slab.is_free(index as u32) {
                (piece.state, piece.stream) = (PieceState::Free, core.stream_of(slab.tag));
            }
            at = piece.address + size as usize;
            match to[first..].last_mut() {
                Some(last) if last.state == piece.state && last.state != PieceState::Live => {
                    last.size += size;
                }
                _ => to.push(piece),
            }
        }
        // What is left behind the last block is nobody's.
        if at < end {
            let (size, state) = ((end - at) as u64, PieceState::Free);
            let stream = Stream::DEFAULT;
            to.push(Piece { address: at, size, requested: 0, state, stream, small: true });
        }
    }

    fn piece_of(&self, core: &Core, block: &Block, size: u64, small: bool) -> Piece {
        let word = Word(block.head().word(block.index).load(Ordering::Relaxed));
        let state = match word.state() {
            state::LIVE | state::FOLLOWED => PieceState::Live,
            state::CACHED => PieceState::Free,
            _ => PieceState::Waiting,
        };
        let requested =
            if state == PieceState::Live { block.head().requested(block.index) } else { 0 };
        let taken_on = self.slots.get(word.owner()).map(|slot| slot.stream());
        let stream = taken_on.unwrap_or_else(|| core.note_stream(block.address()));
        Piece { address: block.address(), size, requested, state, stream, small }
    }

    /// How many mapped stretches there are, and how many free runs in them.
    pub fn shape(&self) -> (u64, u64) {
        let core = self.core.lock();
        let runs = core.space.runs();
        let is_mapped = |state| matches!(state, State::Free | State::Used);
        let (mut stretches, mut free) = (0, 0);
        for (_, run) in runs.iter() {
            free += u64::from(run.state == State::Free);
            let first = run.below == NONE || !is_mapped(runs.get(run.below).state);
            stretches += u64::from(is_mapped(run.state) && first);
        }
        (stretches, free)
    }

    /// [`Pool::snapshot`] as JSON.
    pub fn snapshot_json(&self) -> String {
        let stretches = self.snapshot();
        let mut text = String::with_capacity(4096);
        let mut put = |part: std::fmt::Arguments<'_>| {
            // Writing to a String cannot fail.
            let _ = text.write_fmt(part);
        };
        put(format_args!("{{\"schema\":1,\"pool\":{},\"stretches\":[", self.id));
        for (number, stretch) in stretches.iter().enumerate() {
            let separator = if number == 0 { "" } else { "," };
            let (address, size) = (stretch.address, stretch.size);
            put(format_args!("{separator}{{\"address\":{address},\"size\":{size},\"pieces\":["));
            for (number, piece) in stretch.pieces.iter().enumerate() {
                let separator = if number == 0 { "" } else { "," };
                put(format_args!(
                    "{separator}[{},{},{},\"{}\",{},{}]",
                    piece.address,
                    piece.size,
                    piece.requested,
                    piece.state.name(),
                    piece.stream.0,
                    u8::from(piece.small),
                ));
            }
            put(format_args!("]}}"));
        }
        put(format_args!("]}}"));
        text
    }
}
