"""What is left to this process: of the machine, of its control groups, of its own limits, of GPUs.

    monitor = SystemMemoryMonitor()
    if monitor.get_available_memory() < needed:
        print(monitor.get_memory_info()["limit_source"])

In a container the machine has more than this process may use; what binds may also be a group around
the container, or ``memory.high``, where the kernel slows down who allocates. Files that the kernel
keeps because nobody needed the room yet count as available. Each reading is one call of the library.
"""

import ctypes
import json
from typing import Any

from ._library import check, library

__all__ = ["SystemMemoryMonitor"]


class SystemMemoryMonitor:
    """Reads how much memory there is and how much of it is left. All sizes are bytes.

    It keeps nothing and starts nothing: any number of them may be used from any thread. A reading
    takes about half a millisecond; GPUs are asked at most once a second, whoever asks.
    """

    #: Room for a report; it grows where there are many groups or GPUs.
    _room = 16384

    def get_report(self) -> dict[str, Any]:
        """Everything that is known, as ``forebay_memory_info_json`` has it: control groups, all
        limits, time lost for want of memory, GPUs."""
        report = library().forebay_memory_info_json
        length = ctypes.c_size_t()
        while True:
            room = self._room
            buffer = ctypes.create_string_buffer(room)
            status = report(buffer, ctypes.c_size_t(room), ctypes.byref(length))
            if status and length.value >= room:
                self._room = length.value + length.value // 4 + 4096
                continue
            check(status)
            return json.loads(buffer.value)

    def get_memory_info(self) -> dict[str, Any]:
        """A dictionary of what matters most.

        ``process_rss``, ``process_vms``: what this process has, resident and mapped.
        ``system_total``: the most that it could have: the machine's memory, or what the tightest
        control group allows. ``system_available``: what of that can be had now. ``system_used``:
        the difference, and ``system_percent`` its share, 0 to 100. ``limit_source``: what binds,
        such as ``"MemAvailable"`` or ``"cgroup v2 /a/b memory.high"``. ``host_total``,
        ``host_available``: the machine's, whatever groups allow. ``swap_available``.
        ``pressure_some_avg10``, ``pressure_full_avg10``: percent of the last ten seconds in which
        some task, or all of them, waited for memory; None where the kernel does not say.
        ``oom_kills``: processes killed for want of memory in the control group, or on the machine.
        ``pinned_bytes``: what forebay has pinned for GPUs. ``level``: ``"ok"``, ``"elevated"`` or
        ``"critical"``. ``gpus``: a list of dictionaries with ``index``, ``name``, ``uuid``,
        ``total``, ``free``, ``used``, ``reserved`` and ``process``, what this process has; None is
        what the driver does not say.
        """
        report = self.get_report()
        total, available = report["total_bytes"], report["available_bytes"]
        used = max(0, total - available)
        process, machine = report["process"], report["machine"]
        pressure = report["pressure"]["group"] or report["pressure"]["machine"]
        return {
            "process_rss": process["resident_bytes"],
            "process_vms": process["mapped_bytes"],
            "system_total": total,
            "system_available": available,
            "system_used": used,
            "system_percent": round(100 * used / total, 1) if total else 100.0,
            "host_total": machine["total_bytes"],
            "host_available": machine["available_bytes"],
            "limit_source": report["limit_source"],
            "swap_available": report["swap_available_bytes"],
            "pressure_some_avg10": pressure["some"]["avg10"] if pressure else None,
            "pressure_full_avg10": pressure["full"]["avg10"] if pressure else None,
            "oom_kills": report["oom_kills"],
            "pinned_bytes": report["pinned_bytes"],
            "level": report["level"],
            "gpus": [
                {
                    "index": gpu["index"],
                    "name": gpu["name"],
                    "uuid": gpu["uuid"],
                    "total": gpu["total_bytes"],
                    "free": gpu["free_bytes"],
                    "used": gpu["used_bytes"],
                    "reserved": gpu["reserved_bytes"],
                    "process": gpu["process_bytes"],
                }
                for gpu in report["gpus"]
            ],
        }

    def get_available_memory(self) -> int:
        """Bytes that can be had now."""
        return self.get_report()["available_bytes"]
