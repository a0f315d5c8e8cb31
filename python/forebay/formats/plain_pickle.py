"""Pickles of plain data: dicts, lists, tuples, text, numbers, True, False and None.

The reader is one of its own and knows the operations for these and no other. A pickle can name a
function and have it called; here there is no code that could. What is no such pickle is an error
with the byte where it stops being one, and no file takes more than some bytes of memory for each of
its own.

The writer makes pickles of protocol 2 piece by piece, for those who have more than they want in
memory.
"""

import mmap
import os
import re
import struct

from . import FormatError

__all__ = ["Writer", "integer", "load"]

# Operations, by pickletools' names.
MARK, STOP, NONE = 0x28, 0x2E, 0x4E
PROTO, FRAME = 0x80, 0x95
NEWTRUE, NEWFALSE = 0x88, 0x89
BININT, BININT1, BININT2, LONG1, BINFLOAT = 0x4A, 0x4B, 0x4D, 0x8A, 0x47
BINUNICODE, SHORT_BINUNICODE = 0x58, 0x8C
EMPTY_TUPLE, TUPLE, TUPLE1, TUPLE2, TUPLE3 = 0x29, 0x74, 0x85, 0x86, 0x87
EMPTY_LIST, LIST, APPEND, APPENDS = 0x5D, 0x6C, 0x61, 0x65
EMPTY_DICT, DICT, SETITEM, SETITEMS = 0x7D, 0x64, 0x73, 0x75
BINGET, LONG_BINGET, BINPUT, LONG_BINPUT, MEMOIZE = 0x68, 0x6A, 0x71, 0x72, 0x94

#: Bytes behind each operation; -1: as many as the next byte says, -4: as the next four say.
_WIDTHS = {
    MARK: 0, STOP: 0, NONE: 0, PROTO: 1, FRAME: 8, NEWTRUE: 0, NEWFALSE: 0, BININT: 4, BININT1: 1,
    BININT2: 2, LONG1: -1, BINFLOAT: 8, BINUNICODE: -4, SHORT_BINUNICODE: -1, EMPTY_TUPLE: 0,
    TUPLE: 0, TUPLE1: 0, TUPLE2: 0, TUPLE3: 0, EMPTY_LIST: 0, LIST: 0, APPEND: 0, APPENDS: 0,
    EMPTY_DICT: 0, DICT: 0, SETITEM: 0, SETITEMS: 0, BINGET: 1, LONG_BINGET: 4, BINPUT: 1,
    LONG_BINPUT: 4, MEMOIZE: 0,
}  # fmt: skip

_STRINGS = {str}

_GETS = re.compile(rb"(?:j....)+", re.DOTALL)


def _name(operation):
    import pickletools

    found = pickletools.code2op.get(chr(operation))
    return f"operation {found.name}" if found else f"byte {operation:#04x}"


def _wanted(data, where):
    """Goes over the pickle without building anything: every operation must be known and whole.
    Returns the numbers of what is used again, so that nothing else is kept for it."""
    wanted, at, end = set(), 0, len(data)
    widths = [_WIDTHS.get(operation) for operation in range(256)]
    numbered = memoized = False
    start = 0
    try:
        while True:
            start = at
            operation = data[at]
            width = widths[operation]
            at += 1
            if width is None:
                raise FormatError(
                    f"{where}, byte {start}: {_name(operation)} is none of plain data, which has "
                    "dicts, lists, tuples, text and numbers"
                )
            if operation == BINGET:
                wanted.add(data[at])
            elif operation == LONG_BINGET:
                wanted.add(int.from_bytes(data[at : at + 4], "little"))
                # They come in long rows where a list has what others had before, as stacks do.
                if at + 4 < end and data[at + 4] == LONG_BINGET:
                    run = _GETS.match(data, start)
                    wanted.update(number for (number,) in struct.iter_unpack("<xI", run[0]))
                    at = run.end()
                    continue
            elif operation == BINPUT or operation == LONG_BINPUT:
                numbered = True
            elif operation == MEMOIZE:
                memoized = True
            if width >= 0:
                at += width
            elif width == -1:
                at += 1 + data[at]
            else:
                at += 4 + int.from_bytes(data[at : at + 4], "little")
            if at > end:
                raise IndexError
            if operation == STOP:
                break
    except IndexError:
        raise FormatError(f"{where}, byte {start}: the file ends here, too early") from None
    if numbered and memoized:
        raise FormatError(
            f"{where}: it both numbers what it keeps and counts it, as no pickler does"
        )
    return wanted


