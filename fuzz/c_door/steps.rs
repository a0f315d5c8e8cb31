//! The steps of a program: each makes calls, and says what the model makes of their answers.

use super::*;

/// Of no plan.
const USAGE: forebay_plan_usage = forebay_plan_usage {
    struct_size: 0,
    arena_bytes: 0,
    tensors: 0,
    steps: 0,
    served: 0,
    diverged: 0,
    diverged_bytes: 0,
    live: 0,
};

impl Door {
    pub fn step(&mut self, program: &mut Program) {
        match program.byte() {
            0..80 => self.alloc(program),
            80..140 => self.free(program),
            140..152 => self.realloc(program),
            152..160 => self.batch(program),
            160..172 => self.invalid_pointer(program),
            172..180 => self.ask(program),
            180..186 => self.trim(program),
            186..190 => self.set_policy(program),
            190..195 => self.set_limit(program),
            195..200 => self.make_stream(program),
            200..210 => self.close_gate(program),
            210..213 => self.end_stream(program),
            213..222 => self.use_elsewhere(program),
            222..226 => self.synchronize_all(),
            226..228 => self.json(program),
            228..230 => self.plan(program),
            230..234 => self.start_trace(program),
            234..237 => self.stop_trace(),
            237..241 => self.overrun(program),
            241..245 => self.offer_victims(program),
            245..252 => self.bad_arguments(program),
            252..254 => self.free_all(),
            254.. => {
                // SAFETY: a live pool.
                expect(unsafe { forebay_pool_reset_peaks(self.pool) }, ForebayOk);
            }
        }
    }

    fn alloc(&mut self, program: &mut Program) {
        let (size, stream, thread) =
            (self.size(program), self.stream(program), Door::thread(program));
        let alignment = match program.byte() {
            0..200 => 1usize,
            200..245 => 1 << (program.byte() % 22),
            245..250 => 1 << (program.byte() % 31),
            _ => program.pick(&[0, 3, 1 << 31, usize::MAX]),
        };
        let aligned = alignment != 1 || program.rarely(4);
        let (pool, handle) = (self.pool, self.handle(stream));
        let valid = alignment.is_power_of_two() && alignment <= 1 << 30;
        let certain = if valid { self.certain(&[size]) } else { Some(ForebayErrorInvalidArgument) };
        let mut out = std::ptr::dangling_mut::<c_void>();
        let place = &mut out;
        let (status, message) = self.on(thread, || {
            // SAFETY: a live pool and a place for the result.
            let status = unsafe {
                match aligned {
                    true => forebay_alloc_aligned(pool, size, alignment, handle, place),
                    false => forebay_alloc(pool, size, handle, place),
                }
            };
            (status, last_error())
        });
        if self.answered(status, certain) {
            self.adopt(out as usize, size, alignment, stream);
        } else {
            assert_eq!(out, std::ptr::dangling_mut(), "the result was touched");
            assert!(!message.is_empty());
        }
    }

    /// Makes sure that a block may be freed on `stream`: work of other streams on it is
    /// waited for, or recorded.
    pub fn settle(&mut self, address: usize, stream: Option<usize>, record: bool) {
        let live = &self.live[&address];
        let (home, bytes) = (live.home, live.bytes);
        self.submit(home, Work::Check(bytes));
        if home == stream || home.is_none() {
            return;
        }
        if record {
            let (pool, handle) = (self.pool, self.handle(home));
            // SAFETY: a live pool.
            expect(
                unsafe { forebay_record_stream(pool, address as *mut c_void, handle) },
                ForebayOk,
            );
        } else {
            self.synchronize(home);
        }
    }

