"""``forebay doctor``: what this machine has for forebay, and what to do about the rest."""

import collections
import contextlib
import ctypes
import errno
import importlib.metadata
import importlib.util
import os
import re
import resource
import shutil
import struct
import sys
import textwrap

from .. import _abi, _units
from .._library import ForebayError, library_path, version
from . import DONE, FOUND
from ._terminal import print_json

OK, WARNING, PROBLEM = "ok", "warning", "problem"

#: One line: what was looked at, how it is, what was found, and what to do if it is not well.
Finding = collections.namedtuple("Finding", "name status found advice")


def add_arguments(parser):
    parser.epilog = "exit status: 1 when there is a problem; warnings are none"
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args) -> int:
    found = examine()
    problems = sum(one.status == PROBLEM for one in found)
    warnings = sum(one.status == WARNING for one in found)
    if args.json:
        print_json({
            "schema": 1, "problems": problems, "warnings": warnings,
            "findings": [one._asdict() for one in found],
        })  # fmt: skip
    else:
        _print(found, problems, warnings)
    return FOUND if problems else DONE


def _print(found, problems, warnings):
    width = max(len(one.name) for one in found)
    indent = " " * (width + 11)
    for name, status, what, advice in found:
        print(f"{status:7}  {name:{width}}  {what}")
        if advice:
            columns = max(shutil.get_terminal_size((100, 0)).columns - len(indent), 40)
            lines = textwrap.wrap(
                advice, columns - 3, break_long_words=False, break_on_hyphens=False
            )
            print(f"{indent}-> " + f"\n{indent}   ".join(lines))
    ends = [(problems, "problem"), (warnings, "warning")]
    print("\n" + ", ".join(f"{number} {what}{'s' * (number != 1)}" for number, what in ends))


def examine():
    """Everything that is looked at, as ``Finding``s."""
    found = []
    for look in _LOOKS:
        found += look()
    return found


def _ok(name, what):
    return Finding(name, OK, what, "")


