"""Putting forebay in PyTorch's place, in one of two ways."""

import os
import warnings

from .._library import ForebayError, address_of, check, library, library_path

#: Versions of PyTorch that the tests run with, oldest and newest.
OLDEST, NEWEST = (2, 6), (2, 13)

MODES = ("global", "pool")

#: The setters of torch._C._CUDAPluggableAllocator and the hooks that they are given.
_HOOKS = {
    "set_init_fn": "forebay_torch_init",
    "set_reset_fn": "forebay_torch_reset",
    "set_memory_fraction_fn": "forebay_torch_set_memory_fraction",
    "set_base_alloc_fn": "forebay_torch_base_allocation",
    "set_record_stream_fn": "forebay_torch_record_stream",
    "set_begin_allocate_to_pool": "forebay_torch_begin_allocate_to_pool",
    "set_end_allocate_to_pool_fn": "forebay_torch_end_allocate_to_pool",
    "set_release_pool": "forebay_torch_release_pool",
}

_mode = None
#: What PyTorch refers to and must not outlive: allocators and, in pool mode, pools by device.
_allocators = []
_pools = {}


def mode():
    """``"global"``, ``"pool"``, or None as long as forebay is not enabled."""
    return _mode


def _torch():
    """PyTorch, if it is one that can be used; a sentence that says why not."""
    try:
        import torch
    except ImportError as error:
        raise ForebayError(f"forebay.torch needs PyTorch, which cannot be imported: {error}") from None
    if torch.version.cuda is None:
        raise ForebayError(
            f"PyTorch {torch.__version__} is built without CUDA; forebay.torch serves CUDA tensors. "
            "Install a build for CUDA from pytorch.org"
        )
    numbers = torch.__version__.split("+")[0].split(".")
    found = (int(numbers[0]), int(numbers[1]))
    if found < OLDEST:
        raise ForebayError(
            f"PyTorch {torch.__version__} is too old: forebay.torch works from "
            f"{OLDEST[0]}.{OLDEST[1]} on"
        )
    needed = ["_cuda_customAllocator", "_cuda_changeCurrentAllocator"]
    missing = [name for name in needed if not hasattr(torch._C, name)]
    if missing:
        raise ForebayError(
            f"PyTorch {torch.__version__} has no {' and no '.join(missing)}; forebay.torch knows "
            f"versions up to {NEWEST[0]}.{NEWEST[1]}"
        )
    if found > NEWEST:
        warnings.warn(
            f"PyTorch {torch.__version__} is newer than what forebay.torch is tested with "
            f"({NEWEST[0]}.{NEWEST[1]})",
            stacklevel=3,
        )
    return torch


def _text(value, name):
    """A limit or a policy as the library reads it, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise TypeError(
            f"{name} is {value!r}; it must be text"
            + (", bytes as an int or a part of the device as a float" if name == "limit" else "")
        )
    if name == "limit" and isinstance(value, float):
        return f"{value:.9f}".encode()
    return str(value).encode()


def enable(mode=None, *, policy=None, limit=None):
    """Makes forebay PyTorch's CUDA allocator, for all devices, until the process ends.

    ``mode`` is

    ``"global"`` (the default)
        forebay owns every block, through ``change_current_allocator``: memory freed on one stream
        serves another, pages are moved to where they fit. To be called before CUDA is initialised:
        before the first CUDA tensor, ``torch.cuda.set_device`` and the like. ``memory_stats``, snapshots, memory history and out-of-memory observers are
        forebay's own, at the Python layer; what C++ alone reads of PyTorch's allocator is lost:
        ``MemPool``, sharing CUDA tensors between processes, ``cudnn.benchmark``, CUDA graph trees
        (``torch.compile(mode="reduce-overhead")``) and memory events of the profiler. Each of
        them raises an error that names the alternative, but for the profiler, which sees none.
    ``"pool"``
        PyTorch's own allocator goes on, in a ``MemPool`` per device whose segments come from
        forebay: everything that PyTorch has works, and so does its fragmentation within segments.
        A pool in use gives no segment back, so ``empty_cache`` frees nothing of it. From PyTorch
        2.8 on.

    ``policy`` is the name of a policy (``"balanced"``, ``"conservative"``, ``"aggressive_reuse"``,
    ``"quality_first"``, ``"latency_first"``), ``limit`` the most that forebay takes of each device:
    bytes as an int, a part of it as a float, or text (``"20GiB"``, ``"90%"``). What is None is read from
    ``FOREBAY_TORCH_MODE``, ``FOREBAY_TORCH_POLICY`` and ``FOREBAY_TORCH_LIMIT``; else it is
    ``"global"``, ``"balanced"`` and all of the device.

    Calling it again with the same mode does nothing. Raises ``ForebayError`` (a RuntimeError) when
    it comes too late, PyTorch or the library is missing or of the wrong version, or what is given
    cannot be read; then PyTorch is as it was.
    """
    global _mode
    named = "mode" if mode is not None else "FOREBAY_TORCH_MODE"
    wanted = mode if mode is not None else os.environ.get("FOREBAY_TORCH_MODE") or "global"
    if wanted not in MODES:
        raise ForebayError(f"{named} is {wanted!r}; it must be one of {', '.join(map(repr, MODES))}")
    if _mode is not None:
        if wanted != _mode:
            raise ForebayError(
                f"forebay.torch is enabled in mode {_mode!r} already, and stays; start the process "
                f"anew for {wanted!r}"
            )
        return
    library()
    torch = _torch()
    if wanted == "global" and _is_in_use(torch):
        raise ForebayError(_TOO_LATE)
    limit, policy = _text(limit, "limit"), _text(policy, "policy")
    if limit or policy or not any(map(library().forebay_torch_is_used, range(64))):
        check(library().forebay_torch_configure(limit, policy))
    if wanted == "global":
        _enable_global(torch)
    else:
        _enable_pool(torch)
    _mode = wanted


_TOO_LATE = (
    "PyTorch's own allocator is in use already: call forebay.torch.enable() before the first CUDA "
    "tensor, and before torch.cuda.set_device, get_device_properties or anything else that "
    "initialises CUDA (or use mode='pool', which may come later)"
)


def _is_in_use(torch):
    """Whether PyTorch's own allocator has given out memory, or is about to."""
    return torch.cuda.is_initialized()


