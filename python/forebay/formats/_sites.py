"""Where a program asked for memory, as one line of text: what is left of a stack in a trace."""

import re

#: Frames that a line has at most, and letters of each.
_FRAMES = 3
_LETTERS = 120

#: Lines, and frames, that are told apart; those beyond are not told.
_MOST = 1 << 16

#: PyTorch's own files and Python's: they say how memory was asked for, and not who did.
_INNER = re.compile(r"[/\\](site|dist)-packages[/\\]torch[/\\]|[/\\]lib[/\\]python3[^/\\]*[/\\](?!site-|dist-)|^<")


class Sites:
    """Call sites by number. ``texts`` has the line of each; 0 is what is not told."""

    def __init__(self):
        self.texts = [""]
        self._numbers = {(): 0}
        self._frames = {}

    def of(self, frames):
        """The number for a stack of PyTorch's: dicts with filename, line and name, the innermost first.
        What is no such stack is not told."""
        try:
            found, others = [], []
            for frame in frames:
                text, inner = self._frame(frame["filename"], frame["line"], frame["name"])
                if not inner:
                    found.append(text)
                    if len(found) == _FRAMES:
                        break
                elif len(others) < _FRAMES:
                    others.append(text)
            return self._number(tuple(found or others))
        except (KeyError, TypeError, AttributeError):
            return 0

    def _number(self, texts):
        number = self._numbers.get(texts)
        if number is None:
            if len(self.texts) == _MOST:
                return 0
            number = self._numbers[texts] = len(self.texts)
            self.texts.append(" < ".join(texts))
        return number

    def _frame(self, *frame):
        """A frame's text, and whether it is one of those that say little."""
        known = self._frames.get(frame)
        if known is None:
            filename, line, name = frame
            inner = not filename.endswith(".py") or _INNER.search(filename) is not None
            # A folder tells one `model.py` from another; the whole path is long.
            place = "/".join(re.split(r"[/\\]", filename)[-2:])
            text = f"{place}:{int(line)} {name}" if filename.endswith(".py") else str(name)
            # One line, whatever a name has in it.
            text = " ".join("".join(one if one.isprintable() else " " for one in text).split())
            known = text[:_LETTERS], inner
            if len(self._frames) < _MOST:
                self._frames[frame] = known
        return known
