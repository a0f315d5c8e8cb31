//! A simulated CUDA driver. It speaks the documented C interface of the driver on host memory,
//! moves work by a virtual clock, and proves that accesses to memory are in order.
//!
//! A test in process takes [`exclusive`] and builds its table of entry points with [`lookup`];
//! a program that loads `libcuda.so.1` finds the same functions under their names.

pub mod api;
mod capture;
pub mod code;
mod config;
mod context;
mod event;
mod graph;
mod host;
mod log;
mod memory;
mod object;
mod order;
mod page;
mod piece;
mod pointer;
mod pool;
mod span;
mod stream;
mod work;

use std::collections::HashMap;
use std::ffi::{CStr, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

use code::{Code, ERROR_NOT_INITIALIZED, ERROR_NOT_PERMITTED, Outcome, SUCCESS};
pub use config::Config;
pub use log::Entry;
pub use order::{Hazard, Kind};

/// The whole driver.
struct State {
    config: Config,
    /// Tells the contexts that threads remember from those of an earlier reset.
    generation: u64,
    ready: bool,
    /// After an error of this kind every call fails with it.
    sticky: Option<Code>,
    next: u64,
    contexts: context::Contexts,
    memory: memory::Memory,
    streams: stream::Streams,
    events: HashMap<u64, event::Event>,
    /// Handles of events that are gone, for the next ones.
    spare_events: Vec<u64>,
    captures: capture::Captures,
    graphs: graph::Graphs,
    objects: object::Table,
    pools: pool::Pools,
    log: log::Log,
    order: order::Order,
}

static STATE: Mutex<Option<State>> = Mutex::new(None);
static EXCLUSIVE: Mutex<()> = Mutex::new(());

/// The slot of the host in the order: all its calls are in order as the driver got them.
const HOST: u32 = 0;

impl State {
    fn new(config: Config, generation: u64) -> State {
        State {
            generation,
            ready: false,
            sticky: None,
            next: 0x10_0000,
            contexts: context::Contexts::new(config.devices),
            memory: memory::Memory::new(config.devices),
            streams: stream::Streams::default(),
            events: HashMap::new(),
            spare_events: Vec::new(),
            captures: capture::Captures::default(),
            graphs: graph::Graphs::default(),
            objects: object::Table::default(),
            pools: pool::Pools::default(),
            log: log::Log::default(),
            order: order::Order::new(config.history, config.check_order),
            config,
        }
    }

    /// A handle that no other object had since the reset.
    fn handle(&mut self) -> u64 {
        self.next += 16;
        self.next
    }
}

fn locked() -> MutexGuard<'static, Option<State>> {
    // The driver is locked then by this thread.
    assert!(!object::inside(), "a function that the driver called may not call it");
    // A test that failed under the lock must not fail the next one.
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn with<T>(body: impl FnOnce(&mut State) -> T) -> T {
    let mut locked = locked();
    let state = locked.get_or_insert_with(|| State::new(Config::from_env(), 0));
    let answer = body(state);
    let due = state.objects.take_due();
    drop(locked);
    due.into_iter().for_each(work::Call::make);
    answer
}

/// One call of an entry point: counted, perhaps made to fail, and then `body`.
fn call(name: &'static str, arguments: &[u64], body: impl FnOnce(&mut State) -> Outcome) -> Code {
    if object::inside() {
        return ERROR_NOT_PERMITTED;
    }
    with(|state| {
        if let Some(code) = state.log.note(name, arguments) {
            return code;
        }
        let free = matches!(name, "cuInit" | "cuDriverGetVersion" | "cuGetProcAddress_v2");
        if !free && !state.ready {
            return ERROR_NOT_INITIALIZED;
        }
        if let (Some(code), false) = (state.sticky, free) {
            return code;
        }
        if state.config.tick_ns > 0 {
            state.run_until(state.streams.now + state.config.tick_ns);
        }
        let done = state.allow(name).and_then(|()| body(state));
        done.err().unwrap_or(SUCCESS)
    })
}

/// Forgets everything: the driver is as after loading, on devices as `config` says.
pub fn reset(config: Config) {
    let mut state = locked();
    let generation = state.as_ref().map_or(0, |old| old.generation) + 1;
    *state = Some(State::new(config, generation));
}

/// As long as it lives, no other test has the driver.
pub struct Guard {
    _alone: MutexGuard<'static, ()>,
}

/// Waits for other tests to be done with the driver, and resets it.
pub fn exclusive(config: Config) -> Guard {
    let alone = EXCLUSIVE.lock().unwrap_or_else(PoisonError::into_inner);
    reset(config);
    Guard { _alone: alone }
}

/// The entry point with this name, null where this driver has none.
pub fn lookup(name: &CStr) -> *mut c_void {
    let Ok(name) = name.to_str() else { return std::ptr::null_mut() };
    if with(|state| state.config.absent.iter().any(|absent| absent == name)) {
        return std::ptr::null_mut();
    }
    api::find(name).unwrap_or(std::ptr::null_mut())
}

/// The `n`-th call of an entry point from now on (0 is the next) is not made and answers
/// `code`.
pub fn fail(name: &'static str, n: u64, code: Code) {
    with(|state| state.log.fail(name, n, code));
}

/// From now on every call answers `code`, as after an illegal address on a device.
pub fn break_with(code: Code) {
    with(|state| state.sticky = Some(code));
}

/// Bytes of a device that another program has, so that less is free here.
pub fn occupy(device: usize, bytes: u64) {
    with(|state| state.memory.occupy(device, bytes));
}

/// How often an entry point was called since the reset.
pub fn calls(name: &str) -> u64 {
    with(|state| state.log.calls(name))
}

/// Calls since the reset, of all entry points.
pub fn all_calls() -> u64 {
    with(|state| state.log.all())
}

/// From now on the sequence of calls is kept, with arguments.
pub fn keep_log() {
    with(|state| state.log.keep());
}

/// The calls that were kept, oldest first; they are forgotten here.
pub fn take_log() -> Vec<Entry> {
    with(|state| state.log.take())
}

/// What was found wrong since the reset or the last such call.
pub fn take_hazards() -> Vec<Hazard> {
    with(|state| std::mem::take(&mut state.order.found))
}

/// Bytes of a device that allocations hold.
pub fn used(device: usize) -> u64 {
    with(|state| state.memory.used(device))
}

/// Queues a kernel that reads and writes these ranges (address, bytes) and takes `ns`; when it
/// ends, it fills what it writes with `fill`.
pub fn launch(
    stream: u64,
    name: &str,
    reads: &[(u64, u64)],
    writes: &[(u64, u64)],
    ns: u64,
    fill: Option<u8>,
) -> Code {
    with(|state| {
        if let Some(code) = state.sticky {
            return code;
        }
        let (reads, writes) = (reads.to_vec(), writes.to_vec());
        let task = graph::Task::Kernel { name: name.into(), reads, writes, ns, fill };
        state.submit(stream, task).err().unwrap_or(SUCCESS)
    })
}

/// Moves the clock.
pub fn advance(ns: u64) {
    with(|state| state.run_until(state.streams.now.saturating_add(ns)));
}

/// Moves the clock until nothing more ends.
pub fn run_all() {
    with(|state| while state.step(u64::MAX) {});
}

/// Nanoseconds of the clock.
pub fn now() -> u64 {
    with(|state| state.streams.now)
}

/// Nothing of a stream begins or ends until [`release`].
pub fn hold(stream: u64) -> Code {
    with(|state| state.hold(stream, true).err().unwrap_or(SUCCESS))
}

/// Lets a held stream go on.
pub fn release(stream: u64) -> Code {
    with(|state| state.hold(stream, false).err().unwrap_or(SUCCESS))
}
