//! Streams on the host: a queue of work and a thread that does it in order.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::sync::{Condvar, Mutex, RwLock, RwLockWriteGuard};

use super::{Fence, Order, Stream};
use crate::error::{Result, fail};

/// A piece of work.
pub type Job = Box<dyn FnOnce() + Send>;

enum Item {
    Work(Job),
    WaitFor(Fence),
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    closed: bool,
}

/// A stream on the host.
pub struct HostStream {
    handle: Stream,
    /// The process whose thread serves it: a forked child has the record but no thread.
    process: u32,
    queue: Mutex<Queue>,
    filled: Condvar,
    submitted: AtomicU64,
    done: AtomicU64,
    /// Guards nothing; those who wait for `done` sleep on it.
    progress: (Mutex<()>, Condvar),
    worker: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// Every stream of the process, by handle. Handles are never used twice, so that a stale one
/// is seen for what it is.
fn registry() -> &'static RwLock<HashMap<Stream, Arc<HostStream>>> {
    static STREAMS: OnceLock<RwLock<HashMap<Stream, Arc<HostStream>>>> = OnceLock::new();
    STREAMS.get_or_init(Default::default)
}

/// The next handle, and so one more than were ever given.
static NEXT: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// The stream whose work this thread does.
    static SERVED: Cell<Stream> = const { Cell::new(Stream::DEFAULT) };
}

/// Counts forks, cheaper to compare than to ask the system for the process's number.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// Tells this process from the one that it was forked from, once a pool or a stream was made.
pub fn process() -> u32 {
    FORKS.load(Ordering::Relaxed)
}

impl HostStream {
    /// Makes a stream and starts its thread.
    pub fn create() -> Result<Arc<HostStream>> {
        // A multiple of 16, so that a handle does not look like a small integer by mistake.
        let handle = Stream(NEXT.fetch_add(1, Ordering::Relaxed) << 4);
        let stream = Arc::new(HostStream {
            handle,
            process: FORKS.load(Ordering::Relaxed),
            queue: Mutex::default(),
            filled: Condvar::new(),
            submitted: AtomicU64::new(0),
            done: AtomicU64::new(0),
            progress: (Mutex::new(()), Condvar::new()),
            worker: Mutex::new(None),
        });
        let served = Arc::clone(&stream);
        let worker = std::thread::Builder::new()
            .name("forebay-stream".into())
            .spawn(move || served.serve())
            .map_err(|error| fail!(OutOfMemory, "the stream's thread did not start: {error}"))?;
        *stream.worker.lock() = Some(worker);
        registry().write().insert(handle, Arc::clone(&stream));
        Ok(stream)
    }

    /// The stream with this handle.
    pub fn find(handle: Stream) -> Result<Arc<HostStream>> {
        registry().read().get(&handle).cloned().ok_or_else(|| {
            fail!(
                InvalidArgument,
                "stream {:#x} is not a stream of forebay, or was destroyed",
                handle.0
            )
        })
    }

    /// Its handle.
    pub fn handle(&self) -> Stream {
        self.handle
    }

    /// Queues `job` behind everything queued before.
    pub fn submit(&self, job: Job) -> Result<()> {
        self.push(Item::Work(job))
    }

    /// Makes work that is queued later wait until `fence` is passed.
    pub fn wait_for(&self, fence: Fence) -> Result<()> {
        self.push(Item::WaitFor(fence))
    }

    fn push(&self, item: Item) -> Result<()> {
        if self.process != FORKS.load(Ordering::Relaxed) {
            return Err(fail!(
                InvalidState,
                "stream {:#x} was made before fork(); its thread is in the parent. Make a \
                 stream in the child",
                self.handle.0
            ));
        }
        let mut queue = self.queue.lock();
        if queue.closed {
            return Err(fail!(InvalidState, "stream {:#x} is being destroyed", self.handle.0));
        }
        queue.items.push_back(item);
        self.submitted.fetch_add(1, Ordering::Release);
        drop(queue);
        self.filled.notify_one();
        Ok(())
    }

