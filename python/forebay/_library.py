"""``libforebay.so``: where it is, its functions and their types, its errors."""

import ctypes
import functools
import json
import os
import pathlib
from ctypes import POINTER, c_char_p, c_int, c_int32, c_size_t, c_uint32, c_uint64, c_void_p

#: The statuses of ``forebay.h`` that callers tell apart.
OUT_OF_MEMORY = 2


class ForebayError(RuntimeError):
    """An error of the library, with its message.

    ``status`` is its number in ``forebay.h``, ``name`` its name there.
    """

    def __init__(self, message, status=None, name=None):
        super().__init__(message)
        self.status = status
        self.name = name


class Number(ctypes.Structure):
    """``forebay_torch_number``."""

    _fields_ = [(name, c_uint64) for name in ("current", "peak", "allocated", "freed")]


class Numbers(ctypes.Structure):
    """``forebay_torch_numbers``."""

    _fields_ = [(name, Number) for name in ("blocks", "allocated_bytes", "requested_bytes")]


class TorchStatistics(ctypes.Structure):
    """``forebay_torch_statistics``."""

    _fields_ = (
        [("struct_size", c_size_t)]
        + [(name, Numbers) for name in ("all", "small", "large")]
        + [
            (name, c_uint64)
            for name in (
                "reserved_bytes",
                "reserved_peak",
                "reserved_total",
                "waiting_bytes",
                "stretches",
                "free_runs",
                "misses",
                "failed",
                "trims",
                "limit_bytes",
                "device_bytes",
            )
        ]
    )


class PoolStatistics(ctypes.Structure):
    """``forebay_pool_statistics``."""

    _fields_ = [("struct_size", c_size_t)] + [
        (name, c_uint64)
        for name in (
            "requested_bytes",
            "requested_peak",
            "requested_total",
            "allocated_bytes",
            "allocated_peak",
            "allocated_total",
            "reserved_bytes",
            "reserved_peak",
            "reserved_total",
            "allocations",
            "frees",
            "hits",
            "misses",
            "failed",
            "invalid_frees",
            "system_calls",
            "trims",
            "limit_bytes",
            "live_blocks",
        )
    ]


class PoolConfig(ctypes.Structure):
    """``forebay_pool_config``."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("device_kind", c_int32),
        ("device_index", c_int32),
        ("max_bytes", c_uint64),
        ("initial_bytes", c_uint64),
        ("block_size", c_uint64),
        ("policy", c_int32),
        ("reserved", c_uint32),
        ("flags", c_uint64),
    ]


class CacheConfig(ctypes.Structure):
    """``forebay_cache_config``."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("max_bytes", c_uint64),
        ("max_entries", c_uint64),
        ("time_to_live_ms", c_uint64),
        ("entry_worth", c_uint64),
        ("policy", c_int32),
        ("reserved", c_uint32),
    ]


class CachePin(ctypes.Structure):
    """``forebay_cache_pin``."""

    _fields_ = [("ptr", c_void_p), ("size", c_size_t), ("ticket", c_uint64)]


class CacheStatistics(ctypes.Structure):
    """``forebay_cache_statistics``."""

    _fields_ = [("struct_size", c_size_t)] + [
        (name, c_uint64)
        for name in (
            "entries",
            "bytes",
            "bytes_peak",
            "pinned_entries",
            "pinned_bytes",
            "hits",
            "misses",
            "puts",
            "refused",
            "evicted",
            "evicted_bytes",
            "pressed",
            "pressed_bytes",
            "expired",
            "removed",
            "taken",
            "bookkeeping_bytes",
        )
    ]


