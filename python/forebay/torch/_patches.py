"""What PyTorch asks of its own allocator from Python, answered by forebay in mode ``"global"``.

A pluggable allocator cannot answer these in C++: PyTorch raises an error there. Its Python functions
look their C++ ones up in ``torch._C`` whenever they are called, so those are what is replaced, each
only where it exists. What cannot be served raises an error that names the alternative.
"""

from . import _stats
from ._history import HISTORY
from ._pool import device_index
from ._snapshot import snapshot


def _served(torch):
    """The functions of ``torch._C`` that forebay answers."""

    def memory_snapshot(wanted=None):
        if wanted is None:
            return snapshot()
        # (pool id, pool id, include_traces), since 2.13.
        return snapshot(include_traces=bool(wanted[2]) if len(wanted) > 2 else True)

    def record_history(
        enabled="all",
        context="all",
        stacks="all",
        max_entries=None,
        clear_history=False,
        compile_context=False,
        global_record_annotations=False,
        skip_actions=(),
    ):
        most = HISTORY.max_entries if max_entries is None else max_entries
        HISTORY.start(enabled, context, most, clear_history, skip_actions or ())

    def record_history_legacy(
        enabled,
        record_context=True,
        trace_alloc_max_entries=1,
        trace_alloc_record_context=False,
        record_context_cpp=False,
        clear_history=False,
        *_others,
    ):
        context = ("alloc" if trace_alloc_record_context else "state") if record_context else None
        kind = "all" if trace_alloc_max_entries > 1 else "state"
        most = trace_alloc_max_entries
        HISTORY.start(kind if enabled else None, context, most, clear_history, ())

    def get_memory_fraction(device):
        stats = _stats.statistics(device)
        if stats.device_bytes == 0:
            return 1.0
        return min(stats.limit_bytes / stats.device_bytes, 1.0)

    def traceback(address):
        frames = HISTORY.frames.get(address)
        from ._snapshot import _frames

        return None if frames is None else _frames(frames)

    def device_stats(device):
        return _stats.nested(device)

    return {
        "_cuda_memoryStats": device_stats,
        "_cuda_resetPeakMemoryStats": _stats.reset_peaks,
        "_cuda_resetAccumulatedMemoryStats": _stats.reset_totals,
        "_cuda_memorySnapshot": memory_snapshot,
        "_cuda_record_memory_history": record_history,
        "_cuda_record_memory_history_legacy": record_history_legacy,
        "_cuda_isHistoryEnabled": lambda: HISTORY.enabled is not None,
        "_cuda_attach_out_of_memory_observer": HISTORY.watch_for_ooms,
        "_cuda_getMemoryFraction": get_memory_fraction,
        "_cuda_allocationTraceback": traceback,
        "_accelerator_isAllocatorInitialized": torch.cuda.is_initialized,
        "_accelerator_emptyCache": lambda: torch._C._cuda_emptyCache(),
        "_accelerator_getDeviceStats": lambda device: device_stats(device_index(device)),
        "_accelerator_resetAccumulatedStats": lambda device: _stats.reset_totals(device_index(device)),
        "_accelerator_resetPeakStats": lambda device: _stats.reset_peaks(device_index(device)),
    }


_POOL_MODE = "forebay.torch.enable(mode='pool') has it"

#: What no pluggable allocator can do, and what to do instead.
_REFUSED = {
    "_cuda_getCheckpointState": (
        "CUDA graph trees, of torch.compile(mode='reduce-overhead')",
        "set torch._inductor.config.triton.cudagraph_trees = False, capture graphs with "
        "torch.cuda.graph, or use pool mode: " + _POOL_MODE,
    ),
    "_cuda_setCheckpointPoolState": None,
    "_cuda_checkPoolLiveAllocations": None,
}


def _refuse(what, instead):
    def refused(*_args, **_kwargs):
        raise RuntimeError(
            f"{what}: not with a pluggable allocator, which forebay is in mode 'global'. Instead: "
            f"{instead}"
        )

    return refused


def apply(torch):
    """Replaces the functions, once forebay is the allocator."""
    for name, function in _served(torch).items():
        if hasattr(torch._C, name):
            setattr(torch._C, name, function)
    refused = _REFUSED["_cuda_getCheckpointState"]
    for name, why in _REFUSED.items():
        if hasattr(torch._C, name):
            setattr(torch._C, name, _refuse(*(why or refused)))
    _refuse_pools(torch)
    _refuse_sharing(torch)
    _refuse_benchmark(torch)


def _refuse_pools(torch):
    class MemPool:
        """Not in forebay's mode ``"global"``."""

        __init__ = _refuse(
            "torch.cuda.MemPool",
            f"every tensor is forebay's already; for pools of PyTorch's own, {_POOL_MODE}",
        )

    for place in (torch.cuda, torch.cuda.memory):
        if hasattr(place, "MemPool"):
            place.MemPool = MemPool


def _refuse_sharing(torch):
    torch.UntypedStorage._share_cuda_ = _refuse(
        "sharing a CUDA tensor with another process",
        "send it as a CPU tensor, share its memory with forebay_block_export (forebay.h), or use "
        f"pool mode: {_POOL_MODE}",
    )


def _refuse_benchmark(torch):
    instead = (
        "leave torch.backends.cudnn.benchmark off (torch.backends.cudnn.deterministic and the "
        f"heuristics of cuDNN work), or use pool mode: {_POOL_MODE}"
    )
    refuse = _refuse("torch.backends.cudnn.benchmark", instead)
    if torch._C._get_cudnn_benchmark():
        torch._C._set_cudnn_benchmark(False)
        import warnings

        warnings.warn(
            "torch.backends.cudnn.benchmark was on and is off now: it asks PyTorch's own allocator "
            f"for its largest block. {instead}",
            stacklevel=4,
        )
    setter = torch._C._set_cudnn_benchmark

    def set_benchmark(on):
        return refuse() if on else setter(on)

    torch._C._set_cudnn_benchmark = set_benchmark
    # The attribute of the module holds the function that was there at its import.
    attribute = type(torch.backends.cudnn).__dict__.get("benchmark")
    if getattr(attribute, "setter", None) is setter:
        attribute.setter = set_benchmark