    fn free(&mut self, program: &mut Program) {
        let (stream, thread, record) =
            (self.stream(program), Door::thread(program), program.rarely(2));
        let Some(address) = self.pick_live(program) else { return };
        self.settle(address, stream, record);
        let live = self.live.remove(&address).unwrap();
        self.unoffer(address);
        let expected = if live.overrun { ForebayErrorCorruption } else { ForebayOk };
        let (pool, handle, ptr) = (self.pool, self.handle(stream), address as *mut c_void);
        // SAFETY: a live pool.
        let status = self.on(thread, || unsafe { forebay_free(pool, ptr, handle) });
        assert_eq!(status, expected);
        self.forget(live);
        Door::look_at_work();
    }

    pub fn unoffer(&mut self, address: usize) {
        self.victims.lock().unwrap().offered.retain(|&offered| offered != address);
    }

    fn realloc(&mut self, program: &mut Program) {
        let (size, stream, thread) =
            (self.size(program), self.stream(program), Door::thread(program));
        let address = if program.rarely(8) { None } else { self.pick_live(program) };
        if let Some(address) = address {
            // All work on it is to be done before its bytes are copied.
            let live = &self.live[&address];
            if live.overrun {
                return;
            }
            for user in [live.home].into_iter().chain(live.followers.clone().into_iter().map(Some))
            {
                self.synchronize(user);
            }
            self.unoffer(address);
        }
        let (pool, handle) = (self.pool, self.handle(stream));
        let ptr = address.unwrap_or(0) as *mut c_void;
        let mut out = std::ptr::dangling_mut::<c_void>();
        let place = &mut out;
        // SAFETY: a live pool and a place for the result.
        let status = self.on(thread, || unsafe { forebay_realloc(pool, ptr, size, handle, place) });
        let certain = match size as u64 {
            1..=SIZE_MAX => None,
            _ => Some(ForebayErrorInvalidArgument),
        };
        if !self.answered(status, certain) {
            assert_eq!(out, std::ptr::dangling_mut(), "the result was touched");
            return;
        }
        let Some(address) = address else { return self.adopt(out as usize, size, 1, stream) };
        let mut old = self.live.remove(&address).unwrap();
        let now = out as usize;
        let kept = Bytes { address: now, ..old.bytes };
        let wrong = kept.wrong(size.min(kept.size));
        assert!(wrong.is_none(), "after realloc to {size} at {now:#x}: {wrong:?}");
        if now == address {
            // In place: no block came or went, unless it is traced or counted as one of each.
            let stats = self.stats();
            let calls = stats.allocations - self.allocations;
            assert_eq!(calls, stats.frees - self.frees);
            self.allocations += calls;
            self.frees += calls;
            self.add_rows(2 * calls);
            old.bytes.size = size;
            old.home = stream;
            let below = self.live.range(..now + size).next_back();
            if let Some((&at, live)) = below {
                assert!(at + live.bytes.size <= now, "grew into {:x?}", live.bytes);
            }
            self.submit(stream, Work::Fill(old.bytes));
            self.live.insert(address, old);
        } else {
            self.forget(old);
            // Its first bytes are not zero by promise: they are the old ones.
            let policy = std::mem::replace(&mut self.policy, 0);
            let flags = std::mem::replace(&mut self.config.flags, 0);
            self.adopt(now, size, 1, stream);
            (self.policy, self.config.flags) = (policy, flags);
        }
    }

