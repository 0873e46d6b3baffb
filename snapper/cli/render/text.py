"""Readable numbers, times and durations."""

from __future__ import annotations

_UNITS = ("B", "kB", "MB", "GB", "TB")


def size(count: int) -> str:
    """Return a number of bytes in decimal units, like `ls --si`: 1234567 is 1.2 MB."""
    value = float(count)
    for unit in _UNITS:
        if value < 999.5 or unit == _UNITS[-1]:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.95 else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError


def plural(count: int, noun: str) -> str:
    """Return the count with its noun: `1 file`, `2 files`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def moment(time: str) -> str:
    """Return a time of the history in a readable form: `2026-01-31 09:00:00`."""
    return time.replace("T", " ").removesuffix("Z")


def age(seconds: float) -> str:
    """Return a duration in the largest unit that fits: `5 minutes`."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return plural(int(seconds // length), unit)
    return plural(int(max(seconds, 0)), "second")
