//! Graphs, objects of the program, and functions of the host.

use std::ffi::c_void;

use super::{entry_points, give, take};
use crate::code::ERROR_INVALID_VALUE;
use crate::graph::Task;
use crate::work::Call;

/// A function of the host that the driver calls.
pub type Function = Option<unsafe extern "C" fn(*mut c_void)>;

fn checked(function: Function, data: u64) -> Result<Call, u32> {
    let function = function.ok_or(ERROR_INVALID_VALUE)?;
    Ok(Call { function, data })
}

entry_points! {
    fn cuGraphInstantiateWithFlags(exec: *mut u64, graph: u64, flags: u64) |state| {
        if flags & !15 != 0 || exec.is_null() {
            return Err(ERROR_INVALID_VALUE);
        }
        let made = state.instantiate(graph)?;
        give(exec, made)
    }
    fn cuGraphGetNodes(graph: u64, nodes: *mut u64, count: *mut usize) |state| {
        let all = state.nodes(graph)?;
        if nodes.is_null() {
            return give(count, all.len());
        }
        // There is room for as many as the count says; the rest is zeroed.
        let room = take(count)?;
        for n in 0..room {
            give(nodes.wrapping_add(n), all.get(n).copied().unwrap_or(0))?;
        }
        give(count, all.len().min(room))
    }
    fn cuGraphLaunch(exec: u64, stream: u64) |state| { state.launch_graph(exec, stream) }
    fn cuGraphExecDestroy(exec: u64) |state| { state.destroy_exec(exec) }
    fn cuGraphDestroy(graph: u64) |state| { state.destroy_graph(graph) }
    fn cuUserObjectCreate(object: *mut u64, data: u64, destroy: Function, references: u32, flags: u32)
    |state| {
        // The one flag there is has to be set: nobody waits for the destructor.
        if flags != 1 || object.is_null() {
            return Err(ERROR_INVALID_VALUE);
        }
        let made = state.create_object(checked(destroy, data)?, u64::from(references))?;
        give(object, made)
    }
    fn cuUserObjectRetain(object: u64, count: u32) |state| {
        state.retain_object(object, u64::from(count))
    }
    fn cuUserObjectRelease(object: u64, count: u32) |state| {
        state.release_object(object, u64::from(count))
    }
    fn cuGraphRetainUserObject(graph: u64, object: u64, count: u32, flags: u32) |state| {
        if flags > 1 || count == 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        state.graph_retain(graph, object, u64::from(count), flags == 1)
    }
    fn cuGraphReleaseUserObject(graph: u64, object: u64, count: u32) |state| {
        state.graph_release(graph, object, u64::from(count))
    }
    fn cuLaunchHostFunc(stream: u64, function: Function, data: u64) |state| {
        let call = checked(function, data)?;
        state.submit(stream, Task::Host(call)).map(drop)
    }
}