    fn batch(&mut self, program: &mut Program) {
        let (stream, thread) = (self.stream(program), Door::thread(program));
        let (pool, handle) = (self.pool, self.handle(stream));
        if program.rarely(2) {
            let sizes: Vec<usize> =
                (0..program.byte() % 40).map(|_| self.size(program) % (1 << 20) + 1).collect();
            let nothing = std::ptr::dangling_mut::<c_void>();
            let mut out = vec![nothing; sizes.len()];
            let place = &mut out;
            let certain = self.certain(&sizes);
            let status = self.on(thread, || {
                let out = place.as_mut_ptr();
                // SAFETY: a live pool, and as many results as sizes.
                unsafe { forebay_alloc_batch(pool, sizes.as_ptr(), sizes.len(), handle, out) }
            });
            let done = self.answered(status, certain);
            if done {
                for (&ptr, &size) in out.iter().zip(&sizes) {
                    self.adopt(ptr as usize, size, 1, stream);
                }
            } else {
                assert!(out.iter().all(|&ptr| ptr == nothing), "results were touched");
                // Those that came before the one that failed were given back.
                let stats = self.stats();
                let undone = stats.allocations - self.allocations;
                assert!(undone < sizes.len() as u64);
                assert_eq!(stats.frees - self.frees, undone);
                self.allocations += undone;
                self.frees += undone;
                self.add_rows(2 * undone);
            }
            return;
        }
        let mut ptrs = Vec::new();
        for _ in 0..program.byte() % 40 {
            match self.pick_live(program) {
                Some(address) if !ptrs.contains(&address) && !self.live[&address].overrun => {
                    self.settle(address, stream, false);
                    self.unoffer(address);
                    ptrs.push(address);
                }
                _ => ptrs.push(0),
            }
        }
        // A wrong one ends it there.
        let wrong = program.rarely(3).then(|| program.below(ptrs.len() + 1));
        if let Some(at) = wrong {
            ptrs.insert(at, self.pick_invalid(program));
        }
        let count = wrong.unwrap_or(ptrs.len());
        let mut freed = usize::MAX;
        let place = &mut freed;
        let status = self.on(thread, || {
            let list = ptrs.as_ptr().cast();
            // SAFETY: a live pool, a list, and a place for the number.
            unsafe { forebay_free_batch(pool, list, ptrs.len(), handle, place) }
        });
        assert_eq!(freed, count);
        for address in &ptrs[..count] {
            if let Some(live) = self.live.remove(address) {
                self.forget(live);
            }
        }
        match wrong {
            None => assert_eq!(status, ForebayOk),
            Some(_) => {
                self.invalid += 1;
                assert_eq!(status, ForebayErrorInvalidPointer);
            }
        }
    }

    /// Frees, reallocs, asks about and records what is no live block.
    fn invalid_pointer(&mut self, program: &mut Program) {
        let (stream, thread) = (self.stream(program), Door::thread(program));
        let address = self.pick_invalid(program);
        let (pool, handle, ptr) = (self.pool, self.handle(stream), address as *mut c_void);
        let (which, size) = (program.byte() % 6, 1 + program.number(2) as usize);
        let mut out = std::ptr::dangling_mut::<c_void>();
        let mut usable = 7usize;
        let (out_place, usable_place) = (&mut out, &mut usable);
        let status = self.on(thread, || {
            // SAFETY: a live pool, and places for the results.
            unsafe {
                match which {
                    0..3 => forebay_free(pool, ptr, handle),
                    3 => forebay_realloc(pool, ptr, size, handle, out_place),
                    4 => forebay_record_stream(pool, ptr, handle),
                    _ => forebay_usable_size(pool, ptr, usable_place),
                }
            }
        });
        assert_eq!(status, ForebayErrorInvalidPointer, "{address:#x} in call {which}");
        assert_eq!((out, usable), (std::ptr::dangling_mut(), 7), "a result was touched");
        self.invalid += 1;
    }

    fn ask(&mut self, program: &mut Program) {
        let live = self.pick_live(program);
        let Some(address) = live else { return };
        let size = self.live[&address].bytes.size;
        let at = address + program.number(3) as usize % size;
        let (mut block, mut bytes, mut usable) = (null_mut(), 0, 0);
        // SAFETY: a live pool, and places for the results.
        unsafe {
            expect(
                forebay_pool_owns(self.pool, at as *const c_void, &mut block, &mut bytes),
                ForebayOk,
            );
            assert_eq!(block as usize, address);
            assert!(bytes >= size);
            expect(
                forebay_usable_size(self.pool, address as *const c_void, &mut usable),
                ForebayOk,
            );
            assert!(usable >= size && usable <= bytes);
            let gone = self.freed.front().copied().unwrap_or(8);
            expect(
                forebay_pool_owns(self.pool, gone as *const c_void, &mut block, null_mut()),
                ForebayOk,
            );
        }
        let inside = self.live.range(..=self.freed.front().copied().unwrap_or(8)).next_back();
        // Between the bytes asked for and the block's end both answers are right.
        assert!(block.is_null() || inside.is_some_and(|(&at, _)| at == block as usize));
    }