class PrefetcherConfig(ctypes.Structure):
    """``forebay_prefetcher_config``."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("slots", c_uint32),
        ("copy_threads", c_uint32),
        ("slot_bytes", c_uint64),
        ("max_slot_bytes", c_uint64),
        ("max_pinned_bytes", c_uint64),
        ("flags", c_uint64),
    ]


class PrefetchLeaf(ctypes.Structure):
    """``forebay_prefetch_leaf``."""

    _fields_ = [
        ("data", c_void_p),
        ("size", c_size_t),
        ("offset", c_uint64),
        ("fd", c_int32),
        ("flags", c_uint32),
    ]


class PrefetchBatch(ctypes.Structure):
    """``forebay_prefetch_batch``."""

    _fields_ = [("ptr", c_void_p), ("size", c_size_t)]


class PrefetchStatistics(ctypes.Structure):
    """``forebay_prefetch_statistics``."""

    _fields_ = [("struct_size", c_size_t)] + [
        (name, c_uint64)
        for name in (
            "slots",
            "used_slots",
            "slot_bytes",
            "pinned_bytes",
            "pinned_peak",
            "pageable_bytes",
            "submitted",
            "submitted_bytes",
            "staged_bytes",
            "delivered",
            "late",
            "cancelled",
            "failed",
            "sends",
            "grown",
            "submit_wait_ns",
            "wait_ns",
            "stage_ns",
            "drain_ns",
        )
    ]


#: Called with what happened, the address, bytes, the device and the stream.
OBSERVER = ctypes.CFUNCTYPE(None, c_int32, c_void_p, c_size_t, c_int, c_void_p)

ALLOC, FREE, REFUSED = range(3)

_STATUS = c_int32

#: What each function returns and takes.
_FUNCTIONS = {
    "forebay_version": (c_uint32, []),
    "forebay_last_error": (c_char_p, []),
    "forebay_status_name": (c_char_p, [c_int32]),
    "forebay_alloc": (_STATUS, [c_void_p, c_size_t, c_void_p, POINTER(c_void_p)]),
    "forebay_free": (_STATUS, [c_void_p, c_void_p, c_void_p]),
    "forebay_pool_create": (_STATUS, [POINTER(PoolConfig), POINTER(c_void_p)]),
    "forebay_pool_destroy": (_STATUS, [c_void_p]),
    "forebay_cache_create": (
        _STATUS,
        [POINTER(c_void_p), c_size_t, POINTER(CacheConfig), POINTER(c_void_p)],
    ),
    "forebay_cache_destroy": (_STATUS, [c_void_p]),
    "forebay_cache_put": (_STATUS, [c_void_p, c_char_p, c_size_t, c_void_p, c_void_p]),
    "forebay_cache_put_copy": (
        _STATUS,
        [c_void_p, c_char_p, c_size_t, c_void_p, c_size_t, c_void_p],
    ),
    "forebay_cache_get": (_STATUS, [c_void_p, c_char_p, c_size_t, c_void_p, POINTER(CachePin)]),
    "forebay_cache_release": (_STATUS, [c_void_p, CachePin, c_void_p]),
    "forebay_cache_take": (
        _STATUS,
        [c_void_p, c_char_p, c_size_t, c_void_p, POINTER(c_void_p), POINTER(c_size_t)],
    ),
    "forebay_cache_remove": (_STATUS, [c_void_p, c_char_p, c_size_t, POINTER(c_size_t)]),
    "forebay_cache_evict": (_STATUS, [c_void_p, c_size_t, POINTER(c_size_t)]),
    "forebay_cache_expire": (_STATUS, [c_void_p, c_uint64, POINTER(c_size_t)]),
    "forebay_cache_clear": (_STATUS, [c_void_p, POINTER(c_size_t)]),
    "forebay_cache_stats": (_STATUS, [c_void_p, POINTER(CacheStatistics)]),
    "forebay_cache_tensor_key": (
        _STATUS,
        [c_char_p, POINTER(ctypes.c_int64), c_size_t, c_int32, c_uint32, c_char_p, c_size_t,
         POINTER(c_size_t)],
    ),
    "forebay_prefetcher_create": (
        _STATUS,
        [c_void_p, POINTER(PrefetcherConfig), POINTER(c_void_p)],
    ),
    "forebay_prefetcher_close": (_STATUS, [c_void_p]),
    "forebay_prefetcher_destroy": (_STATUS, [c_void_p]),
    "forebay_prefetch_submit": (
        _STATUS,
        [c_void_p, POINTER(PrefetchLeaf), c_size_t, c_uint32, POINTER(c_uint64)],
    ),
    "forebay_prefetch_wait": (
        _STATUS,
        [c_void_p, c_uint64, c_void_p, POINTER(PrefetchBatch)],
    ),
    "forebay_prefetch_poll": (_STATUS, [c_void_p, c_uint64, POINTER(c_int32)]),
    "forebay_prefetch_cancel": (_STATUS, [c_void_p, c_uint64]),
    "forebay_prefetch_release": (_STATUS, [c_void_p, c_uint64, c_void_p]),
    "forebay_prefetch_stats": (_STATUS, [c_void_p, POINTER(PrefetchStatistics)]),
    "forebay_pool_trim": (_STATUS, [c_void_p, c_size_t, POINTER(c_size_t)]),
    "forebay_pool_wait_for_frees": (_STATUS, [c_void_p]),
    "forebay_pool_sleep": (_STATUS, [c_void_p, c_int]),
    "forebay_pool_wake": (_STATUS, [c_void_p]),
    "forebay_pool_stats": (_STATUS, [c_void_p, POINTER(PoolStatistics)]),
    "forebay_pool_stats_json": (_STATUS, [c_void_p, c_char_p, c_size_t, POINTER(c_size_t)]),
    "forebay_pool_snapshot_json": (_STATUS, [c_void_p, c_char_p, c_size_t, POINTER(c_size_t)]),
    "forebay_block_export": (_STATUS, [c_void_p, c_void_p, c_void_p, c_size_t, c_void_p]),
    "forebay_trace_start": (_STATUS, [c_void_p, c_char_p]),
    "forebay_trace_stop": (_STATUS, [c_void_p]),
    "forebay_torch_configure": (_STATUS, [c_char_p, c_char_p]),
    "forebay_torch_pool": (_STATUS, [c_int, POINTER(c_void_p)]),
    "forebay_torch_is_used": (c_int32, [c_int]),
    "forebay_torch_stats": (_STATUS, [c_int, POINTER(TorchStatistics)]),
    "forebay_torch_reset_peaks": (_STATUS, [c_int]),
    "forebay_torch_reset_totals": (_STATUS, [c_int]),
    "forebay_torch_set_observer": (None, [c_void_p]),
}


def _candidates():
    """Where the library may be, most wanted first."""
    named = os.environ.get("FOREBAY_LIBRARY")
    if named:
        yield named
        return
    here = pathlib.Path(__file__).resolve().parent
    yield str(here / "libforebay.so")
    source = here.parent.parent
    if (source / "Cargo.toml").exists():
        target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", source / "target"))
        yield str(target / "release" / "libforebay.so")
    yield "libforebay.so.0"


@functools.cache
def library():
    """The library, loaded once; an error that says where it was looked for."""
    tried = []
    for candidate in _candidates():
        if os.sep in candidate and not os.path.exists(candidate):
            tried.append(f"{candidate} (no such file)")
            continue
        try:
            loaded = ctypes.CDLL(candidate)
        except OSError as error:
            tried.append(f"{candidate} ({error})")
            continue
        for name, (returns, takes) in _FUNCTIONS.items():
            try:
                function = getattr(loaded, name)
            except AttributeError:
                raise ForebayError(
                    f"{candidate} has no {name}: it is of another version than this package"
                ) from None
            function.restype = returns
            function.argtypes = takes
        return loaded
    raise ForebayError(
        "libforebay.so was not found: build it with `make release`, install it with `make install`, "
        "or name it in FOREBAY_LIBRARY. Tried: " + "; ".join(tried)
    )


def library_path():
    """The file that was loaded."""
    return library()._name


def version():
    """The library's version, as text."""
    number = library().forebay_version()
    return f"{number >> 16}.{number >> 8 & 255}.{number & 255}"


