"""Sizes as people write them: bytes, a part of a whole, or text.

    parse(1 << 30), parse("5GB"), parse("8GiB")       bytes
    parse(0.6, total), parse("60%", total)            a part of ``total``

The grammar is that of dask-cuda's options: an int is bytes, a float up to 1 a fraction, text either
of them with a unit. ``kB``, ``MB``, ``GB``, ``TB`` and ``PB`` are powers of 1000, ``KiB`` to
``PiB`` powers of 1024, in any case of letters.
"""

import math
import numbers
import re

__all__ = ["parse"]

_UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgtp", 1):
    _UNITS[_letter] = _UNITS[_letter + "b"] = 1000**_power
    _UNITS[_letter + "i"] = _UNITS[_letter + "ib"] = 1024**_power

_NUMBER = r"([0-9]+(?:_[0-9]+)*(?:\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?"
_TEXT = re.compile(_NUMBER + r"\s*(%|[a-z]*)", re.IGNORECASE)

#: What a size may be at most: the addresses of a process, and room to reckon.
_MOST = 1 << 62


def parse(size, total=None, *, name="size", of="the whole"):
    """Bytes of ``size``; None for None.

    ``size`` is an int (bytes), a float above 0 and up to 1 (a part of ``total``), a float above 1
    that is whole (bytes), or text: ``"5GB"``, ``"1.5 GiB"``, ``"1e9"``, ``"60%"``, ``"0.6"``.
    ``total`` is in bytes, or a function that is called when it is needed. ``name`` and ``of`` are
    for the error.

    Raises TypeError for what is no number and no text, ValueError for what cannot be read, is less
    than 1 byte, or is a part where there is no whole.
    """
    if size is None:
        return None
    if isinstance(size, bool) or not isinstance(size, (numbers.Real, str)):
        raise TypeError(f"{name} is {size!r}; {_FORMS}")
    if isinstance(size, str):
        return _of_text(size, total, name, of)
    if isinstance(size, numbers.Integral):
        return _whole(int(size), size, name)
    return _of_float(float(size), size, total, name, of)


_FORMS = 'it must be bytes (1073741824, "1GiB", "5GB") or a part (0.6, "60%")'


def _of_text(given, total, name, of):
    found = _TEXT.fullmatch(given.strip())
    unit = found and found[3].lower()
    if not found or (unit != "%" and unit not in _UNITS):
        raise ValueError(f"{name} is {given!r}; {_FORMS}")
    digits = found[1].replace("_", "") + (found[2] or "")
    if unit == "%":
        return _part(float(digits) / 100, given, total, name, of)
    if unit == "" and not digits.isdecimal():
        return _of_float(float(digits), given, total, name, of)
    if digits.isdecimal():
        # Beyond 2^53 a float is not exact.
        return _whole(int(digits) * _UNITS[unit], given, name)
    return _whole(float(digits) * _UNITS[unit], given, name)


def _of_float(value, given, total, name, of):
    if value <= 1:
        return _part(value, given, total, name, of)
    if math.isfinite(value) and value != int(value):
        raise ValueError(f"{name} is {given!r}: no whole number of bytes, and no part; {_FORMS}")
    return _whole(value, given, name)


def _part(value, given, total, name, of):
    if not 0 < value <= 1:
        raise ValueError(f"{name} is {given!r}; a part is more than 0 and at most 1, or 100%")
    if callable(total):
        total = total()
    if not total:
        raise ValueError(f"{name} is {given!r}: a part of {of}, which is not known; give bytes")
    return _whole(total * value, given, name)


def _whole(value, given, name):
    if not 1 <= value <= _MOST:
        raise ValueError(f"{name} is {given!r}; it must be 1 byte or more, and at most 4 EiB")
    return int(value)
