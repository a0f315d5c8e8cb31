"""Chrome's trace events, as JSON: for chrome://tracing, Perfetto, and to be put beside the traces
of PyTorch's profiler."""

import json

from . import trace
from ._file import created

__all__ = ["export_trace"]


def export_trace(source, out, name=None, pid=1, progress=None, reserved=None):
    """Writes what the trace ``source`` has live over time to the file ``out``: counters of bytes
    and blocks in all, and of the bytes of each stream, and the allocations that failed. ``name``
    and ``pid`` are the process's there; times are in microseconds. With ``reserved``, a
    ``reserved.Reserved``, also the bytes that such a pool has reserved for it.

    Returns the ``trace.Blocks`` at the end, which know of rows that made no sense. ``progress`` is
    called now and then with the number of rows so far.
    """
    named = {"ph": "M", "name": "process_name", "pid": pid, "args": {"name": name or str(source)}}
    blocks, streams = trace.Blocks(), {}
    with created(out, "w", encoding="ascii") as file:
        file.write('{"displayTimeUnit":"ms","traceEvents":[\n' + json.dumps(named))
        counter = f',\n{{"ph":"C","pid":{pid},"name":"'
        for number, (event, size, stream) in enumerate(blocks.follow(trace.read(source))):
            at = f'","ts":{event.time},"args":{{'
            if event.action == trace.FAILURE:
                file.write(
                    f',\n{{"ph":"i","s":"p","pid":{pid},"tid":{event.thread},'
                    f'"name":"out of memory{at}"bytes":{size},"stream":"{stream:#x}"}}}}'
                )
                continue
            live = streams.get(stream, 0) + (size if event.action == trace.ALLOCATE else -size)
            streams[stream] = live
            file.write(
                f'{counter}live bytes{at}"bytes":{blocks.bytes}}}}}'
                f'{counter}live blocks{at}"blocks":{len(blocks.live)}}}}}'
                f'{counter}live bytes, stream {stream:#x}{at}"bytes":{live}}}}}'
            )
            if reserved:
                file.write(f'{counter}reserved bytes{at}"bytes":{reserved.after(event)}}}}}')
            if progress and not number & 0x3FFF:
                progress(number)
        file.write("\n]}\n")
    return blocks