def _text(path):
    """A file of the kernel's, or None."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None


def _package():
    import numpy

    python = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < (3, 10):
        yield Finding("Python", PROBLEM, python, "forebay needs 3.10 or later")
    else:
        yield _ok("Python", f"{python}, {sys.executable}")
    yield _ok("numpy", numpy.__version__)


def _library():
    try:
        path, number = library_path(), version()
    except ForebayError as error:
        yield Finding("library", PROBLEM, "not usable", str(error))
        return
    named = ", named by FOREBAY_LIBRARY" if os.environ.get("FOREBAY_LIBRARY") else ""
    if number != ".".join(map(str, _abi.VERSION)):
        package = ".".join(map(str, _abi.VERSION))
        yield _ok("library", f"{number}, newer than this package ({package}): {path}{named}")
    else:
        yield _ok("library", f"{number}: {path}{named}")
    yield from _host_pool()


def _host_pool():
    from .._library import check, library
    from ..pool import Pool

    try:
        with Pool("cpu", name="doctor") as pool:
            block = ctypes.c_void_p()
            check(library().forebay_alloc(pool.handle, 1 << 20, None, ctypes.byref(block)))
            ctypes.memset(block.value, 1, 1 << 20)
            check(library().forebay_free(pool.handle, block, None))
    except ForebayError as error:
        advice = "see RLIMIT_AS, RLIMIT_DATA and the memory below"
        yield Finding("host pool", PROBLEM, str(error), advice)
        return
    yield _ok("host pool", "gives and takes memory")


def _preload():
    named = re.split("[ :]", os.environ.get("LD_PRELOAD", ""))
    wanted = [name for name in named if "forebay_preload" in name]
    mapped = "libforebay_preload" in (_text("/proc/self/maps") or "")
    setting = os.environ.get("FOREBAY_PRELOAD")
    how = f", FOREBAY_PRELOAD={setting}" if setting else ""
    if wanted and not mapped:
        advice = (
            "LD_PRELOAD names a file that the loader did not take: check the path, as it is here"
        )
        yield Finding("preload", PROBLEM, f"{wanted[0]} is not loaded{how}", advice)
    elif mapped:
        yield _ok("preload", f"on{how}")
    elif setting:
        advice = "set LD_PRELOAD to libforebay_preload.so too, or leave this variable out"
        yield Finding(
            "preload", WARNING, f"off, and FOREBAY_PRELOAD={setting} does nothing", advice
        )
    else:
        yield _ok("preload", "off")


#: CUresults that have a remedy of their own.
_NO_DEVICE, _MISMATCH, _STUB = 100, 803, 34
_ADVICE = {
    _NO_DEVICE: "CUDA_VISIBLE_DEVICES may hide them all, or the container was given none (--gpus)",
    _MISMATCH: "libcuda.so.1 and the kernel's module are of different versions: reboot, or take a "
    "container image without a libcuda of its own",
    _STUB: "the libcuda.so.1 that is found is the toolkit's stub: take its folder out of "
    "LD_LIBRARY_PATH",
}
_VIRTUAL_MEMORY = 102  # CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED


def _cuda_error(driver, result):
    text = ctypes.c_char_p()
    with contextlib.suppress(AttributeError):
        driver.cuGetErrorName(result, ctypes.byref(text))
    return (text.value or b"error").decode() + f" ({result})"


def _driver():
    nodes = os.path.exists("/dev/nvidiactl") or os.path.exists("/proc/driver/nvidia/version")
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        if nodes:
            advice = "install the driver's libraries, or give them to the container (--gpus all)"
            yield Finding("driver", PROBLEM, "a GPU is here, and no libcuda.so.1", advice)
        else:
            yield _ok("driver", "no NVIDIA driver: pools on the host alone")
        return
    number = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(number)) == 0 and number.value:
        told = _text("/proc/driver/nvidia/version") or ""
        module = re.search(r"Kernel Module[^0-9]*([0-9][0-9.]*)", told)
        also = f", module {module[1]}" if module else ""
        yield _ok("driver", f"CUDA {number.value // 1000}.{number.value % 1000 // 10}{also}")
    result = driver.cuInit(0)
    if result:
        advice = _ADVICE.get(result, "nvidia-smi and the kernel's log say more")
        yield Finding("devices", PROBLEM, f"cuInit: {_cuda_error(driver, result)}", advice)
        return
    yield from _devices(driver)


def _devices(driver):
    count = ctypes.c_int()
    driver.cuDeviceGetCount(ctypes.byref(count))
    if not count.value:
        yield Finding("devices", PROBLEM, "none", _ADVICE[_NO_DEVICE])
    for index in range(count.value):
        device, memory, movable = ctypes.c_int(), ctypes.c_size_t(), ctypes.c_int()
        name = ctypes.create_string_buffer(256)
        result = (
            driver.cuDeviceGet(ctypes.byref(device), index)
            or driver.cuDeviceGetName(name, len(name), device)
            or driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
            or driver.cuDeviceGetAttribute(ctypes.byref(movable), _VIRTUAL_MEMORY, device)
        )
        if result:
            advice = "nvidia-smi and the kernel's log say more"
            yield Finding(f"cuda:{index}", PROBLEM, _cuda_error(driver, result), advice)
            continue
        what = f"{name.value.decode(errors='replace')}, {_units.size(memory.value)}"
        if movable.value:
            yield _ok(f"cuda:{index}", what)
        else:
            advice = (
                "a pool there is one plain allocation; WSL and some virtual GPUs have no better"
            )
            found = f"{what}, no virtual memory management"
            yield Finding(f"cuda:{index}", WARNING, found, advice)


def _version_of(*names):
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return None


def _torch():
    """What is known of PyTorch without importing it, which takes seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.origin:
        yield _ok("torch", "not installed")
        return
    found = _text(os.path.join(os.path.dirname(spec.origin), "version.py")) or ""
    number = re.search(r"__version__ = '([^']+)'", found)
    number = number[1] if number else _version_of("torch") or "0.0"
    cuda = re.search(r"^cuda.*= '([^']+)'", found, re.MULTILINE)
    from ..torch._enable import NEWEST, OLDEST

    parts = re.match(r"([0-9]+)\.([0-9]+)", number)
    short = tuple(map(int, parts.groups())) if parts else (0, 0)
    if short < OLDEST:
        advice = f"forebay.torch works from {OLDEST[0]}.{OLDEST[1]} on"
        yield Finding("torch", WARNING, f"{number}, too old for forebay.torch", advice)
    elif not cuda:
        yield _ok("torch", f"{number}, without CUDA: forebay.torch has nothing to serve")
    elif short > NEWEST:
        advice = f"forebay.torch is tested with versions up to {NEWEST[0]}.{NEWEST[1]}"
        yield Finding("torch", WARNING, f"{number}, CUDA {cuda[1]}", advice)
    else:
        yield _ok("torch", f"{number}, CUDA {cuda[1]}: forebay.torch can be enabled")


def _cupy():
    if importlib.util.find_spec("cupy") is None:
        yield _ok("cupy", "not installed")
        return
    found = _version_of("cupy", "cupy-cuda13x", "cupy-cuda12x", "cupy-cuda11x")
    yield _ok("cupy", f"{found or 'of unknown version'}: forebay.cupy can be enabled")


