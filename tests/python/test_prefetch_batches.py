"""Batches taken apart and made again: every kind of container and of leaf, and what is remembered
from one batch to the next."""

import collections
import collections.abc
import dataclasses
import enum
import types
import unittest

import attrs
import numpy as np

from forebay._packer import Packer
from forebay._slots import Slots
from forebay._tree import Differs
from forebay.prefetch import Prefetcher

Point = collections.namedtuple("Point", "x y")


@dataclasses.dataclass(frozen=True)
class Frozen:
    image: np.ndarray
    name: str
    inner: object = None


@attrs.define
class Slotted:
    image: np.ndarray
    note: object = None


@attrs.frozen(slots=False)
class Still:
    image: np.ndarray


class Kind(enum.IntEnum):
    CAT = 3


class Foreign:
    """An array of somebody's who is known by DLPack alone."""

    def __init__(self, array, device=None, refuses=False):
        self.array, self.device, self.refuses = array, device, refuses

    def __dlpack__(self, **options):
        if self.refuses:
            raise BufferError("a type that has no number in DLPack")
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device or self.array.__dlpack_device__()


class Words(collections.UserDict):
    """As the batches of tokenizers are: a mapping, and no dict."""


class Sharing(collections.abc.MutableMapping):
    """A mapping whose copies share what is in it."""

    def __init__(self, items):
        self.items_of_it = items

    def __getitem__(self, key):
        return self.items_of_it[key]

    def __setitem__(self, key, value):
        self.items_of_it[key] = value

    def __delitem__(self, key):
        del self.items_of_it[key]

    def __iter__(self):
        return iter(self.items_of_it)

    def __len__(self):
        return len(self.items_of_it)


def numbers(value, dtype=np.float32, shape=(2, 3)):
    return np.full(shape, value, dtype)


#: What a batch is, by a number; the second one is taken apart as the first was.
SHAPES = {
    "array": lambda n: numbers(n),
    "none": lambda n: None,
    "empty": lambda n: {"a": [], "b": ()},
    "dict": lambda n: {"a": numbers(n), 3: [numbers(n, np.uint8, 7), "text %d" % n, None, n, 1.5 * n]},
    "ordered": lambda n: collections.OrderedDict(b=numbers(n), a=numbers(-n)),
    "default": lambda n: collections.defaultdict(list, x=numbers(n)),
    "mapping": lambda n: Words(ids=numbers(n, np.int64), text="text %d" % n),
    "sharing": lambda n: Sharing({"a": numbers(n), "b": n}),
    "proxy": lambda n: types.MappingProxyType({"a": numbers(n)}),
    "tuple": lambda n: (numbers(n), (numbers(n + 1),), [n]),
    "named": lambda n: Point(numbers(n), Point(n, numbers(n))),
    "frozen": lambda n: Frozen(numbers(n), "name %d" % n, Frozen(numbers(n + 1), "inner")),
    "attrs": lambda n: Slotted(numbers(n), Still(numbers(n + 1))),
    "scalars": lambda n: [np.float32(n), np.float64(n), np.bool_(n), np.str_("ab%d" % n), Kind.CAT],
    "views": lambda n: [np.asfortranarray(numbers(n)), np.arange(n, n + 12)[::2], numbers(n).T],
    "large": lambda n: [numbers(n, np.int16, (70, 70)), numbers(n, shape=2000), numbers(n)],
    "types": lambda n: [
        numbers(n, dtype)
        for dtype in ("?", "u1", ">i4", "f2", "c16", "M8[s]", "S3", "U2", [("a", "i4"), ("b", "f8")])
    ],
    "zero": lambda n: [np.empty((0, 5)), numbers(n), np.empty((3, 0), np.int8), np.array(n)],
    "object": lambda n: [np.array([{}, n], object), numbers(n)],
    "masked": lambda n: np.ma.masked_equal(numbers(n), 1),
    "dlpack": lambda n: [Foreign(numbers(n)), Foreign(numbers(n, np.int64).T)],
    "foreign": lambda n: [Foreign(numbers(n), (2, 0)), Foreign(numbers(n), refuses=True)],
    "others": lambda n: {"a": object, "b": range(n), "c": {n}, "d": numbers(n)},
}


