"""PyTorch's memory snapshots: what ``torch.cuda.memory._dump_snapshot`` writes and
https://pytorch.org/memory_viz shows.

Plain dicts, lists and numbers, pickled. ``export_trace`` makes one from a trace, ``import_trace`` a
trace from one, whoever wrote it; nothing in the file is executed.
"""

import array
import collections
import re

from . import FormatError, plain_pickle, trace
from ._file import created
from ._sites import Sites

__all__ = ["Imported", "event", "export_trace", "import_trace", "segment", "unmapped"]

_STATES = {"live": "active_allocated", "waiting": "active_pending_free", "free": "inactive"}

_PAGE = 2 << 20


def segment(device, stretch, frames, waiting="waiting"):
    """A segment for a stretch of mapped addresses, as ``forebay_pool_snapshot_json`` has it.

    ``frames`` is called with the address of a live block; ``waiting`` is the state, of a pool's
    three, that blocks that are not yet free get.
    """
    blocks = []
    for address, size, requested, state, _stream, _small in stretch["pieces"]:
        blocks.append(
            {
                "address": address,
                "size": size,
                "requested_size": requested,
                "state": _STATES[waiting if state == "waiting" else state],
                "frames": frames(address) if state == "live" else [],
            }
        )
    live = [block for block in blocks if block["state"] == "active_allocated"]
    allocated = sum(block["size"] for block in live)
    pending = sum(block["size"] for block in blocks if block["state"] == "active_pending_free")
    return {
        "device": device,
        "address": stretch["address"],
        "total_size": stretch["size"],
        "allocated_size": allocated,
        "active_size": allocated + pending,
        "requested_size": sum(block["requested_size"] for block in live),
        "stream": 0,
        "segment_type": "large",
        "segment_pool_id": (0, 0),
        "is_expandable": True,
        "frames": [],
        "blocks": blocks,
    }


def event(action, address, size, stream, time_us, frames, metadata=""):
    """An entry of ``device_traces``. Of an "oom", ``address`` is the number of free bytes."""
    entry = {
        "action": action,
        "addr": address,
        "size": size,
        "stream": stream,
        "time_us": time_us,
        "compile_context": "N/A",
        "user_metadata": metadata,
        "pool_id": (0, 0),
        "frames": frames,
    }
    if action == "oom":
        entry["device_free"] = entry.pop("addr")
    return entry


