"""Replace paths in compiled Python modules, and the source's modification time that makes them valid.

A `.pyc` is a 16-byte header (PEP 552) and a marshalled code object. Every code object contains the path of its source
as a marshalled string: a type byte, a length, and the characters (CPython Python/marshal.c, w_complex_object). Strings
that begin with the path are found by searching for it, and rewritten with their new length; nothing else depends on
that. If other strings contain the path, all objects of the module are parsed.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

_FLAG_REF = 0x80
_SHORT = b"zZ"
_LONG = b"aAut"
_INTERNED = b"ZAt"
_BYTES = ord("s")

#: How many bytes follow the type byte of objects that contain no others: constants, numbers, references.
_FIXED = {**dict.fromkeys(b"0NFTS.", 0), **dict.fromkeys(b"ir", 4), **dict.fromkeys(b"Ig", 8), ord("y"): 16}

#: The layout of a code object: positive numbers count objects, negative ones bytes. The keys are the first magic number
#: with that layout (Python 3.8 and 3.11); other layouts are unknown.
_CODE = {3400: (-24, 8, -4, 1), 3450: (-20, 8, -4, 2)}
_LAST_MAGIC = 3700

_HEADER = struct.Struct("<4sIII")
_CACHED = re.compile(
    r"(?P<directory>.*/)?__pycache__/(?P<module>[^/.]+)\.[^/.]+(?:\.opt-[^/.]+)?\.pyc\Z", re.S
)


def source_of(path: str) -> str | None:
    """Return the path of the source of a compiled module: `a/b.py` for `a/__pycache__/b.cpython-311.pyc`."""
    match = _CACHED.match(path) if path.endswith(".pyc") else None
    return f"{match['directory'] or ''}{match['module']}.py" if match else None


def probable_source_of(path: str) -> str | None:
    """Return the same as `source_of`, but for any name of the compiled module: `a/b.py` for
    `a/__pycache__/b.cpython-311-pytest-8.3.2.pyc`.
    """
    directory, cache, name = path.rpartition("__pycache__/")
    if not (cache and path.endswith(".pyc") and "/" not in name and (not directory or directory[-1] == "/")):
        return None
    return f"{directory}{name.partition('.')[0]}.py"


def with_source_mtime(data: memoryview, old: int, new: int) -> bytes | None:
    """Return the module valid for the source's mtime `new`, None if it was not valid for `old` (seconds since 1970)."""
    if len(data) < _HEADER.size:
        return None
    magic, flags, mtime, size = _HEADER.unpack_from(data)
    if flags != 0 or mtime != old & 0xFFFFFFFF:
        return None
    return _HEADER.pack(magic, flags, new & 0xFFFFFFFF, size) + data[_HEADER.size :]


def without_source_mtime(data: bytes) -> bytes:
    """Return the module with a source mtime of 0, if it has one."""
    if len(data) < _HEADER.size or _HEADER.unpack_from(data)[1] != 0:
        return data
    return data[:8] + bytes(4) + data[12:]


def replace_paths(
    data: bytes, old: bytes, new: bytes, inside: Callable[[bytes], bytes] | None = None
) -> bytes:
    """Return the module with `new` for `old` in every string that is `old` or begins with `old/`.

    If other strings contain `old` and `inside` is given, every string that contains `old` is replaced by what `inside`
    returns for it.
    """
    parts: list[bytes] = []
    copied, has_others = 0, False
    at = data.find(old, _HEADER.size)
    while at >= 0:
        string = _string_at(data, at)
        tail = at + len(old)
        if (
            string
            and string.head >= copied
            and (tail == string.end or (data[tail] == ord("/") and tail < string.end))
        ):
            parts += [data[copied : string.head], _marshal(new + data[tail : string.end], string)]
            copied = string.end
        else:
            has_others = True
        at = data.find(old, tail)
    if has_others and inside and (rewritten := _rewrite_strings(data, old, inside)):
        return rewritten
    return b"".join([*parts, data[copied:]]) if parts else data


def _rewrite_strings(data: bytes, needle: bytes, change: Callable[[bytes], bytes]) -> bytes | None:
    """Return the module with `change` applied to every string, of text or bytes, that contains the needle.

    Return None if it is not a module of a known Python version.
    """
    parts: list[bytes] = []
    copied = 0
    try:
        for string in _strings(data):
            text = data[string.end - string.length : string.end]
            if needle in text:
                parts += [data[copied : string.head], _marshal(change(text), string)]
                copied = string.end
    except (ValueError, IndexError):
        return None
    return b"".join([*parts, data[copied:]])


class _String(NamedTuple):
    """A marshalled string: the offsets of its type byte and its end, its length, and the flag and type in that byte."""

    head: int
    end: int
    length: int
    flag: int
    kind: int


def _strings(data: bytes) -> Iterator[_String]:
    """Yield all strings of the module; raise ValueError or IndexError if it is not a module of a known Python."""
    magic = int.from_bytes(data[:2], "little")
    code = [parts for first, parts in _CODE.items() if first <= magic < _LAST_MAGIC][-1]
    at, pending = _HEADER.size, [1]
    while pending:
        count = pending.pop()
        if count <= 0:
            at -= count
            continue
        pending.append(count - 1)
        head, kind = at, data[at] & ~_FLAG_REF
        at += 1
        if kind in _FIXED:
            at += _FIXED[kind]
        elif kind == ord("c"):
            pending += reversed(code)
        elif kind in _SHORT or kind in _LONG or kind == _BYTES:
            width = 1 if kind in _SHORT else 4
            length = int.from_bytes(data[at : at + width], "little")
            at += width + length
            yield _String(head, at, length, data[head] & _FLAG_REF, kind)
        else:
            size, items = _measure(kind, data[at : at + 4])
            at += size
            pending.append(items)
    if at != len(data):
        raise ValueError("it has trailing data")


def _measure(kind: int, head: bytes) -> tuple[int, int]:
    """Return the number of bytes that belong to an object after its type byte, and of objects that follow them.

    `head` are the first of those bytes. Raise ValueError for an unknown type.
    """
    if kind == ord("l"):
        return 4 + 2 * abs(int.from_bytes(head, "little", signed=True)), 0
    if kind == ord(")"):
        return 1, head[0]
    if kind in b"([<>":
        return 4, int.from_bytes(head, "little")
    if kind == ord(":"):
        return 0, 3
    raise ValueError(f"{chr(kind)!r} is not a marshal type")


def _string_at(data: bytes, at: int) -> _String | None:
    """Return the marshalled string whose characters begin at `at`; None if there is none."""
    for width, kinds in ((1, _SHORT), (4, _LONG)):
        head = at - width - 1
        if head < _HEADER.size:
            continue
        kind = data[head] & ~_FLAG_REF
        end = at + int.from_bytes(data[head + 1 : at], "little")
        if kind in kinds and end <= len(data):
            return _String(head, end, end - at, data[head] & _FLAG_REF, kind)
    return None


def _marshal(text: bytes, was: _String) -> bytes:
    """Return the new text of a string as marshal writes it: in the short form if ASCII and under 256 characters."""
    interned = was.kind in _INTERNED
    if was.kind == _BYTES:
        kind, length = _BYTES, len(text).to_bytes(4, "little")
    elif not text.isascii():
        kind, length = b"ut"[interned], len(text).to_bytes(4, "little")
    elif len(text) < 256:
        kind, length = b"zZ"[interned], bytes([len(text)])
    else:
        kind, length = b"aA"[interned], len(text).to_bytes(4, "little")
    return bytes([kind | was.flag]) + length + text
