//! Graphs that were captured.

use crate::answer::entry_points;
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
    inside fn cudaGraphGetNodes(graph: u64, nodes: *mut u64, count: *mut usize) |cu| {
        checked((cu.cuGraphGetNodes)(graph, nodes, count))
    };
}