def _pages(address, size):
    return range(address // _PAGE, (address + max(size, 1) - 1) // _PAGE + 1)


def _runs(pages):
    """Neighbours in ``pages``, which rise, as address and bytes."""
    found = []
    for page in pages:
        if found and found[-1][1] == page:
            found[-1][1] = page + 1
        else:
            found.append([page, page + 1])
    return [(first * _PAGE, (end - first) * _PAGE) for first, end in found]


def unmapped(uses, stretches):
    """Addresses that lost their pages: for the number of an event, the runs that it was the last to
    use and that are in none of ``stretches``, each address and bytes.

    A viewer that goes back in time needs a segment for each block; an event that says so is due
    there. ``uses`` has number, address and bytes of each event that has a block.
    """
    last = {}
    for number, address, size in uses:
        for page in _pages(address, size):
            last[page] = number
    mapped = set()
    for address, size in stretches:
        mapped.update(range(address // _PAGE, (address + size) // _PAGE))
    # Neighbours that were last used by the same event went together.
    gone = {}
    for page in sorted(page for page in last if page not in mapped):
        gone.setdefault(last[page], []).append(page)
    return {number: _runs(pages) for number, pages in gone.items()}


def settings(**more):
    """What is under ``allocator_settings``."""
    return {
        "backend": "forebay",
        "expandable_segments": True,
        "max_split_size": -1,
        "garbage_collection_threshold": 0.0,
        **more,
    }


def _stretches(pages, live, where):
    """The memory that a trace leaves behind: its pages, with what lives in them."""
    blocks = sorted((address, size) for address, (size, _) in live.items())
    found, at = [], 0
    for start, length in _runs(sorted(pages)):
        pieces, reached = [], start
        while at < len(blocks) and blocks[at][0] < start + length:
            address, size = blocks[at]
            if address < reached:
                raise FormatError(f"{where}: the blocks at {address:#x} and before it overlap")
            if address > reached:
                pieces.append((reached, address - reached, 0, "free", 0, 0))
            pieces.append((address, size, size, "live", 0, 0))
            reached, at = address + size, at + 1
        if reached < start + length:
            pieces.append((reached, start + length - reached, 0, "free", 0, 0))
        found.append({"address": start, "size": length, "pieces": pieces})
    return found


#: A trace may name any addresses; a block's pages are counted one by one.
_MOST_PAGES = 1 << 24


def _add_pages(pages, address, size, where):
    more = _pages(address, size)
    if len(more) + len(pages) > _MOST_PAGES:
        raise FormatError(f"{where}: its blocks are on more than {_MOST_PAGES} pages of 2 MiB")
    pages.update(more)


def export_trace(source, out, snapshot=None, device=0, progress=None):
    """Writes the trace ``source`` as a snapshot of the GPU number ``device`` to the file ``out``: a
    pickle of protocol 2.

    ``snapshot`` is what ``Pool.snapshot()`` gave when the recording ended: the memory as it was
    then. Without it, what the trace ever used counts as reserved, and what it left live as
    allocated. Times are those of the trace, of a day in 1970. A block's free is complete at once;
    threads are in ``user_metadata``. Goes over the file twice.

    Returns the ``trace.Blocks`` at the end, which know of rows that made no sense. ``progress`` is
    called now and then with the number of rows so far.
    """
    where = f"trace `{source}`"
    blocks, pages, uses = trace.Blocks(), set(), []
    for number, (row, size, _) in enumerate(blocks.follow(trace.read(source))):
        if row.action == trace.FAILURE:
            continue
        _add_pages(pages, row.pointer, size, where)
        if snapshot is not None:
            uses.append((number, row.pointer, size))
        if progress and not number & 0x3FFF:
            progress(number // 2)
    half = blocks.rows // 2
    if snapshot is None:
        stretches, gone = _stretches(pages, blocks.live, where), {}
    else:
        stretches = snapshot["stretches"]
        gone = unmapped(uses, [(one["address"], one["size"]) for one in stretches])
    segments = [segment(device, one, lambda address: [], "free") for one in stretches]

    with created(out) as file:
        writer = plain_pickle.Writer(file)
        writer.begin()
        writer.raw(b"}(")
        writer.put("segments")
        writer.put(segments)
        writer.put("device_traces")
        writer.raw(b"](")
        for _ in range(device):
            writer.put([])
        writer.raw(b"]")
        _put_events(writer, source, gone, lambda number: progress and progress(half + number // 2))
        writer.raw(b"e")
        writer.put("allocator_settings")
        writer.put(settings())
        writer.put("external_annotations")
        writer.put([])
        writer.raw(b"u")
        writer.end()
    return blocks


def _put_events(writer, source, gone, progress):
    """Appends the events to the list that was begun last."""
    batch, integer = [], plain_pickle.integer
    templates = {}

    def put(action, address, size, stream, time, metadata):
        parts = templates.get(action)
        if parts is None:
            # Its texts are in the file from here on, and the next ones refer to them.
            batch.append(
                writer.operations(event(action, address, size, stream, time, [], metadata))
            )
            templates[action] = _template(writer, action)
            return
        first, second, third, fourth, fifth, last = parts
        batch.append(b"".join((
            first, integer(address), second, integer(size), third, integer(stream), fourth,
            integer(time), fifth, writer.kept(metadata), last,
        )))  # fmt: skip

    def flush():
        for at in range(0, len(batch), writer.BATCH):
            writer.raw(b"(" + b"".join(batch[at : at + writer.BATCH]) + b"e")
        batch.clear()

    blocks, threads = trace.Blocks(), {}
    for number, (row, size, _) in enumerate(blocks.follow(trace.read(source))):
        thread, time, action, pointer, _, stream = row
        named = threads.get(thread)
        if named is None:
            named = threads[thread] = f"thread {thread}"
        if action == trace.ALLOCATE:
            put("alloc", pointer, size, stream, time, named)
        elif action == trace.FREE:
            put("free_requested", pointer, size, stream, time, named)
            put("free_completed", pointer, size, stream, time, named)
        else:
            put("oom", 0, size, stream, time, named)
        for address, length in gone.get(number, ()):
            put("segment_free", address, length, 0, time, "")
        if not number & 0xFFF:
            flush()
            progress(number)
    flush()


def _template(writer, action):
    """The operations of an event around what differs from one to the next."""
    kept, zeros = writer.kept, writer.operations((0, 0))
    address = kept("device_free") if action == "oom" else kept("addr")
    return (
        b"}(" + kept("action") + kept(action) + address,
        kept("size"),
        kept("stream"),
        kept("time_us"),
        kept("compile_context") + kept("N/A") + kept("user_metadata"),
        kept("pool_id") + zeros + kept("frames") + b"]u",
    )


#: What an import found: the ``rows`` written; of these, the ``earlier`` blocks that were there
#: before the history began; and the blocks that were ``replaced`` by another at their address
#: without a free.
Imported = collections.namedtuple("Imported", "rows earlier replaced")

_ALLOC, _REQUESTED, _COMPLETED, _OOM = range(4)
_CODES = {"alloc": _ALLOC, "free_requested": _REQUESTED, "free_completed": _COMPLETED, "oom": _OOM}
_THREAD = re.compile(r"thread ([0-9]{1,19})")
_FIELDS = 7


class _Device:
    """The events of one device: seven numbers each."""

    def __init__(self, number, where):
        self.number, self.where = number, where
        self.count = 0
        self.rows = array.array("Q")
        self.sites = Sites()
        self._threads = {}

    def add(self, events):
        put, codes, threads = self.rows.extend, _CODES, self._threads
        for entry in events:
            index, self.count = self.count, self.count + 1
            try:
                code = codes.get(entry["action"])
                if code is None:
                    continue
                named = entry.get("user_metadata", "")
                thread = threads.get(named)
                if thread is None:
                    found = _THREAD.fullmatch(named)
                    thread = int(found[1]) if found else 1
                    if len(threads) < 100_000:
                        threads[named] = thread
                address = 0 if code == _OOM else entry["addr"]
                # Before 2.2 there were no times.
                time = entry.get("time_us", index)
                site = self.sites.of(entry.get("frames", ())) if code == _ALLOC else 0
                put((code, address, entry["size"], entry["stream"], time, thread, site))
            except KeyError as error:
                self._fail(index, f"there is no {error.args[0]!r}")
            except (TypeError, AttributeError, OverflowError):
                self._fail(index, self._what_is_wrong(entry))

    def _what_is_wrong(self, entry):
        if type(entry) is not dict:
            return f"it is a {type(entry).__name__}, and no dict"
        for name in ("addr", "size", "stream", "time_us"):
            value = entry.get(name, 0)
            if type(value) is not int or not 0 <= value < 1 << 64:
                return f"{name} is {value!r:.60}, and no number from 0 to 2^64 - 1"
        return "action and user_metadata must be text"

    def _fail(self, index, what):
        # An event that was put in half is not used: the import ends here.
        raise FormatError(f"device_traces[{self.number}][{index}]: {what}")

    def events(self):
        rows = iter(self.rows)
        return zip(*[rows] * _FIELDS)


def import_trace(source, out, device=None, progress=None):
    """Reads the snapshot ``source`` and writes it as a trace to the file ``out``. Returns
    ``Imported``.

    ``device`` is the GPU; None takes the one that has memory or a history. A block is freed where
    its free was requested. What lived before the history began, as far as the snapshot tells, is
    allocated at its start, so that peaks are what they were. Of stacks each allocation keeps a line,
    its site: the three innermost frames outside of PyTorch and of Python. Segments have no place in a
    trace.

    Raises ``FormatError`` with the byte or the entry that is wrong. Keeps 56 bytes an event, and
    what the pickle refers to more than once, in memory. ``progress`` is called now and then with
    the number of events so far.
    """
    where = f"`{source}`"
    devices = {}

    def take(number, events):
        found = devices.get(number)
        if found is None:
            found = devices[number] = _Device(number, where)
        found.add(events)
        if progress:
            progress(sum(one.count for one in devices.values()))

    snapshot = plain_pickle.load(source, take, "device_traces")
    try:
        if type(snapshot) is not dict or type(snapshot.get("segments")) is not list:
            raise FormatError("no snapshot: it has no list of segments")
        rest = snapshot.get("device_traces", [])
        if type(rest) is not list:
            raise FormatError("device_traces is no list")
        for number, events in enumerate(rest):
            if type(events) is not list:
                raise FormatError(f"device_traces[{number}] is no list")
            if events:
                take(number, events)
        chosen = _choose(device, devices, snapshot["segments"])
        found = devices.get(chosen) or _Device(chosen, where)
        blocks = list(_blocks(snapshot["segments"], chosen, found.sites))
        return _write(found, blocks, out)
    except FormatError as error:
        raise FormatError(f"{where}: {error}") from None


def _choose(device, devices, segments):
    used = {number for number, found in devices.items() if found.count}
    for one in segments:
        if type(one) is dict and type(one.get("device", 0)) is int:
            used.add(one.get("device", 0))
    if device is not None:
        return device
    if len(used) > 1:
        raise FormatError(f"it has the devices {sorted(used)}: name one")
    return used.pop() if used else 0


def _blocks(segments, device, sites):
    """Address, bytes, stream and site of what the segments have allocated."""
    for number, one in enumerate(segments):
        try:
            if one.get("device", 0) != device:
                continue
            stream, at = one.get("stream", 0), one["address"]
            for block in one["blocks"]:
                size = block["size"]
                address = block.get("address", at)
                if block["state"] == "active_allocated":
                    asked = block.get("requested_size", size)
                    if not all(0 <= value < 1 << 64 for value in (address, asked, stream)):
                        raise ValueError
                    yield address, asked, stream, sites.of(block.get("frames", ()))
                at = address + size
        except KeyError as error:
            raise FormatError(f"segments[{number}]: there is no {error.args[0]!r}") from None
        except (TypeError, ValueError, AttributeError):
            raise FormatError(f"segments[{number}]: not a segment with blocks") from None


def _earlier(events, blocks):
    """What lived before the first event: blocks that are freed and were not allocated, and those
    that live at the end and no event tells of."""
    found, live, requested = [], {}, set()
    for code, address, size, stream, _, _, _ in events:
        if code == _ALLOC:
            live[address] = True
            requested.discard(address)
        elif code == _OOM:
            continue
        elif not live.get(address) and address not in requested:
            found.append((address, size, stream, 0))
            live[address] = False
        else:
            live[address] = False
        if code == _REQUESTED:
            requested.add(address)
        elif code == _COMPLETED:
            requested.discard(address)
    found += [block for block in blocks if block[0] not in live]
    return found


def _write(device, blocks, out):
    earlier = _earlier(device.events(), blocks)
    start = device.rows[4] if device.rows else 0
    live, replaced, sites = {}, 0, device.sites.texts
    with trace.Writer(out, sites=len(sites) > 1) as writer:
        for address, size, stream, site in earlier:
            writer.write(1, start, trace.ALLOCATE, address, size, stream, sites[site])
            live[address] = size
        for code, address, size, stream, time, thread, site in device.events():
            if code == _ALLOC:
                if address in live:
                    replaced += 1
                    writer.write(thread, time, trace.FREE, address, live[address], stream)
                live[address] = size
                writer.write(thread, time, trace.ALLOCATE, address, size, stream, sites[site])
            elif code == _OOM:
                writer.write(thread, time, trace.FAILURE, 0, size, stream)
            else:
                # The second of the two that end a block finds it gone.
                known = live.pop(address, None)
                if known is not None:
                    writer.write(thread, time, trace.FREE, address, known, stream)
    return Imported(writer.count, len(earlier), replaced)
