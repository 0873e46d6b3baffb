"""The file names inside compiled Python modules, and the source time that makes them valid.

A `.pyc` is a 16-byte header (PEP 552) and a marshalled code object. Every code object names its source file in
a marshalled string: a type byte, a length, and the characters (CPython Python/marshal.c, w_complex_object).
Such strings are found by how they begin and rewritten with their length; nothing else depends on it.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

_FLAG_REF = 0x80
_SHORT = b"zZ"
_LONG = b"aAut"
_INTERNED = b"ZAt"

_HEADER = struct.Struct("<4sIII")
_CACHED = re.compile(
    r"(?P<directory>.*/)?__pycache__/(?P<module>[^/.]+)\.[^/.]+(?:\.opt-[^/.]+)?\.pyc\Z", re.S
)


def source_of(path: str) -> str | None:
    """The path of the source that a path such as `a/__pycache__/b.cpython-311.pyc` was compiled from."""
    match = _CACHED.match(path)
    return f"{match['directory'] or ''}{match['module']}.py" if match else None


def retimed(data: bytes, old: int, new: int) -> bytes:
    """The module made valid for a source of time `new` if it was for one of time `old` (whole seconds)."""
    if len(data) < _HEADER.size:
        return data
    magic, flags, mtime, size = _HEADER.unpack_from(data)
    if flags != 0 or mtime != old & 0xFFFFFFFF:
        return data
    return _HEADER.pack(magic, flags, new & 0xFFFFFFFF, size) + data[_HEADER.size :]


def timeless(data: bytes) -> bytes:
    """The module without the time of its source, where it is valid by that."""
    if len(data) < _HEADER.size or _HEADER.unpack_from(data)[1] != 0:
        return data
    return data[:8] + bytes(4) + data[12:]


def replace_paths(data: bytes, old: bytes, new: bytes) -> bytes:
    """The module with every string that is `old` or begins with `old/` beginning with `new` instead."""
    parts: list[bytes] = []
    done = 0
    at = data.find(old, _HEADER.size)
    while at >= 0:
        found = _string_at(data, at)
        tail = at + len(old)
        if (
            found
            and found.head >= done
            and (tail == found.end or (data[tail] == ord("/") and tail < found.end))
        ):
            parts += [data[done : found.head], _marshalled(new + data[tail : found.end], found)]
            done = found.end
        at = data.find(old, tail)
    return b"".join([*parts, data[done:]]) if parts else data


class _String(NamedTuple):
    """A marshalled string: where its type byte and its end are, and what the type byte says."""

    head: int
    end: int
    flag: int
    interned: bool


def _string_at(data: bytes, at: int) -> _String | None:
    """The marshalled string whose characters begin at `at`, if one does."""
    for width, kinds in ((1, _SHORT), (4, _LONG)):
        head = at - width - 1
        if head < _HEADER.size:
            continue
        kind = data[head] & ~_FLAG_REF
        end = at + int.from_bytes(data[head + 1 : at], "little")
        if kind in kinds and end <= len(data):
            return _String(head, end, data[head] & _FLAG_REF, kind in _INTERNED)
    return None


def _marshalled(text: bytes, was: _String) -> bytes:
    """The string as marshal writes it: short where ASCII and under 256 characters."""
    if not text.isascii():
        kind, length = b"ut"[was.interned], len(text).to_bytes(4, "little")
    elif len(text) < 256:
        kind, length = b"zZ"[was.interned], bytes([len(text)])
    else:
        kind, length = b"aA"[was.interned], len(text).to_bytes(4, "little")
    return bytes([kind | was.flag]) + length + text
