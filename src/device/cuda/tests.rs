use super::stand_in::{self, with};
use super::*;

fn cuda(api: &Arc<DriverApi>) -> Cuda {
    Cuda::with_driver(api, &CudaOptions::default()).unwrap()
}

/// What a call does between the four that make the context current and the capture mode
/// relaxed, and the two after.
fn calls_of(body: impl FnOnce()) -> Vec<&'static str> {
    with(|driver| driver.take_log());
    body();
    let log = with(|driver| driver.take_log());
    let around = |name: &&str| name.starts_with("cuCtx") || name.starts_with("cuThread");
    log.into_iter().filter(|name| !around(name)).collect()
}

/// Every mapping is one that the table knows, with access, and nothing is mapped twice.
fn validate(cuda: &Cuda) {
    let Ground::Pages(_, arenas) = &cuda.ground else { return };
    let known: usize = arenas.lock().iter().map(|arena| arena.mapped()).sum();
    with(|driver| {
        assert_eq!(driver.mapped.len(), known);
        assert!(driver.mapped.values().all(|&(_, access)| access));
        let mut handles: Vec<u64> = driver.mapped.values().map(|&(handle, _)| handle).collect();
        handles.sort_unstable();
        handles.dedup();
        assert_eq!(handles.len(), known, "a page is mapped twice");
        assert_eq!(driver.held(), known + cuda.context.keep.len(), "a page is lost");
        assert!(driver.current.is_empty() && driver.mode == 0, "left as it was found");
    });
}

#[test]
fn pages_are_created_once_and_mapped_again() {
    let api = stand_in::fresh();
    let cuda = cuda(&api);
    let (base, bytes) = cuda.reserve(16 * PAGE, PAGE).unwrap();
    assert_eq!(bytes, 16 * PAGE);
    let commit = calls_of(|| cuda.commit(base, 2 * PAGE).unwrap());
    let (create, map) = ("cuMemCreate", "cuMemMap");
    assert_eq!(commit, [create, create, map, map, "cuMemSetAccess"]);
    validate(&cuda);
    let decommit = calls_of(|| cuda.decommit(base, 2 * PAGE, GiveBack::Lazily).unwrap());
    assert_eq!(decommit, ["cuMemUnmap"], "one for the range, and the pages are kept");
    let again = calls_of(|| cuda.commit(base + 3 * PAGE as usize, 3 * PAGE).unwrap());
    assert_eq!(again, [create, map, map, map, "cuMemSetAccess"]);
    validate(&cuda);
    let to = base + 9 * PAGE as usize;
    let moved = calls_of(|| cuda.move_pages(base + 3 * PAGE as usize, to, 3 * PAGE).unwrap());
    assert_eq!(moved, [map, map, map, "cuMemSetAccess", "cuMemUnmap"]);
    validate(&cuda);
    let now = calls_of(|| cuda.decommit(to, 3 * PAGE, GiveBack::Now).unwrap());
    assert_eq!(now, ["cuMemUnmap", "cuMemRelease", "cuMemRelease", "cuMemRelease"]);
    assert_eq!(with(|driver| driver.held()), 0);
    cuda.release(base, bytes);
    with(|driver| assert!(driver.reserved.is_empty()));
    drop(cuda);
    with(|driver| assert_eq!(driver.retained, 0));
}

#[test]
fn one_pool_s_kept_pages_serve_another() {
    let api = stand_in::fresh();
    with(|driver| driver.room = 2);
    let (first, second) = (cuda(&api), cuda(&api));
    let (from, _) = first.reserve(4 * PAGE, PAGE).unwrap();
    let (to, _) = second.reserve(4 * PAGE, PAGE).unwrap();
    first.commit(from, 2 * PAGE).unwrap();
    assert_eq!(second.commit(to, PAGE).unwrap_err().kind(), Kind::OutOfMemory);
    first.decommit(from, 2 * PAGE, GiveBack::Lazily).unwrap();
    second.commit(to, 2 * PAGE).unwrap();
    second.release(to, 4 * PAGE);
    first.release(from, 4 * PAGE);
    with(|driver| assert_eq!((driver.held(), driver.reserved.len()), (0, 0)));
}

