"""Readings over time in bounded memory."""

__all__ = ["Timeline"]

#: Points that are kept: as soon as there are twice as many, neighbours become one.
_POINTS = 5000


class Timeline:
    """Points of time and numbers. A long run keeps the highest of each number and neighbourhood, so
    that a peak that was read stays, and fewer points."""

    def __init__(self):
        self._points = []
        #: How many readings a point stands for, and the one that is not full yet.
        self._width, self._filled = 1, 0

    def add(self, point):
        """Adds a reading, a dictionary of numbers with "time_s"; the time of a point is that of its
        last reading."""
        if 0 < self._filled < self._width:
            self._points[-1] = _higher(self._points[-1], point)
        else:
            self._points.append(point)
            self._filled = 0
        self._filled = (self._filled + 1) % self._width if self._width > 1 else 0
        if len(self._points) >= 2 * _POINTS and self._filled == 0:
            pairs = iter(self._points)
            self._points = [_higher(one, next(pairs, one)) for one in pairs]
            self._width *= 2

    def points(self):
        return [dict(point) for point in self._points]


def _higher(earlier, later):
    found = {name: max(number, later[name]) for name, number in earlier.items() if name in later}
    found["time_s"] = later["time_s"]
    return found