def load(path, take=None, under=None):
    """What the pickle in the file ``path`` holds.

    ``take`` is called as ``take(index, items)`` with the items of the lists in the list under the
    key ``under``, a thousand or so at a time as they come; they are not kept then. ``index`` is
    which of these lists. A pickle that has them in another way gives them in one piece, in the
    result.

    Raises ``FormatError`` with the byte, ``OSError`` where the file cannot be read.
    """
    where = f"`{os.fspath(path)}`"
    with open(path, "rb") as file:
        try:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (ValueError, OSError):
            # Empty, or nothing that can be mapped, such as a pipe.
            data = file.read()
        try:
            if len(data) < 2 or data[0] != PROTO:
                raise FormatError(
                    f"{where}, byte 0: a pickle of protocol 2 or later begins with 0x80"
                )
            if not 2 <= data[1] <= 5:
                raise FormatError(f"{where}, byte 1: protocol {data[1]}; known are 2 to 5")
            return _Reader(data, where, take, under).run(_wanted(data, where))
        finally:
            if not isinstance(data, bytes):
                data.close()


class _Reader:
    def __init__(self, data, where, take, under):
        self.data, self.where = data, where
        self.take, self.under = take, under
        self.stack, self.marks = [], []

    def run(self, wanted):
        self.at = 0
        try:
            return self._run(wanted)
        except FormatError as error:
            raise FormatError(f"{self.where}, byte {self.at}: {error}") from None
        except IndexError:
            problem = "there is nothing for it to work on"
        except KeyError:
            problem = "it asks for what was not kept"
        except UnicodeDecodeError:
            problem = "it is no UTF-8"
        operation = _name(self.data[self.at])
        raise FormatError(f"{self.where}, byte {self.at}: {operation}: {problem}")

    def _since_mark(self):
        """What stands behind the last mark, which goes with it."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _list(self):
        if type(self.stack[-1]) is not list:
            raise FormatError("it appends to what is no list")
        return self.stack[-1]

    def _put(self, into, items):
        """Key, value, key, value..."""
        if type(into) is not dict:
            raise FormatError("it sets keys of what is no dict")
        keys = items[::2]
        if len(items) & 1:
            raise FormatError("a key has no value")
        # Others are no use here, and the hash of a tuple in a tuple in a tuple... has no bottom.
        if keys and set(map(type, keys)) != _STRINGS:
            raise FormatError("a key is no text")
        into.update(zip(keys, items[1::2]))

    def _taken(self, items):
        """Whether ``items`` belonged to a list that ``take`` has the items of."""
        stack = self.stack
        # The outer list is just below the inner one, or below the mark where several follow.
        for outer in (len(stack) - 2, self.marks[-1] - 1 if self.marks else -1):
            if outer > 0 and type(stack[outer]) is list and stack[outer - 1] == self.under:
                self.take(len(stack[outer]) + len(stack) - 2 - outer, items)
                return True
        return False

    def _run(self, wanted):
        data, stack, marks = self.data, self.stack, self.marks
        push, memo, counted, at = stack.append, {}, 0, 0
        while True:
            self.at = at
            operation = data[at]
            at += 1
            # The order is that of how often they come.
            if operation == BINGET:
                push(memo[data[at]])
                at += 1
            elif operation == LONG_BINGET:
                push(memo[int.from_bytes(data[at : at + 4], "little")])
                at += 4
                if data[at] == LONG_BINGET:
                    run = _GETS.match(data, at)
                    stack += [memo[number] for (number,) in struct.iter_unpack("<xI", run[0])]
                    at = run.end()
            elif operation == MEMOIZE:
                if counted in wanted:
                    memo[counted] = stack[-1]
                counted += 1
            elif operation == BINPUT:
                if data[at] in wanted:
                    memo[data[at]] = stack[-1]
                at += 1
            elif operation == LONG_BINPUT:
                number = int.from_bytes(data[at : at + 4], "little")
                if number in wanted:
                    memo[number] = stack[-1]
                at += 4
            elif operation == LONG1:
                end = at + 1 + data[at]
                push(int.from_bytes(data[at + 1 : end], "little", signed=True))
                at = end
            elif operation == BININT:
                push(int.from_bytes(data[at : at + 4], "little", signed=True))
                at += 4
            elif operation == BININT1:
                push(data[at])
                at += 1
            elif operation == MARK:
                marks.append(len(stack))
            elif operation == EMPTY_DICT:
                push({})
            elif operation == SETITEMS:
                items = self._since_mark()
                self._put(stack[-1], items)
            elif operation == EMPTY_LIST:
                push([])
            elif operation == APPENDS:
                items = self._since_mark()
                into = self._list()
                if self.take is None or not self._taken(items):
                    into += items
            elif operation == APPEND:
                item = stack.pop()
                into = self._list()
                if self.take is None or not self._taken([item]):
                    into.append(item)
            elif operation == SHORT_BINUNICODE:
                end = at + 1 + data[at]
                push(str(data[at + 1 : end], "utf-8", "surrogatepass"))
                at = end
            elif operation == BINUNICODE:
                end = at + 4 + int.from_bytes(data[at : at + 4], "little")
                push(str(data[at + 4 : end], "utf-8", "surrogatepass"))
                at = end
            elif operation == BININT2:
                push(int.from_bytes(data[at : at + 2], "little"))
                at += 2
            elif operation == TUPLE2:
                stack[-2:] = [(stack[-2], stack[-1])]
            elif operation == SETITEM:
                items = stack[-2:]
                del stack[-2:]
                self._put(stack[-1], items)
            elif operation == FRAME:
                at += 8
            elif operation == PROTO:
                at += 1
            elif operation == NONE:
                push(None)
            elif operation == NEWTRUE:
                push(True)
            elif operation == NEWFALSE:
                push(False)
            elif operation == BINFLOAT:
                push(struct.unpack_from(">d", data, at)[0])
                at += 8
            elif operation == EMPTY_TUPLE:
                push(())
            elif operation == TUPLE1:
                stack[-1] = (stack[-1],)
            elif operation == TUPLE3:
                stack[-3:] = [(stack[-3], stack[-2], stack[-1])]
            elif operation == TUPLE:
                push(tuple(self._since_mark()))
            elif operation == LIST:
                push(self._since_mark())
            elif operation == DICT:
                items, made = self._since_mark(), {}
                self._put(made, items)
                push(made)
            else:
                # STOP: `_wanted` let nothing else pass.
                return stack.pop()


def integer(value):
    """A number as a pickle has it."""
    if 0 <= value < 256:
        return bytes((BININT1, value))
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + value.to_bytes(4, "little", signed=True)
    length = value.bit_length() // 8 + 1
    return bytes((LONG1, length)) + value.to_bytes(length, "little", signed=True)


class Writer:
    """Writes one pickle to ``file``, an open binary file: ``begin``, then ``put`` and ``raw``, then
    ``end``."""

    #: Items between a mark and its APPENDS, as Python's own has it; some readers have a bound
    #: there.
    BATCH = 1000

    def __init__(self, file):
        self._file = file
        self._kept = {}

    def begin(self):
        self._file.write(b"\x80\x02")

    def raw(self, operations):
        """Bytes that are operations already."""
        self._file.write(operations)

    def end(self):
        self._file.write(b".")

    def kept(self, text):
        """Operations that push ``text``, of which there is one copy in the file."""
        number = self._kept.get(text)
        if number is None:
            number = self._kept[text] = len(self._kept)
            encoded = text.encode("utf-8", "surrogatepass")
            head = b"X" + len(encoded).to_bytes(4, "little") + encoded
            return head + (bytes((BINPUT, number)) if number < 256 else b"r" + _four(number))
        return bytes((BINGET, number)) if number < 256 else b"j" + _four(number)

    def put(self, value):
        """Plain data; what it has in it must not be very deep."""
        self._file.write(self.operations(value))

    def operations(self, value):
        """The operations that push ``value``."""
        kind = type(value)
        if kind is str:
            return self.kept(value)
        if kind is bool:
            return b"\x88" if value else b"\x89"
        if kind is int:
            return integer(value)
        if value is None:
            return b"N"
        if kind is float:
            return b"G" + struct.pack(">d", value)
        if kind is tuple:
            return b"(" + b"".join(map(self.operations, value)) + b"t"
        if kind is list:
            return b"]" + b"".join(
                b"(" + b"".join(map(self.operations, value[at : at + self.BATCH])) + b"e"
                for at in range(0, len(value), self.BATCH)
            )
        if kind is dict:
            parts = [b"}("]
            for key, inner in value.items():
                parts += (self.operations(key), self.operations(inner))
            return b"".join(parts) + b"u"
        raise TypeError(f"{kind.__name__} is not plain data")


def _four(number):
    return number.to_bytes(4, "little")