    /// The fence behind everything queued so far.
    pub fn record(&self) -> Fence {
        Fence { stream: self.handle, sequence: self.submitted.load(Ordering::Acquire) }
    }

    /// Waits until `sequence` pieces of work are done. False when the thread that would do
    /// them is not in this process, or is the one that asks.
    pub fn synchronize(&self, sequence: u64) -> bool {
        if SERVED.get() == self.handle {
            return self.done.load(Ordering::Acquire) >= sequence;
        }
        if self.process != FORKS.load(Ordering::Relaxed) {
            // Its locks may be held by a thread that is not in this process.
            return self.done.load(Ordering::Acquire) >= sequence;
        }
        let (lock, progress) = &self.progress;
        let mut guard = lock.lock();
        while self.done.load(Ordering::Acquire) < sequence {
            guard = progress.wait(guard);
        }
        true
    }

    /// Finishes what is queued, ends the thread and forgets the stream.
    pub fn destroy(&self) -> Result<()> {
        if self.process != FORKS.load(Ordering::Relaxed) {
            registry().write().remove(&self.handle);
            return Ok(());
        }
        self.queue.lock().closed = true;
        self.filled.notify_one();
        let worker = self.worker.lock().take();
        if let Some(worker) = worker {
            if worker.thread().id() == std::thread::current().id() {
                *self.worker.lock() = Some(worker);
                self.queue.lock().closed = false;
                return Err(fail!(
                    InvalidState,
                    "stream {:#x} cannot be destroyed by its own work",
                    self.handle.0
                ));
            }
            // The worker catches what its jobs throw, so there is no panic to pass on.
            let _ = worker.join();
        }
        registry().write().remove(&self.handle);
        Ok(())
    }

    fn serve(&self) {
        SERVED.set(self.handle);
        loop {
            let item = {
                let mut queue = self.queue.lock();
                loop {
                    if let Some(item) = queue.items.pop_front() {
                        break item;
                    }
                    if queue.closed {
                        return;
                    }
                    queue = self.filled.wait(queue);
                }
            };
            match item {
                Item::Work(job) => {
                    // Work that panics must not take the stream with it: the next piece and
                    // everybody who waits go on.
                    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).is_err() {
                        tracing::error!(stream = self.handle.0, "work on a stream panicked");
                    }
                }
                Item::WaitFor(fence) => {
                    HostOrder.wait(fence);
                }
            }
            let (lock, progress) = &self.progress;
            let guard = lock.lock();
            self.done.fetch_add(1, Ordering::Release);
            drop(guard);
            progress.notify_all();
        }
    }
}

