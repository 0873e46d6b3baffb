"""Read which libraries a program or library in ELF format needs, without reading all of it.

Layout: System V ABI, "Dynamic Linking". The file may come from an attacker: what contradicts itself is not understood.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from snapper.format.elf import MAGIC

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NEEDED, _DT_STRTAB, _DT_RPATH, _DT_RUNPATH = 1, 5, 15, 29

#: The most segments, and the largest dynamic section and path, in bytes.
_MOST_SEGMENTS = 256
_LARGEST_SECTION = 1 << 16
_LONGEST_PATH = 4096

#: Reads a number of bytes of the file at an offset, fewer at its end.
Reader = Callable[[int, int], bytes]


class NeededLibraries(NamedTuple):
    """The libraries that a file needs, and the directories in which its loader looks for them first.

    `interpreter` is the loader's path if the file is a program, started by itself rather than loaded by another one.
    """

    names: tuple[str, ...]
    search_path: tuple[str, ...]
    interpreter: str


def read_needed(read: Reader) -> NeededLibraries | None:
    """Return the libraries that a file needs, None if it is not understood. Raise what `read` raises."""
    try:
        header = read(0, 64)
        return _read(read, header) if header.startswith(MAGIC) else None
    except (struct.error, IndexError, OverflowError):  # the last for offsets that no file has
        return None


def _read(read: Reader, header: bytes) -> NeededLibraries | None:
    wide, order = header[4] == 2, "<" if header[5] == 1 else ">"
    layout = "HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH"
    fields = struct.unpack_from(order + layout, header, 16)
    offset, size, count = fields[4], fields[8], min(fields[9], _MOST_SEGMENTS)
    table = read(offset, size * count)
    segments = [_segment(table, number * size, order, wide) for number in range(count)]
    dynamic = [segment for segment in segments if segment.type == _PT_DYNAMIC]
    interpreters = [segment for segment in segments if segment.type == _PT_INTERP]
    interpreter = _text(read, interpreters[0].offset) if interpreters else ""
    if not dynamic:
        return NeededLibraries((), (), interpreter)
    section = read(dynamic[0].offset, min(dynamic[0].size, _LARGEST_SECTION))
    word = struct.Struct(order + ("QQ" if wide else "II"))
    entries = list(word.iter_unpack(section[: len(section) - len(section) % word.size]))
    address = dict(entries)[_DT_STRTAB] if any(tag == _DT_STRTAB for tag, _ in entries) else None
    strings = next(
        (s.offset + address - s.address for s in segments if address is not None and s.has(address)), None
    )
    if strings is None:
        return None

    needed = dict.fromkeys(value for tag, value in entries if tag == _DT_NEEDED)
    names = dict.fromkeys(_text(read, strings + value) for value in needed)
    last = dict(entries)  # like the loader
    paths = [_text(read, strings + last[tag]) for tag in (_DT_RPATH, _DT_RUNPATH) if tag in last]
    search_path = dict.fromkeys(path for text in paths for path in text.split(":"))
    return NeededLibraries(tuple(names), tuple(search_path), interpreter)


def _text(read: Reader, offset: int) -> str:
    return read(offset, _LONGEST_PATH).partition(b"\0")[0].decode("utf-8", "surrogateescape")


class _Segment(NamedTuple):
    type: int
    offset: int
    address: int
    size: int

    def has(self, address: int) -> bool:
        return self.type == _PT_LOAD and self.address <= address < self.address + self.size


def _segment(table: bytes, at: int, order: str, wide: bool) -> _Segment:
    if wide:
        kind, _, offset, address, _, size = struct.unpack_from(order + "IIQQQQ", table, at)
    else:
        kind, offset, address, _, size = struct.unpack_from(order + "IIIII", table, at)
    return _Segment(kind, offset, address, size)
