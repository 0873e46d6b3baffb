"""The index: how each file of an environment was when it was last packed or restored, and in which layer it is.

A file is *vouched for* if it is now as it was then, and was last changed before the index was taken: one that was
changed in the same instant could have been changed again since without a trace (git calls that racily clean).
`ctime` is what shows a change that hides behind its old size and mtime; programs cannot set it.

The file is a line of JSON, which says of what snapshot, prefix and moment the index is, and then blocks of columns,
each of one layer: files with size, mode, mtime and ctime in nanoseconds, and inode. Directories stand in it where
they are members of a layer, their paths ending in `/` and without the rest. The last entry for a path holds.
"""

from __future__ import annotations

import json
import struct
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat

from snapper import __version__
from snapper.environment.tree import File
from snapper.format.model import path_bytes

#: Path, size, mode, mtime and ctime in nanoseconds, inode: an entry of an index.
IndexEntry = tuple[str, int, int, int, int, int]

#: Size, mode, mtime, ctime, inode, and the number of the layer in its snapshot.
IndexRow = tuple[int, int, int, int, int, int]

#: The layer of files of which it is not known: they are never vouched for.
NO_LAYER = -1

#: The ctime of files that only had links made and removed since they were vouched for, before the index was taken.
ANY_CTIME = -1

_NO_ENTRY = (-1, 0, 0, 0, 0, NO_LAYER)
_BLOCK = struct.Struct("<qqq")
_COLUMNS = "qqqqQ"


class InvalidIndex(ValueError):
    """The bytes are not an index, or not one that this version of snapper wrote."""


@dataclass(frozen=True)
class IndexHeader:
    """Which snapshot an index goes with, the directory that its files hold, and when it was taken, by the clock of
    the file system (ns). `unrelocated` are paths that hold a prefix for good.
    """

    snapshot: str
    prefix: str
    taken: int
    unrelocated: tuple[str, ...] = ()


@dataclass(frozen=True)
class Index:
    """What an index file says; directories are those that are members, with `/` behind their paths."""

    moment: IndexHeader
    entries: dict[str, IndexRow]

    def vouches(self, file: File, device: int) -> bool:
        """Whether the file's bytes are as they were; `device` is the one that the index is on."""
        if file.type == "directory":
            entry = self.entries.get(file.path + "/")
            return entry is not None and entry[1] == file.mode and entry[5] >= 0
        size, mode, mtime, ctime, inode, layer = self.entries.get(file.path, _NO_ENTRY)
        return (
            (size, mode, mtime, inode) == (file.size, file.mode, file.mtime_ns, file.inode)
            and ctime in (file.ctime_ns, ANY_CTIME)
            and layer >= 0
            and file.ctime_ns < self.moment.taken
            and file.device == device
        )


def index_entry(file: File) -> IndexEntry:
    """The entry for what a walk has seen."""
    if file.type == "directory":
        return file.path + "/", 0, file.mode, 0, 0, 0
    return file.path, file.size, file.mode, file.mtime_ns, file.ctime_ns, file.inode


def encode_block(layer: int, entries: Iterable[IndexEntry]) -> bytes:
    """The entries of one layer as bytes of an index."""
    paths, *columns = tuple(zip(*entries, strict=True)) or ((),) * 6
    names = path_bytes("\0".join(paths))
    packed = [array(code, column).tobytes() for code, column in zip(_COLUMNS, columns, strict=True)]
    return b"".join([_BLOCK.pack(layer, len(paths), len(names)), names, *packed])


def block_paths(data: bytes) -> list[str]:
    """The paths in a block."""
    return next(_blocks(memoryview(data)))[0]


def block_entries(data: bytes) -> list[IndexEntry]:
    """The entries in a block."""
    paths, rows = next(_blocks(memoryview(data)))
    return [(path, *row[:5]) for path, row in zip(paths, rows, strict=True)]


def encode(moment: IndexHeader, blocks: Iterable[bytes]) -> bytes:
    """The bytes of an index."""
    fields = {**vars(moment), "version": __version__}
    return b"".join([json.dumps(fields).encode("ascii"), b"\n", *blocks])


@lru_cache(maxsize=1)  # replacing an environment looks at its index three times
def decode(data: bytes) -> Index:
    """The index in these bytes; raises BadIndex."""
    try:
        line, _, _ = data.partition(b"\n")
        fields = json.loads(line)
        if fields.pop("version") != __version__:
            raise InvalidIndex("another version wrote it")
        moment = IndexHeader(**{**fields, "unrelocated": tuple(fields["unrelocated"])})
        entries: dict[str, IndexRow] = {}
        for paths, rows in _blocks(memoryview(data)[len(line) + 1 :]):
            entries.update(zip(paths, rows, strict=True))
        return Index(moment, entries)
    except InvalidIndex:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, struct.error) as error:
        raise InvalidIndex(str(error)) from None


def _blocks(data: memoryview) -> Iterator[tuple[list[str], Iterable[IndexRow]]]:
    at = 0
    while at < len(data):
        layer, count, length = _BLOCK.unpack_from(data, at)
        at += _BLOCK.size
        names = bytes(data[at : at + length]).decode("utf-8", "surrogateescape")
        at += length
        columns = []
        for code in _COLUMNS:
            column = array(code)
            column.frombytes(data[at : at + count * column.itemsize])
            columns.append(column)
            at += count * column.itemsize
        yield names.split("\0") if count else [], zip(*columns, repeat(layer, count), strict=True)
