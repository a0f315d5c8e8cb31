//! Graphs that were captured.

use crate::answer::{entry_points, give};
use crate::driver::checked;

entry_points! {
    inside fn cudaGraphInstantiate(to: *mut u64, graph: u64, flags: u64) |cu| {
        checked((cu.cuGraphInstantiateWithFlags)(to, graph, flags))
    };
    inside fn cudaGraphInstantiateWithFlags(to: *mut u64, graph: u64, flags: u64) |cu| {
        checked((cu.cuGraphInstantiateWithFlags)(to, graph, flags))
    };
    inside fn cudaGraphLaunch(graph: u64, stream: u64) |cu| {
        checked((cu.cuGraphLaunch)(graph, stream))
    };
    inside fn cudaGraphExecDestroy(graph: u64) |cu| checked((cu.cuGraphExecDestroy)(graph));
    inside fn cudaGraphDestroy(graph: u64) |cu| checked((cu.cuGraphDestroy)(graph));
    // How many there are is asked by programs that warn of empty graphs; they are not told which.
    inside fn cudaGraphGetNodes(_graph: u64, nodes: *mut u64, count: *mut usize) |_cu| {
        if nodes.is_null() { give(count, 1) } else { Err(crate::driver::NOT_SUPPORTED) }
    };
}