    fn trim(&mut self, program: &mut Program) {
        let before = self.stats();
        if program.rarely(3) {
            let mut report = forebay_defrag_report {
                struct_size: size_of::<forebay_defrag_report>(),
                pages_moved: 0,
                bytes_gained: 0,
                system_calls: 0,
                largest_free_before: 0,
                largest_free_after: 0,
            };
            // SAFETY: a live pool and a report.
            expect(unsafe { forebay_pool_defragment(self.pool, &mut report) }, ForebayOk);
            assert!(report.largest_free_after >= report.largest_free_before);
            assert_eq!(self.stats().reserved_bytes, before.reserved_bytes);
        } else {
            let keep = if program.rarely(2) { 0 } else { program.number(4) as usize };
            let mut released = usize::MAX;
            // SAFETY: a live pool and a place for the number.
            expect(unsafe { forebay_pool_trim(self.pool, keep, &mut released) }, ForebayOk);
            let after = self.stats().reserved_bytes;
            assert_eq!(after + released as u64, before.reserved_bytes);
            assert!(after >= (keep as u64).min(before.reserved_bytes), "it kept too little");
        }
        self.look_at_all();
    }

    /// Applies a plan to the pool, ends that, or begins a step. Whatever is served from it, the model
    /// is the same.
    fn plan(&mut self, program: &mut Program) {
        let none = if self.planned { ForebayOk } else { ForebayErrorInvalidState };
        match program.byte() % 4 {
            // SAFETY: a live pool.
            0 => expect(unsafe { forebay_pool_begin_step(self.pool) }, none),
            1 => {
                let mut usage =
                    forebay_plan_usage { struct_size: size_of::<forebay_plan_usage>(), ..USAGE };
                // SAFETY: a live pool and a place for the numbers.
                expect(unsafe { forebay_pool_plan_usage(self.pool, &mut usage) }, none);
                let free = self.planned && usage.live == 0;
                let expected = if free { ForebayOk } else { ForebayErrorInvalidState };
                // SAFETY: a live pool.
                expect(unsafe { forebay_pool_remove_plan(self.pool) }, expected);
                self.planned &= !free;
            }
            _ => self.apply_plan(program),
        }
    }

    fn apply_plan(&mut self, program: &mut Program) {
        let (mut lifetime, mut plan) = (null_mut(), null_mut());
        let stream = self.stream(program);
        let handle = self.handle(stream);
        // SAFETY: places for results, and what was made in them.
        let status = unsafe {
            expect(forebay_lifetime_create(&mut lifetime), ForebayOk);
            let mut live = VecDeque::new();
            for id in 0..1 + u64::from(program.byte() % 32) {
                let size = 1 + program.number(3) % 300_000;
                expect(forebay_lifetime_record_alloc(lifetime, 2 * id, id, size), ForebayOk);
                // So large that small sizes are all alike, and random ones are met.
                expect(forebay_lifetime_align(lifetime, id, 64 << 10), ForebayOk);
                live.push_back(id);
                if live.len() > 6
                    && let Some(old) = live.remove(program.below(live.len()))
                {
                    expect(forebay_lifetime_record_free(lifetime, 2 * id + 1, old), ForebayOk);
                }
            }
            let options = forebay_plan_options {
                struct_size: size_of::<forebay_plan_options>(),
                time_limit_ms: 0,
                seed: 0,
                flags: FOREBAY_PLAN_GREEDY,
                reserved: 0,
                progress: None,
                user: null_mut(),
            };
            expect(forebay_lifetime_plan(lifetime, &options, &mut plan), ForebayOk);
            let status = forebay_pool_apply_plan(self.pool, plan, handle);
            expect(forebay_plan_destroy(plan), ForebayOk);
            expect(forebay_lifetime_destroy(lifetime), ForebayOk);
            status
        };
        let poison = FOREBAY_POOL_POISON_ON_FREE | FOREBAY_POOL_GUARD_BYTES;
        if self.planned || self.config.flags & poison != 0 {
            expect(status, ForebayErrorInvalidState);
        } else {
            // Offsets are multiples of 64 KiB, which are not enough for larger blocks.
            let odd = status == ForebayErrorInvalidArgument && self.config.block_size > 64 << 10;
            let fits = matches!(status, ForebayOk | ForebayErrorOutOfMemory);
            assert!(fits || odd, "{status:?}: {}", last_error());
            self.planned = status == ForebayOk;
        }
        self.bury_victims();
        self.look_at_all();
    }

