"""Perfetto traces: counters over time, for https://ui.perfetto.dev.

The file is a protobuf of ``TrackEvent``s (protos/perfetto/trace in Perfetto's sources). A message
is fields one after the other, each a key of number and kind, then a varint, or a length and bytes.
"""

from . import FormatError, trace
from ._file import created

__all__ = ["export_trace", "merge_traces"]

# Fields of a Trace, a TracePacket, a TrackDescriptor, a ProcessDescriptor, a CounterDescriptor, a
# TrackEvent and a DebugAnnotation.
_PACKET = 1
_TIMESTAMP, _SEQUENCE, _EVENT, _DESCRIPTOR = 8, 10, 11, 60
_UUID, _NAME, _PROCESS, _PARENT, _COUNTER = 1, 2, 3, 5, 8
_PID, _PROCESS_NAME = 1, 6
_UNIT, _SIZE_BYTES, _COUNT = 3, 3, 2
_ANNOTATION, _TYPE, _TRACK, _EVENT_NAME, _VALUE = 4, 9, 11, 23, 30
_ANNOTATION_NAME, _ANNOTATION_VALUE = 10, 3

_INSTANT, _COUNTER_EVENT = 3, 4

#: What merged times are moved by: an offset may be below 0, a time may not.
_ROOM = 2 * trace.DAY * 1000

#: A counter's value is an int64.
_MOST = (1 << 63) - 1


def varint(value):
    """A number from 0 to 2^64 - 1, seven bits a byte, the lowest first."""
    if value < 128:
        return bytes((value,))
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field, value):
    return varint(field << 3) + varint(value)


def _bytes(field, value):
    if isinstance(value, str):
        value = value.encode()
    return varint(field << 3 | 2) + varint(len(value)) + value


class _Packets:
    """The packets of one file, all of one sequence."""

    def __init__(self, file):
        self._file = file
        self._parts = []
        self._uuids = 0

    def flush(self):
        self._file.write(b"".join(self._parts))
        self._parts.clear()

    def packet(self, body):
        self._parts += (b"\x0a", varint(len(body)), body)
        if len(self._parts) > 30_000:
            self.flush()

    def _track(self, fields):
        self._uuids += 1
        descriptor = _number(_UUID, self._uuids) + fields
        self.packet(_number(_SEQUENCE, 1) + _bytes(_DESCRIPTOR, descriptor))
        return self._uuids

    def process(self, pid, name):
        """A group of tracks. Returns its number."""
        process = _number(_PID, pid) + _bytes(_PROCESS_NAME, name)
        return self._track(_bytes(_PROCESS, process))

    def counter(self, process, name, unit):
        """A counter in the group ``process``. Returns what stands before a value in each packet."""
        descriptor = _bytes(_NAME, name) + _number(_PARENT, process)
        uuid = self._track(descriptor + _bytes(_COUNTER, _number(_UNIT, unit)))
        return _number(_TYPE, _COUNTER_EVENT) + _number(_TRACK, uuid) + varint(_VALUE << 3)

    def values(self, time, *values):
        """A packet for each counter and value."""
        head = b"\x40" + varint(time) + b"\x50\x01\x5a"
        for counter, value in values:
            event = counter + varint(min(value, _MOST))
            self.packet(head + varint(len(event)) + event)

    def instant(self, time, track, name, **numbers):
        event = _number(_TYPE, _INSTANT) + _number(_TRACK, track) + _bytes(_EVENT_NAME, name)
        for key, value in numbers.items():
            note = _bytes(_ANNOTATION_NAME, key) + _number(_ANNOTATION_VALUE, value)
            event += _bytes(_ANNOTATION, note)
        self.packet(_number(_TIMESTAMP, time) + _number(_SEQUENCE, 1) + _bytes(_EVENT, event))


# `values` writes these three by hand.
assert _number(_TIMESTAMP, 0)[:-1] == b"\x40"
assert _number(_SEQUENCE, 1) + _bytes(_EVENT, b"")[:-1] == b"\x50\x01\x5a"


def _write(packets, path, pid, name, moved, first, progress, reserved=None):
    """The tracks of one trace. ``first`` is where the first trace's times begin, if there is one
    before. Returns where it is, and the blocks at the end."""
    process = packets.process(pid, name)
    live = packets.counter(process, "live bytes", _SIZE_BYTES)
    count = packets.counter(process, "live blocks", _COUNT)
    pages = packets.counter(process, "reserved bytes", _SIZE_BYTES) if reserved else None
    streams, start = {}, None
    blocks = trace.Blocks()
    for number, (event, size, stream) in enumerate(blocks.follow(trace.read(path))):
        if start is None:
            start = event.time
            # Ranks begin together: where midnight is between two of them, one is a day off.
            if first is not None:
                moved += round((first - start) / trace.DAY) * trace.DAY * 1000
        time = event.time * 1000 + moved
        if time < 0:
            raise FormatError(f"trace `{path}`: {moved} ns more is before time begins")
        if event.action == trace.FAILURE:
            held = min(blocks.bytes, _MOST)
            packets.instant(time, process, "out of memory", bytes=size, stream=stream, live=held)
            continue
        own = streams.get(stream)
        if own is None:
            counter = packets.counter(process, f"live bytes, stream {stream:#x}", _SIZE_BYTES)
            own = streams[stream] = [counter, 0]
        own[1] += size if event.action == trace.ALLOCATE else -size
        packets.values(time, (live, blocks.bytes), (count, len(blocks.live)), own)
        if reserved:
            packets.values(time, (pages, reserved.after(event)))
        if progress and not number & 0x3FFF:
            progress(number)
    return start if first is None else first, blocks


def export_trace(source, out, name=None, pid=1, progress=None, reserved=None):
    """Writes what the trace ``source`` has live over time to the file ``out``: bytes and blocks in
    all, bytes of each stream, and the allocations that failed. ``name`` is the process's there.
    With ``reserved``, a ``reserved.Reserved``, also the bytes that such a pool has reserved for it.

    Returns the ``trace.Blocks`` at the end, which know of rows that made no sense. ``progress`` is
    called now and then with the number of rows so far.
    """
    with created(out) as file:
        packets = _Packets(file)
        _, blocks = _write(packets, source, pid, name or str(source), 0, None, progress, reserved)
        packets.flush()
    return blocks


def merge_traces(sources, out, progress=None):
    """Writes the traces of several ranks to one file ``out``, a process for each.

    ``sources`` has a path, a name and an offset in nanoseconds for each: what is added to its times
    to come to the clock that they have in common. Returns the ``trace.Blocks`` of each.
    """
    found, first = [], None
    with created(out) as file:
        packets = _Packets(file)
        for number, (path, name, offset) in enumerate(sources):
            # Perfetto takes process 0 for the idle one.
            moved = offset + _ROOM
            first, blocks = _write(packets, path, number + 1, name, moved, first, progress)
            found.append(blocks)
        packets.flush()
    return found