#[test]
fn contents_move_with_the_pages_and_work_goes_on_the_stream() {
    let api = stand_in::fresh();
    let cuda = cuda(&api);
    let (base, _) = cuda.reserve(8 * PAGE, PAGE).unwrap();
    let at = |page: u64| base + (page * PAGE) as usize;
    cuda.commit(at(0), 2 * PAGE).unwrap();
    // SAFETY: the bytes have pages and belong to the test.
    unsafe {
        cuda.fill(at(0), 1000, 7, 0).unwrap();
        cuda.copy(at(0), at(1), 1000, 0).unwrap();
        assert!(cuda.fill(at(0), 1, 7, 0x30).is_err(), "there is no such stream");
        assert!(cuda.fill(at(5), 1, 7, 0).is_err(), "there is no such page");
        cuda.move_pages(at(1), at(4), PAGE).unwrap();
        assert_eq!(cuda.find_other(at(4), 1000, 7, 0).unwrap(), None);
        assert_eq!(cuda.find_other(at(4), 1001, 7, 0).unwrap(), Some(at(4) + 1000));
        assert!(cuda.find_other(at(1), 1, 7, 0).is_err(), "its page has moved");
    }
}

#[test]
fn a_shared_page_stays() {
    let api = stand_in::fresh();
    let cuda = cuda(&api);
    let (base, _) = cuda.reserve(8 * PAGE, PAGE).unwrap();
    cuda.commit(base, 3 * PAGE).unwrap();
    let middle = base + PAGE as usize;
    let descriptor = cuda.share(middle).unwrap();
    assert!(cuda.is_shared(base, 2 * PAGE) && !cuda.is_shared(base, PAGE));
    let to = base + 4 * PAGE as usize;
    let error = cuda.move_pages(base, to, 3 * PAGE).unwrap_err();
    assert!(error.message().contains("shared"), "{error}");
    assert!(cuda.decommit(middle, PAGE, GiveBack::Now).is_err());
    validate(&cuda);
    cuda.move_pages(base, to, PAGE).unwrap();
    drop(descriptor);
    cuda.release(base, 8 * PAGE);
    with(|driver| assert_eq!(driver.held(), 0));
}

#[test]
fn a_driver_without_pages_gives_one_plain_allocation() {
    let api = stand_in::without(&["cuMemMap"]);
    let cuda = cuda(&api);
    assert!(!cuda.can_move());
    let (base, bytes) = cuda.reserve(200 * PAGE, PAGE).unwrap();
    assert!(bytes < 64 * PAGE && (base as u64).is_multiple_of(PAGE), "as much as there is");
    let calls = calls_of(|| {
        cuda.commit(base, PAGE).unwrap();
        cuda.decommit(base, PAGE, GiveBack::Now).unwrap();
    });
    assert!(calls.is_empty());
    let error = cuda.move_pages(base, base + PAGE as usize, PAGE).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(cuda.share(base).is_err());
    cuda.release(base, bytes);
    with(|driver| assert!(driver.plain.is_empty()));
    let peers = CudaOptions { ordinal: 0, peers: vec![1] };
    assert_eq!(Cuda::with_driver(&api, &peers).err().unwrap().kind(), Kind::Unsupported);
}

#[test]
fn what_a_device_cannot_do_is_said() {
    let api = stand_in::fresh();
    let none = CudaOptions { ordinal: 2, peers: vec![] };
    let error = Cuda::with_driver(&api, &none).err().unwrap();
    assert!(error.message().contains("device_index is 2; this machine has 2"), "{error}");
    let itself = CudaOptions { ordinal: 0, peers: vec![0] };
    assert!(Cuda::with_driver(&api, &itself).is_err());
    let peer = CudaOptions { ordinal: 0, peers: vec![1] };
    assert!(Cuda::with_driver(&api, &peer).is_ok());
    with(|driver| driver.granularity = 64 << 20);
    let error = Cuda::with_driver(&api, &CudaOptions::default()).err().unwrap();
    assert!(error.message().contains("67108864"), "{error}");
}