    fn set_policy(&mut self, program: &mut Program) {
        let policy = i32::from(program.byte() % 7) - 1;
        // SAFETY: a live pool.
        let status = unsafe { forebay_pool_set_policy(self.pool, policy) };
        if (0..5).contains(&policy) {
            expect(status, ForebayOk);
            self.policy = policy;
        } else {
            expect(status, ForebayErrorInvalidArgument);
        }
    }

    fn set_limit(&mut self, program: &mut Program) {
        let limit = match program.byte() % 6 {
            0 => program.number(3),
            1 => program.pick(&[1, PAGE - 1, 1 << 60, u64::MAX]),
            2 => 0,
            _ => PAGE * (1 + program.number(1) % 40),
        };
        // SAFETY: a live pool.
        let status = unsafe { forebay_pool_set_limit(self.pool, limit) };
        let too_small = limit != 0 && (limit < PAGE || limit / PAGE * PAGE < self.requested());
        let now = self.stats().limit_bytes;
        match status {
            ForebayOk => {
                assert!(!too_small, "{limit} was accepted");
                assert!(limit == 0 || now == limit / PAGE * PAGE);
                self.limit = now;
            }
            _ => {
                expect(status, ForebayErrorInvalidArgument);
                assert_eq!(now, self.limit);
            }
        }
        self.look_at_all();
    }

    fn make_stream(&mut self, _: &mut Program) {
        if self.streams.len() >= 3 {
            return;
        }
        let mut handle = null_mut();
        // SAFETY: a place for the result.
        expect(unsafe { forebay_stream_create(&mut handle) }, ForebayOk);
        assert!(!handle.is_null() && !self.destroyed.contains(&handle));
        self.streams.push(StreamModel { handle, gate: None });
    }

    /// Everything that is queued on a stream from now on waits.
    fn close_gate(&mut self, program: &mut Program) {
        let Some(number) = self.stream(program) else { return };
        self.synchronize(Some(number));
        let gate = Arc::new(Gate { open: Mutex::new(false), opened: Condvar::new() });
        self.submit(Some(number), Work::Wait(Arc::clone(&gate)));
        self.streams[number].gate = Some(gate);
    }

    fn end_stream(&mut self, program: &mut Program) {
        let Some(number) = self.stream(program) else { return };
        let handle = self.streams[number].handle;
        if program.rarely(2) {
            // Without opening its gate: what is queued is done first all the same.
            expect(forebay_stream_destroy(handle), ForebayOk);
            Door::look_at_work();
        } else {
            self.synchronize_all();
            expect(forebay_stream_destroy(handle), ForebayOk);
        }
        self.streams.swap_remove(number);
        self.destroyed.push(handle);
        let (last, gone) = (self.streams.len(), number);
        for live in self.live.values_mut() {
            live.home = match live.home {
                Some(home) if home == gone => None,
                Some(home) if home == last => Some(gone),
                home => home,
            };
            live.followers.retain(|&follower| follower != gone);
            for follower in &mut live.followers {
                if *follower == last {
                    *follower = gone;
                }
            }
        }
        expect(forebay_stream_destroy(handle), ForebayErrorInvalidArgument);
        expect(forebay_stream_synchronize(handle), ForebayErrorInvalidArgument);
    }

