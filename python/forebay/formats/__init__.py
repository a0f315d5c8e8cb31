"""Files of other tools, written and read: PyTorch's memory snapshots, Perfetto, Chrome, RMM.

What they are made from and turned into is a trace, the log of a pool's traffic that
``forebay_trace_start`` writes; ``formats.trace`` reads and writes it.
"""

__all__ = ["FormatError"]


class FormatError(ValueError):
    """A file does not follow its format. The message names the file and the place in it."""


FormatError.__module__ = "forebay.formats"