def check(status):
    """Raises the library's error, if ``status`` is one."""
    if status:
        loaded = library()
        message = loaded.forebay_last_error().decode(errors="replace")
        name = loaded.forebay_status_name(status).decode()
        raise ForebayError(message, status, name)


def address_of(name):
    """The address of a function of the library, for those who call it themselves."""
    return ctypes.cast(getattr(library(), name), c_void_p).value


def pool_statistics(pool):
    """The counters of ``pool``."""
    stats = PoolStatistics(struct_size=ctypes.sizeof(PoolStatistics))
    check(library().forebay_pool_stats(pool, ctypes.byref(stats)))
    return stats


def tensor_key(dtype, shape, kind, index):
    """The key of tensors of one kind, as bytes."""
    lengths = (ctypes.c_int64 * len(shape))(*shape)
    length, buffer = c_size_t(), ctypes.create_string_buffer(2048)
    check(
        library().forebay_cache_tensor_key(
            dtype.encode(), lengths, len(shape), kind, index, buffer, len(buffer),
            ctypes.byref(length),
        )
    )
    return buffer.raw[: length.value]


def json_of(function, pool):
    """What one of the functions that write JSON says of ``pool``."""
    length = c_size_t()
    check(function(pool, None, 0, ctypes.byref(length)))
    while True:
        # The pool may change between two calls.
        room = length.value + length.value // 4 + 4096
        buffer = ctypes.create_string_buffer(room)
        status = function(pool, buffer, room, ctypes.byref(length))
        if status == 0 or length.value < room:
            check(status)
            return json.loads(buffer.value)
