"""``libforebay.so``: where it is, how it is called, its errors."""

import ctypes
import functools
import json
import os

from . import _abi


class ForebayError(RuntimeError):
    """An error of the library, with its message.

    ``status`` is its number in ``forebay.h``, ``name`` its name there.
    """

    def __init__(self, message, status=None, name=None):
        super().__init__(message)
        self.status = status
        self.name = name


ForebayError.__module__ = "forebay"


class _Library(ctypes.CDLL):
    """The loaded library. A function gets its types when it is first asked for."""

    def __getitem__(self, name):
        try:
            function = super().__getitem__(name)
        except AttributeError:
            raise ForebayError(
                f"{self._name} has no {name}: it is of another version than this package"
            ) from None
        function.restype, function.argtypes = _abi.FUNCTIONS[name]
        return function


def _candidates():
    """Where the library may be, most wanted first."""
    named = os.environ.get("FOREBAY_LIBRARY")
    if named:
        yield named
        return
    here = os.path.dirname(os.path.abspath(__file__))
    yield os.path.join(here, "libforebay.so")
    source = os.path.dirname(os.path.dirname(here))
    if os.path.exists(os.path.join(source, "Cargo.toml")):
        target = os.environ.get("CARGO_TARGET_DIR", os.path.join(source, "target"))
        yield os.path.join(target, "release", "libforebay.so")
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
            loaded = _Library(candidate)
        except OSError as error:
            tried.append(f"{candidate} ({error})")
            continue
        number = loaded.forebay_version()
        found = (number >> 16, number >> 8 & 255, number & 255)
        if found < _abi.VERSION or found[0] != _abi.VERSION[0]:
            raise ForebayError(
                f"{candidate} is version {_dotted(found)}; this package is for {_dotted(_abi.VERSION)}"
            )
        if os.environ.get("FOREBAY_PUBLISH", "0") not in ("", "0"):
            from .publishing import begin

            begin(os.environ["FOREBAY_PUBLISH"])
        return loaded
    raise ForebayError(
        "libforebay.so was not found: build it with `make release`, install it with `make install`, "
        "or name it in FOREBAY_LIBRARY. Tried: " + "; ".join(tried)
    )


def _dotted(version):
    return ".".join(map(str, version))


def library_path():
    """The file that was loaded."""
    return library()._name


def version():
    """The library's version, as text."""
    number = library().forebay_version()
    return _dotted((number >> 16, number >> 8 & 255, number & 255))


def check(status):
    """Raises the library's error, if ``status`` is one."""
    if status:
        loaded = library()
        message = loaded.forebay_last_error().decode(errors="replace")
        name = loaded.forebay_status_name(status).decode()
        raise ForebayError(message, status, name)


def address_of(name):
    """The address of a function of the library, for those who call it themselves."""
    return ctypes.cast(getattr(library(), name), ctypes.c_void_p).value


def pool_statistics(pool):
    """The counters of ``pool``."""
    stats = _abi.PoolStatistics(struct_size=ctypes.sizeof(_abi.PoolStatistics))
    check(library().forebay_pool_stats(pool, ctypes.byref(stats)))
    return stats


def tensor_key(dtype, shape, kind, index):
    """The key of tensors of one kind, as bytes."""
    lengths = (ctypes.c_int64 * len(shape))(*shape)
    length, buffer = ctypes.c_size_t(), ctypes.create_string_buffer(2048)
    check(
        library().forebay_cache_tensor_key(
            dtype.encode(), lengths, len(shape), kind, index, buffer, len(buffer),
            ctypes.byref(length),
        )
    )
    return buffer.raw[: length.value]


def json_of(function, pool):
    """What one of the functions that write JSON says of ``pool``."""
    length = ctypes.c_size_t()
    check(function(pool, None, 0, ctypes.byref(length)))
    while True:
        # The pool may change between two calls.
        room = length.value + length.value // 4 + 4096
        buffer = ctypes.create_string_buffer(room)
        status = function(pool, buffer, room, ctypes.byref(length))
        if status == 0 or length.value < room:
            check(status)
            return json.loads(buffer.value)
