//! The text of an out-of-memory error: what a person needs to see why, and what to try.

use std::fmt::Write;

use super::device::Gpu;

/// How many streams are named.
const STREAMS: usize = 5;

/// Bytes for people.
fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} B"),
        1024..0x10_0000 => format!("{:.2} KiB", count as f64 / 1024.0),
        0x10_0000..0x4000_0000 => format!("{:.2} MiB", count as f64 / 1048576.0),
        _ => format!("{:.2} GiB", count as f64 / 1073741824.0),
    }
}

/// Why `size` bytes could not be had on `gpu`.
pub fn out_of_memory(gpu: &Gpu, size: usize) -> String {
    let stats = gpu.pool.stats();
    let usage = gpu.usage.all();
    let largest = gpu.pool.largest_free();
    let held = gpu.pool.holdings();
    let waiting: u64 = held.iter().map(|&(_, bytes)| bytes).sum();
    let total = gpu.pool.device_bytes();
    let mut text = format!(
        "CUDA out of memory. Tried to allocate {} on GPU {}, which has {}. forebay's pool has a \
         limit of {} and {} reserved: {} in {} live tensors (asked for: {}), {} reserved but \
         unallocated, the largest free run {}.",
        bytes(size as u64),
        gpu.ordinal,
        bytes(total),
        bytes(stats.limit),
        bytes(stats.reserved[0]),
        bytes(usage.now.allocated),
        usage.now.blocks,
        bytes(usage.now.requested),
        bytes(stats.reserved[0].saturating_sub(usage.now.allocated)),
        bytes(largest),
    );
    if waiting > 0 {
        let _ =
            write!(text, " Freed, but held for work on streams or for graphs: {}", bytes(waiting));
        for (place, (stream, held)) in held.iter().take(STREAMS).enumerate() {
            let lead = if place == 0 { " (" } else { ", " };
            let _ = write!(text, "{lead}stream {:#x}: {}", stream.0, bytes(*held));
        }
        if held.len() > STREAMS {
            let _ = write!(text, ", {} more", held.len() - STREAMS);
        }
        text.push_str(").");
    }
    let needed = usage.now.allocated + size as u64;
    let advice = if needed > total {
        "Live tensors and this one need more than the GPU has: a smaller batch, activation \
         checkpointing or offloading is what helps."
    } else if needed > stats.limit {
        "The limit of the pool is what stands in the way: raise it (forebay.torch.enable(limit=), \
         FOREBAY_TORCH_LIMIT or torch.cuda.set_per_process_memory_fraction)."
    } else if stats.reserved[0] + (size as u64) < stats.limit {
        "The GPU has no more, although the pool may take it: another process, or memory outside \
         of the pool (contexts, libraries, graphs), holds the rest; see nvidia-smi."
    } else {
        "Memory that streams still use, or that graphs keep, is what stands in the way: \
         synchronise before large allocations, or release graphs that are no longer replayed."
    };
    let _ = write!(
        text,
        " {advice} What lives: torch.cuda.memory_snapshot(), forebay.torch.dump_snapshot(path)."
    );
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn bytes_are_for_people() {
        let said = [0, 1023, 1024, 1 << 20, 3 << 29].map(super::bytes);
        assert_eq!(said, ["0 B", "1023 B", "1.00 KiB", "1.00 MiB", "1.50 GiB"]);
    }
}