    /// Work on another stream reads a block, behind the work of its own stream.
    fn use_elsewhere(&mut self, program: &mut Program) {
        let (Some(address), Some(number)) = (self.pick_live(program), self.stream(program)) else {
            return;
        };
        let thread = Door::thread(program);
        let (home, bytes) = (self.live[&address].home, self.live[&address].bytes);
        let (pool, handle) = (self.pool, self.streams[number].handle);
        let mut fence = forebay_fence::default();
        // SAFETY: a live pool and a place for the fence.
        unsafe {
            expect(forebay_stream_record(self.handle(home), &mut fence), ForebayOk);
            expect(forebay_stream_wait(handle, fence), ForebayOk);
            self.submit(Some(number), Work::Check(bytes));
            let ptr = address as *mut c_void;
            let status = self.on(thread, || forebay_record_stream(pool, ptr, handle));
            assert_eq!(status, ForebayOk);
        }
        if home != Some(number) {
            self.live.get_mut(&address).unwrap().followers.push(number);
        }
    }

    fn json(&mut self, program: &mut Program) {
        let mut length = 0;
        // SAFETY: a live pool; no buffer and its capacity of 0.
        expect(
            unsafe { forebay_pool_stats_json(self.pool, null_mut(), 0, &mut length) },
            ForebayOk,
        );
        let capacity = (length + 2).saturating_sub(program.byte() as usize % 8);
        let mut buffer = vec![0x7Fu8; length + 64];
        let mut again = 0;
        // SAFETY: as above, with a buffer of at least `capacity`.
        let status = unsafe {
            forebay_pool_stats_json(
                self.pool,
                buffer.as_mut_ptr().cast::<c_char>(),
                capacity,
                &mut again,
            )
        };
        let written = if again < capacity { again + 1 } else { 0 };
        assert!(buffer[written..].iter().all(|&byte| byte == 0x7F), "written past the end");
        if again < capacity {
            expect(status, ForebayOk);
            let text = std::str::from_utf8(&buffer[..again]).expect("JSON is UTF-8");
            assert!(text.starts_with('{') && text.ends_with('}') && buffer[again] == 0);
            let depth = text.bytes().fold(0, |depth, byte| match byte {
                b'{' | b'[' => depth + 1,
                b'}' | b']' => depth - 1,
                _ => depth,
            });
            assert_eq!(depth, 0, "{text}");
        } else {
            expect(status, ForebayErrorInvalidArgument);
        }
    }

