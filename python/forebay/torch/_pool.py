"""The pool behind each device: sleep, wake, trim, record, report."""

import contextlib
import ctypes
import os

from .._library import ForebayError, check, json_of, library

#: The numbers of ``forebay_sleep_mode``.
_SLEEP = {"discard": 0, "backup": 1}


def device_index(device=None):
    """The number of a device, however it is given; None is the current one."""
    if isinstance(device, int) and not isinstance(device, bool) and device >= 0:
        return device
    import torch

    return torch.cuda._utils._get_device_index(device, optional=True)


def pool_of(device=None):
    """The handle of the pool behind ``device``, which is made if there is none."""
    handle = ctypes.c_void_p()
    check(library().forebay_torch_pool(device_index(device), ctypes.byref(handle)))
    return handle


def is_used(device):
    """Whether the device with that number has a pool."""
    return bool(library().forebay_torch_is_used(device))


def used_devices():
    """The numbers of the devices that have a pool."""
    import torch

    return [device for device in range(torch.cuda.device_count()) if is_used(device)]


def _chosen(device):
    return used_devices() if device is None else [device_index(device)]


def sleep(mode="discard", device=None):
    """Gives the memory of all tensors back to the device and keeps their addresses, until
    ``wake()``; for all devices, or one.

    ``mode`` says what becomes of the bytes: ``"discard"`` (after waking, tensors hold anything) or
    ``"backup"`` (they are kept in pinned system memory, and come back). Waits for all work first.
    Meanwhile tensors may be freed; using or making them is an error. CUDA graphs that were
    captured stay valid: addresses do not change.
    """
    if mode not in _SLEEP:
        raise ForebayError(f"mode is {mode!r}; it must be one of {', '.join(map(repr, _SLEEP))}")
    asleep = []
    try:
        for one in _chosen(device):
            check(library().forebay_pool_sleep(pool_of(one), _SLEEP[mode]))
            asleep.append(one)
    except ForebayError:
        # All or none.
        for one in asleep:
            library().forebay_pool_wake(pool_of(one))
        raise


def wake(device=None):
    """Gets the memory of all tensors back after ``sleep()``. Raises ``torch.OutOfMemoryError``
    when the device has not enough by now: nothing is lost, and it can be called again."""
    for one in _chosen(device):
        status = library().forebay_pool_wake(pool_of(one))
        if status == 2:
            import torch

            message = library().forebay_last_error().decode(errors="replace")
            raise torch.OutOfMemoryError(f"forebay: {message}")
        check(status)


def trim(keep_bytes=0, device=None):
    """Gives idle memory back to the device until at most ``keep_bytes`` are reserved; returns how
    many bytes that were. Waits for work that uses what was freed. ``torch.cuda.empty_cache()`` is this
    with 0, for all devices."""
    total = 0
    for one in _chosen(device):
        check(library().forebay_pool_wait_for_frees(pool_of(one)))
        released = ctypes.c_size_t()
        check(library().forebay_pool_trim(pool_of(one), keep_bytes, ctypes.byref(released)))
        total += released.value
    return total


def pool_report(device=None):
    """Everything that the pool of a device reports, as a dictionary: the object that
    ``forebay_pool_stats_json`` in ``forebay.h`` describes. Walks over every block."""
    return json_of(library().forebay_pool_stats_json, pool_of(device))


@contextlib.contextmanager
def record(path, device=None):
    """Writes every allocation and free of a device to the file ``path`` while the block runs, in the
    format that forebay's tools read: ``make run TRACE=step.csv.gz`` replays it. As gzip when the
    name ends in ".gz". One step is enough of a training run that repeats.

    In mode ``"pool"`` these are the segments, not the tensors.
    """
    pool = pool_of(device)
    check(library().forebay_trace_start(pool, os.fsencode(path)))
    try:
        yield
    finally:
        check(library().forebay_trace_stop(pool))