#[test]
fn another_context_stays_current() {
    let api = stand_in::fresh();
    let cuda = cuda(&api);
    with(|driver| driver.current = vec![7]);
    let (base, bytes) = cuda.reserve(PAGE, PAGE).unwrap();
    with(|driver| driver.mode = 1);
    cuda.commit(base, PAGE).unwrap();
    with(|driver| assert_eq!((&driver.current[..], driver.mode), (&[7][..], 1)));
    // Where it is current already, it is not pushed.
    with(|driver| driver.current.push(cuda.context.raw() as usize));
    with(|driver| driver.take_log());
    cuda.decommit(base, PAGE, GiveBack::Lazily).unwrap();
    with(|driver| assert!(!driver.log.contains(&"cuCtxPushCurrent_v2")));
    cuda.release(base, bytes);
}

/// A run of all page calls; what fails is tried again once.
fn script(cuda: &Cuda) -> Result<()> {
    let twice = |call: &dyn Fn() -> Result<()>| {
        call().or_else(|_| {
            validate(cuda);
            call()
        })
    };
    let (base, bytes) = cuda.reserve(16 * PAGE, 16 * PAGE).or_else(|_| {
        validate(cuda);
        cuda.reserve(16 * PAGE, 16 * PAGE)
    })?;
    let at = |page: u64| base + (page * PAGE) as usize;
    twice(&|| cuda.commit(at(0), 4 * PAGE))?;
    twice(&|| cuda.move_pages(at(0), at(8), 2 * PAGE))?;
    twice(&|| cuda.decommit(at(2), 2 * PAGE, GiveBack::Lazily))?;
    twice(&|| cuda.commit(at(0), 3 * PAGE))?;
    twice(&|| cuda.move_pages(at(8), at(3), 2 * PAGE))?;
    twice(&|| cuda.decommit(at(0), 5 * PAGE, GiveBack::Now))?;
    validate(cuda);
    cuda.release(base, bytes);
    Ok(())
}

#[test]
fn whichever_call_fails_nothing_is_lost() {
    let api = stand_in::fresh();
    let whole = {
        let cuda = cuda(&api);
        let before = api.calls();
        script(&cuda).unwrap();
        api.calls() - before
    };
    assert!(whole > 50);
    for number in 0..whole {
        for code in [CUresult::CUDA_ERROR_OUT_OF_MEMORY as u32, 7777] {
            let api = stand_in::fresh();
            let cuda = cuda(&api);
            api.refuse(number, code);
            let failed = script(&cuda).is_err();
            assert!(!failed, "call {number} failed for good");
        }
    }
}

/// Two calls fail, so that undoing what the first one broke off may fail as well. The pages
/// may not be what they were, but none serves two ranges and the driver is left as it was.
#[test]
fn undoing_may_fail_too() {
    let code = CUresult::CUDA_ERROR_UNKNOWN as u32;
    for first in 0..16 {
        for gap in 0..8 {
            let api = stand_in::fresh();
            let cuda = cuda(&api);
            let (base, bytes) = cuda.reserve(8 * PAGE, PAGE).unwrap();
            let to = base + 4 * PAGE as usize;
            cuda.commit(base, 2 * PAGE).unwrap();
            with(|driver| driver.refuse_after(first, gap, code));
            let moved = cuda.move_pages(base, to, 2 * PAGE).is_ok();
            with(|driver| driver.refused.clear());
            // The two pages are in one of the two places, and can be used there.
            let (here, there) = if moved { (to, base) } else { (base, to) };
            let ends = |at: usize| [at, at + PAGE as usize];
            // SAFETY: the bytes have pages and belong to the test.
            ends(here).iter().for_each(|&at| unsafe { cuda.fill(at, 8, 5, 0) }.unwrap());
            // The other place can be used too: what was left there is not what is here.
            cuda.commit(there, 2 * PAGE).unwrap();
            // SAFETY: as above.
            ends(there).iter().for_each(|&at| unsafe { cuda.fill(at, 8, 6, 0) }.unwrap());
            // SAFETY: as above.
            let other = ends(here).map(|at| unsafe { cuda.find_other(at, 8, 5, 0) }.unwrap());
            assert_eq!(other, [None, None]);
            cuda.release(base, bytes);
            with(|driver| assert!(driver.mapped.is_empty() && driver.reserved.is_empty()));
        }
    }
}
