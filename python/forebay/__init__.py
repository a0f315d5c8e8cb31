"""forebay: pools of memory in stream order, from Python.

``forebay.memory`` has pools, caches, prefetchers and analyzers of arrays; ``forebay.torch`` makes
forebay PyTorch's CUDA allocator, ``forebay.cupy`` and ``forebay.numba`` that of CuPy and Numba. All of
them are thin: the work is done by ``libforebay.so``, called through ctypes. ``forebay.profiler`` says
what memory was used, ``top()`` and ``publish()`` show it live. Importing this package loads nothing: the
library comes with the first use.
"""

import importlib

from ._abi import VERSION as _VERSION
from ._library import ForebayError, library_path, version

__all__ = [
    "ForebayError",
    "Pool",
    "__version__",
    "configure",
    "library_path",
    "pools",
    "publish",
    "top",
    "unpublish",
    "version",
]

__version__ = ".".join(map(str, _VERSION))

#: What is imported when it is asked for, and from where.
_LATER = {
    "Pool": "pool",
    "configure": "settings",
    "pools": "pool",
    "publish": "publishing",
    "top": "_top",
    "unpublish": "publishing",
}


def __getattr__(name):
    if name in _LATER:
        return getattr(importlib.import_module(f".{_LATER[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