    fn start_trace(&mut self, program: &mut Program) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed) % 1024;
        let end = if program.rarely(2) { "csv" } else { "csv.gz" };
        let name = format!("forebay-door-{}-{number}.{end}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let path = CString::new(path.into_os_string().into_encoded_bytes()).unwrap();
        match &self.trace {
            None => {
                // SAFETY: a live pool and a path.
                expect(unsafe { forebay_trace_start(self.pool, path.as_ptr()) }, ForebayOk);
                self.trace = Some((path, 0));
            }
            Some((path, _)) => {
                // SAFETY: as above. The file that is being written stays as it is.
                expect(
                    unsafe { forebay_trace_start(self.pool, path.as_ptr()) },
                    ForebayErrorInvalidState,
                );
            }
        }
    }

    fn stop_trace(&mut self) {
        // SAFETY: a live pool.
        let status = unsafe { forebay_trace_stop(self.pool) };
        let Some((path, rows)) = self.trace.take() else {
            return expect(status, ForebayErrorInvalidState);
        };
        expect(status, ForebayOk);
        Door::count_rows(path, rows);
    }

    pub fn count_rows(path: CString, rows: u64) {
        let path = std::path::PathBuf::from(path.into_string().unwrap());
        let trace = forebay::trace::Trace::load(&path);
        let _ = std::fs::remove_file(&path);
        let trace = trace.unwrap_or_else(|_| panic!("{}", last_error()));
        assert_eq!(trace.events.len() as u64, rows, "rows of the trace");
    }

    /// Writes behind a block, where guard bytes are.
    fn overrun(&mut self, program: &mut Program) {
        if !self.has_flag(FOREBAY_POOL_GUARD_BYTES) {
            return;
        }
        let Some(address) = self.pick_live(program) else { return };
        let home = self.live[&address].home;
        self.synchronize(home);
        self.unoffer(address);
        let size = self.live[&address].bytes.size;
        // SAFETY: guard bytes, of which there are 16.
        unsafe { ((address + size) as *mut u8).add(program.byte() as usize % 16).write(0) };
        self.live.get_mut(&address).unwrap().overrun = true;
        self.check();
    }

    /// Lets the out-of-memory callback free some blocks, or takes it away.
    fn offer_victims(&mut self, program: &mut Program) {
        let user = (&raw const *self.victims).cast_mut().cast();
        let callback: forebay_oom_fn = if program.rarely(4) { None } else { Some(free_a_victim) };
        // SAFETY: `victims` lives as long as the pool.
        expect(unsafe { forebay_pool_set_oom_callback(self.pool, callback, user) }, ForebayOk);
        self.victims.lock().unwrap().offered.clear();
        if callback.is_none() {
            return;
        }
        for _ in 0..program.byte() % 4 {
            let Some(address) = self.pick_live(program) else { return };
            let live = &self.live[&address];
            let offered = &mut self.victims.lock().unwrap().offered;
            // Their owner, the program, is done with them.
            if live.home.is_none() && !live.overrun && !offered.contains(&address) {
                offered.push(address);
            }
        }
    }

    fn bad_arguments(&mut self, program: &mut Program) {
        let pool = self.pool;
        let mut out = std::ptr::dangling_mut::<c_void>();
        let bogus = program.pick(&[1usize, 15, 1 << 60, usize::MAX]) as forebay_stream;
        // SAFETY: NULLs and numbers that are no streams are errors, by contract.
        let status = unsafe {
            match program.byte() % 14 {
                0 => forebay_alloc(null_mut(), 16, null_mut(), &mut out),
                1 => forebay_alloc(pool, 16, null_mut(), null_mut()),
                2 => forebay_alloc(pool, 16, bogus, &mut out),
                3 => forebay_free(null_mut(), out, null_mut()),
                4 => match self.pick_live(program) {
                    Some(address) => forebay_free(pool, address as *mut c_void, bogus),
                    None => return,
                },
                5 => forebay_realloc(pool, null_mut(), 16, bogus, &mut out),
                6 => forebay_alloc_batch(pool, std::ptr::null(), 3, null_mut(), &mut out),
                7 => forebay_free_batch(pool, std::ptr::null(), 3, null_mut(), null_mut()),
                8 => forebay_pool_stats(pool, null_mut()),
                9 => {
                    let mut stats = std::mem::zeroed::<forebay_pool_statistics>();
                    forebay_pool_stats(pool, &mut stats)
                }
                10 => forebay_stream_synchronize(bogus),
                11 => forebay_stream_submit(null_mut(), None, null_mut()),
                12 => forebay_trace_start(pool, std::ptr::null()),
                _ => forebay_pool_stats_json(pool, null_mut(), 9, null_mut()),
            }
        };
        expect(status, ForebayErrorInvalidArgument);
        assert_eq!(out, std::ptr::dangling_mut(), "the result was touched");
        // SAFETY: NULL is nothing to free.
        expect(unsafe { forebay_free(pool, null_mut(), null_mut()) }, ForebayOk);
    }
}
