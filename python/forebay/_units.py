"""Numbers as people read them."""

import math

__all__ = ["count", "fitted", "many", "share", "size", "span"]

_PREFIXES = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")


def size(number, unit="B"):
    """Bytes with three digits or so: ``size(1536)`` is "1.50 KiB"."""
    sign, number = ("-", -number) if number < 0 else ("", number)
    power = 0
    # What would be shown as 1024 of a unit is 1.00 of the next.
    while number >= 1023.5 and power < len(_PREFIXES) - 1:
        number /= 1024
        power += 1
    digits = 0 if power == 0 or number >= 99.95 else 1 if number >= 9.995 else 2
    return f"{sign}{number:.{digits}f} {_PREFIXES[power]}{unit}"


def count(number):
    """How many, in at most five characters up to a million millions: ``count(12345)`` is
    "12.3k"."""
    for limit, divisor, letter in ((999.5, 1, ""), (999.5e3, 1e3, "k"), (999.5e6, 1e6, "M")):
        if number < limit:
            break
    else:
        divisor, letter = 1e9, "G"
    number /= divisor
    digits = 0 if number >= 99.95 or (not letter and number == int(number)) else 1
    return f"{number:.{digits}f}{letter}"


def many(number, what):
    """So many of something: ``many(2, "step")`` is "2 steps"."""
    return f"{count(number)} {what}{'' if number == 1 else 's'}"


def share(part, whole):
    """A part of a whole in percent; "-" of nothing."""
    return f"{100 * part / whole:.0f} %" if whole else "-"


def span(seconds):
    """A time with its unit: "12.3 ms", "4.56 s", "1:02:03"."""
    if seconds >= 3600:
        whole = int(seconds)
        return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
    if seconds >= 60:
        return f"{int(seconds) // 60} min {int(seconds) % 60} s"
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "us")):
        if seconds * factor >= 1 or unit == "us":
            value = seconds * factor
            digits = (
                0 if value >= 99.95 or value == 0 else 2 - max(int(math.log10(max(value, 1))), 0)
            )
            return f"{value:.{digits}f} {unit}"
    return ""


def fitted(words, width):
    """``words`` in at most ``width`` characters; their end is what tells places apart."""
    return words if len(words) <= width else "…" + words[1 - width :]
