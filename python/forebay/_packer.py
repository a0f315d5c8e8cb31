"""Batches, taken apart to be submitted, and made again of what is in a slot."""

from ._arrays import array_of
from ._layout import Layout
from ._tree import Differs, Tree


class Packed:
    """A batch, taken apart."""

    __slots__ = ("tree", "layout", "held", "straight", "others")

    def __init__(self, tree, layout, sources, others):
        self.tree, self.layout, self.others = tree, layout, others
        #: What is copied from: it stays until the batch is staged; and of that what is pinned,
        #: which stays until the batch is on the device.
        self.held, self.straight = sources

    def make(self, arrays):
        """A batch like it, with these arrays."""
        return self.tree.make(arrays, self.others)


class Packer:
    """Takes batches apart. The last one's tree and layout are the next one's, if they can be."""

    def __init__(self, to_torch):
        self.to_torch = to_torch
        self._tree = self._layout = None

    def pack(self, batch):
        """``batch``, taken apart, and its layout's table filled."""
        if self._tree is not None:
            try:
                return self._pack(batch)
            except Differs:
                pass
        self._tree, self._layout = Tree(batch, self.to_torch), None
        return self._pack(batch)

    def _pack(self, batch):
        arrays, others = self._tree.read(batch)
        layout = self._layout
        if layout is None or not layout.fits(arrays):
            if any(array_of(array, self.to_torch) is not array for array in arrays):
                raise Differs
            self._layout = layout = Layout(arrays, self.to_torch)
        return Packed(self._tree, layout, layout.place(arrays), others)