def _memory():
    from ..monitor import SystemMemoryMonitor

    try:
        info = SystemMemoryMonitor().get_memory_info()
    except ForebayError as error:
        yield Finding(
            "memory", WARNING, str(error), "the monitor cannot read /proc or the control groups"
        )
        return
    what = f"{_units.size(info['system_available'])} left of {_units.size(info['system_total'])}"
    what += f", as {info['limit_source']} has it"
    if info["level"] == "critical":
        yield Finding(
            "memory", PROBLEM, what, "it is about to run out: end something, or raise that limit"
        )
    elif info["level"] == "elevated":
        yield Finding("memory", WARNING, what, "little is left: pools give idle memory back now")
    else:
        yield _ok("memory", what)
    if info["oom_kills"]:
        advice = (
            "for want of memory: raise the control group's limit, or give pools one (max_bytes)"
        )
        yield Finding(
            "oom kills", WARNING, f"{info['oom_kills']} processes were killed here", advice
        )
    for gpu in info["gpus"]:
        name = f"GPU {gpu['index']} memory"
        if gpu["total"] is None or gpu["free"] is None:
            continue
        what = f"{_units.size(gpu['free'])} free of {_units.size(gpu['total'])}"
        if gpu["free"] < gpu["total"] // 10:
            yield Finding(name, WARNING, what, "others have most of it: nvidia-smi says who")
        else:
            yield _ok(name, what)


def _limits():
    for name, bytes_of in (("RLIMIT_AS", "addresses"), ("RLIMIT_DATA", "private memory")):
        soft, _ = resource.getrlimit(getattr(resource, name))
        if soft == resource.RLIM_INFINITY:
            yield _ok(name, "unlimited")
            continue
        letter = {"RLIMIT_AS": "v", "RLIMIT_DATA": "d"}[name]
        advice = (
            f"a pool reserves addresses first, and needs few pages: `ulimit -{letter} unlimited`"
        )
        yield Finding(name, WARNING, f"{_units.size(soft)} of {bytes_of}", advice)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 1024:
        advice = (
            "a block shared with another process is a descriptor for each 2 MiB: `ulimit -n 4096`"
        )
        yield Finding("RLIMIT_NOFILE", WARNING, str(soft), advice)
    else:
        yield _ok("RLIMIT_NOFILE", str(soft))


def _overcommit():
    mode = _text("/proc/sys/vm/overcommit_memory")
    if mode == "2":
        advice = (
            "what a pool maps counts whether it is touched or not: `sysctl vm.overcommit_memory=0`"
        )
        yield Finding("overcommit", WARNING, "2, strict", advice)
    elif mode is not None:
        yield _ok("overcommit", {"0": "0, by the kernel's guess", "1": "1, always"}.get(mode, mode))


#: What Linux has by default; a pool that moves many pages needs a mapping for each run of them.
_MAPS = 65_530


def _maps():
    found = _text("/proc/sys/vm/max_map_count")
    if found is None or not found.isdigit():
        return
    if int(found) < _MAPS:
        advice = f"pools that move pages may run out of mappings: `sysctl vm.max_map_count={_MAPS}`"
        yield Finding("max_map_count", WARNING, found, advice)
    else:
        yield _ok("max_map_count", found)


def _huge_pages():
    found = _text("/sys/kernel/mm/transparent_hugepage/enabled")
    chosen = re.search(r"\[(\w+)\]", found or "")
    if chosen is None:
        return
    if chosen[1] == "never":
        advice = (
            "large blocks are touched faster in huge pages: "
            "`echo madvise > /sys/kernel/mm/transparent_hugepage/enabled`"
        )
        yield Finding("huge pages", WARNING, "never", advice)
    else:
        yield _ok("huge pages", chosen[1])


_IO_URING_SETUP = 425


def _system_call(number, *arguments):
    """The errno of a system call, 0 when it did what it was asked for."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *arguments)
    if result >= 0:
        return 0
    return ctypes.get_errno()


def _io_uring():
    # With nowhere to write to, a kernel that has it says EFAULT, and makes nothing.
    error = _system_call(_IO_URING_SETUP, ctypes.c_uint(1), ctypes.c_void_p())
    if error in (0, errno.EFAULT, errno.EINVAL):
        yield _ok("io_uring", "there, for files that are read ahead")
    else:
        advice = (
            "files are read with pread; see kernel.io_uring_disabled and the container's seccomp "
            "profile"
        )
        found = f"refused: {os.strerror(error)}"
        yield Finding("io_uring", WARNING, found, advice)


#: _IOWR('f', 16, struct pm_scan_arg), which has twelve numbers of eight bytes.
_PAGEMAP_SCAN = 0xC0606610


def _pagemap_scan():
    import fcntl

    # Asked about no addresses at all, it has nothing to find.
    request = bytearray(struct.pack("=12Q", 96, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0))
    try:
        with open("/proc/self/pagemap", "rb") as file:
            fcntl.ioctl(file, _PAGEMAP_SCAN, request)
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.ENOSYS, errno.EPERM, errno.EACCES, errno.ENOENT):
            yield _ok(
                "PAGEMAP_SCAN", "not here (Linux 6.7 has it): preloaded calloc zeroes every page"
            )
            return
    yield _ok("PAGEMAP_SCAN", "there: preloaded calloc zeroes touched pages alone")


#: In the order of the lines.
_LOOKS = (
    _package, _library, _preload, _driver, _torch, _cupy, _memory, _limits, _overcommit, _maps,
    _huge_pages, _io_uring, _pagemap_scan,
)  # fmt: skip
