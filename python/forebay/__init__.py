"""forebay: pools of memory in stream order, from Python.

``forebay.torch`` makes it PyTorch's CUDA allocator, ``forebay.cupy`` and ``forebay.numba`` that of
CuPy and Numba. All of them are thin: the work is done by ``libforebay.so``, called through ctypes.
"""

from ._library import ForebayError, library_path, version

__all__ = ["ForebayError", "library_path", "version"]