class Taken(unittest.TestCase):
    def setUp(self):
        self.slots = Slots("cpu", 1, 0)

    def through(self, packer, batch):
        """What becomes of a batch that goes through a slot."""
        packed = packer.pack(batch)
        ticket = self.slots.submit(packed)
        try:
            address, size = self.slots.wait(ticket)
            return packed, packed.make(self.slots.leaves(address, size, packed.layout, copied=True))
        finally:
            self.slots.release(ticket)

    def same(self, got, batch):
        if isinstance(batch, Foreign) and not (batch.device or batch.refuses):
            batch = batch.array
        if isinstance(batch, (np.ndarray, np.generic)) and not isinstance(batch, np.str_):
            self.assertEqual((got.dtype, got.shape), (batch.dtype, batch.shape))
            self.assertEqual(got.tolist(), batch.tolist())
            return
        self.assertIs(type(got), type(batch))
        if isinstance(batch, collections.abc.Mapping):
            self.assertEqual(list(got), list(batch))
            for key in batch:
                self.same(got[key], batch[key])
        elif isinstance(batch, (list, tuple)):
            self.assertEqual(len(got), len(batch))
            for one, other in zip(got, batch):
                self.same(one, other)
        elif isinstance(batch, (Frozen, Slotted, Still)):
            for name in ("image", "name", "inner", "note"):
                self.same(getattr(got, name, None), getattr(batch, name, None))
        elif not isinstance(batch, Foreign):
            self.assertEqual(got, batch)

    def test_every_kind_is_made_again(self):
        for name, shape in SHAPES.items():
            with self.subTest(name):
                packer, trees = Packer(False), set()
                for number in range(1, 5):
                    batch = shape(number)
                    packed, made = self.through(packer, batch)
                    self.same(made, batch)
                    trees.add(id(packed.tree))
                self.assertEqual(len(trees), 1, "it was learnt anew")

    def test_each_follows_each(self):
        packer = Packer(False)
        for first in SHAPES.values():
            for second in SHAPES.values():
                for batch in (first(1), second(2)):
                    self.same(self.through(packer, batch)[1], batch)

    def test_what_is_remembered(self):
        packer = Packer(False)
        first, _ = self.through(packer, {"a": numbers(1), "b": ["x", 1]})
        same, _ = self.through(packer, {"a": numbers(2), "b": [None, 2.0]})
        self.assertIs(same.tree, first.tree)
        self.assertIs(same.layout, first.layout)
        # A last batch that is shorter: the same tree.
        short, made = self.through(packer, {"a": numbers(3, shape=(1, 3)), "b": ["x", 1]})
        self.assertIs(short.tree, first.tree)
        self.assertEqual(made["a"].shape, (1, 3))
        of_another_type, made = self.through(packer, {"a": numbers(3, np.int8), "b": ["x", 1]})
        self.assertIs(of_another_type.tree, first.tree)
        self.assertEqual(made["a"].dtype, np.int8)
        # What is no leaf any more, or is one now, or has other keys, is learnt anew.
        for other in (
            {"a": np.array([{}]), "b": ["x", 1]},
            {"a": numbers(1), "b": ["x", numbers(1)]},
            {"b": ["x", 1], "a": numbers(1)},
            {"a": numbers(1), "b": ["x", 1, 2]},
            {"a": numbers(1), "b": ("x", 1)},
        ):
            learnt, made = self.through(packer, other)
            self.same(made, other)
            self.assertIsNot(learnt.tree, first.tree)
            self.through(packer, {"a": numbers(1), "b": ["x", 1]})

    def test_the_batch_itself_stays_as_it_is(self):
        inner = numbers(1)
        batch = Sharing({"a": inner})
        _, made = self.through(Packer(False), batch)
        self.assertIs(batch["a"], inner)
        self.assertIsNot(made["a"], inner)

    def test_small_arrays_are_submitted_as_one(self):
        rows = lambda batch: len(Packer(False).pack(batch).layout.table)
        self.assertEqual(rows([numbers(n) for n in range(780)]), 1)
        large = numbers(1, shape=5000)
        self.assertEqual(rows([numbers(1), numbers(2), large, numbers(3), large, large]), 5)
        self.assertEqual((rows([]), rows(numbers(1))), (0, 1))

    def test_what_is_passed_on_is_counted(self):
        on_a_gpu = Foreign(numbers(1), (2, 0))
        batch = {"gpu": on_a_gpu, "object": np.array([{}]), "text": "x", "kind": Kind.CAT, "x": numbers(1)}
        loader = Prefetcher().wrap([batch] * 3)
        for got in loader:
            # On another device it stays where it is.
            self.assertIs(got["gpu"], on_a_gpu)
            self.assertIs(got["object"], batch["object"])
        self.assertEqual(loader.stats()["passed_through"], 3 * 2)
        loader.close()

    def test_a_batch_in_itself_is_an_error(self):
        batch = [numbers(1)]
        batch.append(batch)
        with self.assertRaises(RecursionError):
            list(Prefetcher().wrap([batch]))

    def test_a_mapping_that_changes_under_way_is_an_error(self):
        class Moody(collections.UserDict):
            reads = 0

            def __iter__(self):
                Moody.reads += 1
                return iter(["a", "b"][: 1 + Moody.reads % 2])

        with self.assertRaisesRegex(Differs, "changed while it was read"):
            Packer(False).pack(Moody(a=1, b=2))


if __name__ == "__main__":
    unittest.main()