def _enable_global(torch):
    from . import _patches

    path = library_path()
    allocator = torch.cuda.memory.CUDAPluggableAllocator(
        path, "forebay_torch_malloc", "forebay_torch_free"
    )
    raw = allocator.allocator()
    missing = [setter for setter in _HOOKS if not hasattr(raw, setter)]
    if missing:
        raise ForebayError(
            f"PyTorch {torch.__version__} has no {', '.join(missing)} for allocators; without them "
            "memory could be used again too early"
        )
    for setter, hook in _HOOKS.items():
        getattr(raw, setter)(address_of(hook))
    try:
        torch.cuda.memory.change_current_allocator(allocator)
    except RuntimeError as error:
        if "already initialized" not in str(error):
            raise
        raise ForebayError(_TOO_LATE) from None
    _allocators.append(allocator)
    _patches.apply(torch)


def _enable_pool(torch):
    if not torch.cuda.is_available():
        raise ForebayError("mode='pool' needs a CUDA device, and PyTorch finds none")
    if not can_route(torch):
        raise ForebayError(
            f"PyTorch {torch.__version__} routes allocations to a pool on one thread at a time; "
            "mode='pool' needs 2.8 or later. Use mode='global', or forebay.torch.mem_pool() with "
            "torch.cuda.use_mem_pool"
        )
    for device in range(torch.cuda.device_count()):
        with torch.cuda.device(device):
            pool = _new_pool(torch)
        torch._C._cuda_beginAllocateToPool(device, pool.id)
        _pools[device] = pool


def can_route(torch):
    """Whether all threads' allocations can be sent to one pool: from 2.8 on."""
    return hasattr(torch._C, "_cuda_beginAllocateToPool") and hasattr(
        torch._C, "_cuda_endAllocateToPool"
    )


def _new_pool(torch):
    if not _allocators:
        _allocators.append(
            torch.cuda.memory.CUDAPluggableAllocator(
                library_path(), "forebay_torch_segment_malloc", "forebay_torch_segment_free"
            )
        )
    return torch.cuda.MemPool(_allocators[0].allocator())


def mem_pool():
    """A ``torch.cuda.MemPool`` on the current device whose segments come from forebay, for
    ``torch.cuda.use_mem_pool`` and wherever PyTorch takes one. Keep it as long as its memory is
    used. Not in global mode, where PyTorch has no such pools."""
    torch = _torch()
    if _mode == "global":
        raise ForebayError(
            "in mode 'global' every tensor is forebay's already, and PyTorch has no MemPool; "
            "use mode='pool'"
        )
    return _new_pool(torch)


def disable():
    """Ends mode ``"pool"``: new tensors come from PyTorch's own memory again; those that live stay
    where they are. Mode ``"global"`` cannot be ended: PyTorch knows no way back."""
    global _mode
    if _mode == "global":
        raise ForebayError("mode 'global' cannot be ended: PyTorch knows no way back")
    if _mode is None:
        return
    torch = _torch()
    for device, pool in _pools.items():
        torch._C._cuda_endAllocateToPool(device, pool.id)
        if hasattr(torch._C, "_cuda_releasePool"):
            torch._C._cuda_releasePool(device, pool.id)
    _pools.clear()
    _mode = None
