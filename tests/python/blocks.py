"""A pool whose blocks tests take and give back as addresses, told to whoever watches."""

import ctypes

import forebay
from forebay import _observe
from forebay._library import check, library


class BlockPool(forebay.Pool):
    def take(self, size):
        block = ctypes.c_void_p()
        check(library().forebay_alloc(self.handle, size, None, ctypes.byref(block)))
        if _observe.observers:
            _observe.tell(self, block.value, size)
        return block.value, size

    def give(self, block):
        address, size = block
        if _observe.observers:
            _observe.tell(self, address, -size)
        check(library().forebay_free(self.handle, address, None))