/// The list of streams, held across a fork.
pub struct Held(#[allow(dead_code)] RwLockWriteGuard<'static, HashMap<Stream, Arc<HostStream>>>);

/// For a fork: holds the list of streams.
pub fn before_fork() -> Held {
    Held(registry().write())
}

/// The streams of the parent have no threads here.
pub fn after_fork_in_child() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// The order of the host's streams.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostOrder;

impl HostOrder {
    /// Whether `fence` is passed; an error when there never was such a stream, or when it is
    /// ahead of what was queued: nobody recorded it, and who waited for it might wait forever.
    pub fn query(fence: Fence) -> Result<bool> {
        HostOrder::existed(fence.stream)?;
        let stream = registry().read().get(&fence.stream).cloned();
        let Some(stream) = stream else { return Ok(true) };
        let queued = stream.submitted.load(Ordering::Acquire);
        if fence.sequence > queued {
            return Err(fail!(
                InvalidArgument,
                "fence.sequence is {}; only {queued} pieces of work were queued on stream {:#x}",
                fence.sequence,
                fence.stream.0
            ));
        }
        Ok(stream.done.load(Ordering::Acquire) >= fence.sequence)
    }

    fn existed(stream: Stream) -> Result<()> {
        let known = stream.0 & 15 == 0 && stream.0 >> 4 < NEXT.load(Ordering::Relaxed);
        if known {
            return Ok(());
        }
        Err(fail!(InvalidArgument, "stream {:#x} is not a stream of forebay", stream.0))
    }
}

impl Order for HostOrder {
    fn check(&self, stream: Stream) -> Result<()> {
        if stream == Stream::DEFAULT { Ok(()) } else { HostStream::find(stream).map(|_| ()) }
    }

    fn is_immediate(&self, stream: Stream) -> bool {
        stream == Stream::DEFAULT
    }

    fn mark(&self, stream: Stream) -> u64 {
        let stream = registry().read().get(&stream).cloned();
        stream.map_or(0, |stream| stream.submitted.load(Ordering::Acquire))
    }

    fn passed(&self, stream: Stream) -> u64 {
        let stream = registry().read().get(&stream).cloned();
        stream.map_or(u64::MAX, |stream| stream.done.load(Ordering::Acquire))
    }

    fn began(&self, stream: Stream) -> u64 {
        // No handle serves twice.
        let there = stream == Stream::DEFAULT || registry().read().contains_key(&stream);
        if there { 0 } else { u64::MAX }
    }

    fn make_wait(&self, stream: Stream, fence: Fence) -> bool {
        // Its own work is running already; only what is queued behind it would wait.
        SERVED.get() != stream
            && HostStream::find(stream).is_ok_and(|stream| stream.wait_for(fence).is_ok())
    }

    fn wait(&self, fence: Fence) -> bool {
        let stream = registry().read().get(&fence.stream).cloned();
        stream.is_none_or(|stream| stream.synchronize(fence.sequence))
    }

    fn wait_for_all(&self) -> Result<()> {
        let streams: Vec<_> = registry().read().values().cloned().collect();
        let stuck = streams
            .iter()
            .find(|stream| !stream.synchronize(stream.submitted.load(Ordering::Acquire)));
        stuck.map_or(Ok(()), |stream| {
            Err(fail!(
                InvalidState,
                "stream {:#x} is not done and cannot be waited for: this is work on it, or it \
                 was made before fork()",
                stream.handle.0
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn work_is_done_in_order() {
        let stream = HostStream::create().unwrap();
        let (sender, receiver) = channel();
        for number in 0..100 {
            let sender = sender.clone();
            stream.submit(Box::new(move || sender.send(number).unwrap())).unwrap();
        }
        let fence = stream.record();
        assert!(HostOrder.wait(fence));
        assert!(HostOrder::query(fence).unwrap());
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
        stream.destroy().unwrap();
    }

    #[test]
    fn one_stream_waits_for_another() {
        let (first, second) = (HostStream::create().unwrap(), HostStream::create().unwrap());
        let (open, gate) = channel::<()>();
        let (sender, receiver) = channel();
        let done = sender.clone();
        first
            .submit(Box::new(move || {
                gate.recv().unwrap();
                done.send("first").unwrap();
            }))
            .unwrap();
        let fence = first.record();
        assert!(!HostOrder::query(fence).unwrap());
        second.wait_for(fence).unwrap();
        second.submit(Box::new(move || sender.send("second").unwrap())).unwrap();
        open.send(()).unwrap();
        second.destroy().unwrap();
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), ["first", "second"]);
        first.destroy().unwrap();
        assert!(HostOrder::query(fence).unwrap(), "a destroyed stream is done with everything");
    }

    #[test]
    fn a_panic_in_the_work_does_not_stop_the_stream() {
        let stream = HostStream::create().unwrap();
        stream.submit(Box::new(|| panic!("expected in this test"))).unwrap();
        let (sender, receiver) = channel();
        stream.submit(Box::new(move || sender.send(()).unwrap())).unwrap();
        receiver.recv().unwrap();
        stream.destroy().unwrap();
        assert!(stream.submit(Box::new(|| ())).is_err());
        assert!(HostStream::find(stream.handle()).is_err());
        assert!(HostOrder::query(Fence { stream: Stream(8), sequence: 0 }).is_err());
    }
}
