"""The index: what each file of an environment was when it was last packed or restored, and which layer holds it.

The index *vouches for* a file if the file is now as it was then, and was last changed before the index was taken. A
file changed in the same instant could have changed again later without a trace (git calls such files racily clean).
`ctime` reveals changes that keep size and mtime; programs cannot set it.

The file starts with a line of JSON, the header. It is followed by blocks of columns, each with the number of a layer:
path, size, mode, mtime and ctime in nanoseconds, and inode. The number is `rewritten` for files that the layer was made
of, but that restoring it would write otherwise: such a layer can be packed again while they do not change, but an
update of the environment must write it. Directories that are members of a layer have a path that ends in `/`
and only a mode. Those of links that were packed as the files that they lead to have the size of these, and FOLLOWED in
their mode. If a path occurs more than once, its last entry counts.
"""

from __future__ import annotations

import json
import os
import stat
import struct
from array import array
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import repeat
from typing import NamedTuple

from snapper.environment.dependency import OtherEnvironment, OutsideLibrary
from snapper.environment.tree import File
from snapper.format import canonical
from snapper.format.constraints import path_bytes
from snapper.format.times import clamped
from snapper.version import __version__


class IndexEntry(NamedTuple):
    """A file in the index; times in nanoseconds, the first limited to what a layer can hold."""

    path: str
    size: int
    mode: int
    mtime_ns: int
    ctime_ns: int
    inode: int


#: The fields of an IndexEntry. Where entries are made for each file of an environment, plain tuples take less time.
EntryFields = tuple[str, int, int, int, int, int]

#: Size, mode, mtime, ctime, inode, and the number of the layer in its snapshot: plain tuples, since an index has one
#: for each file of an environment.
IndexRow = tuple[int, int, int, int, int, int]

#: The layer number of files that no layer was made of: something else was packed at their paths, or that is unknown.
NO_LAYER = -1

#: The ctime of files that were hard-linked or unlinked after they were vouched for and before the index was taken.
ANY_CTIME = -1

#: The ctime of files that may differ from the snapshot: they are looked at again.
NO_CTIME = -2

#: Set in the modes of links that were packed as what they lead to; the sizes are those of that.
FOLLOWED = stat.S_IFLNK

_NO_ROW: IndexRow = (-1, 0, 0, 0, 0, NO_LAYER)
_BLOCK = struct.Struct("<qqq")
_COLUMNS = "qqqqQ"

#: The version of the format of an index. 0.1.0 does not write it.
_FORMAT = 1
_INTEGERS = {"q": (-(2**63), 2**63 - 1), "Q": (0, 2**64 - 1)}


def rewritten(layer: int) -> int:
    """Return the number for files that a layer was made of, but that restoring it would write otherwise."""
    return NO_LAYER - 1 - layer


def layer_number(number: int) -> int:
    """Return the number of the layer that was made of a file, or NO_LAYER, from the number in the file's row."""
    return number if number >= NO_LAYER else rewritten(number)


class InvalidIndex(ValueError):
    """The bytes are not an index, or one of another format."""


@dataclass(frozen=True)
class IndexHeader:
    """Which snapshot an index describes, the prefix in most of its files, and when it was taken.

    `taken` is a time of the file system's clock, in nanoseconds. `unrelocated` are paths with a prefix that cannot be
    relocated, and `libraries` those outside of the environment that files in it are linked with. `prefixes` are all
    that files may contain; none if this was not recorded. `other_environments` are those at former prefixes that files
    name. `scanned` is when a look at all files last found none that had changed, if later than `taken`. Another
    `version` of snapper may have packed or restored the files in another way, so its index tells what has changed
    since, but vouches for nothing.
    """

    snapshot: str
    prefix: str
    taken: int
    unrelocated: tuple[str, ...] = ()
    libraries: tuple[OutsideLibrary, ...] = ()
    prefixes: tuple[str, ...] = ()
    other_environments: tuple[OtherEnvironment, ...] = ()
    scanned: int = 0
    version: str = __version__

    @property
    def is_of_this_version(self) -> bool:
        return self.version == __version__


@dataclass(frozen=True)
class Index:
    """A decoded index. `rows` are by path; those of directories end in `/`."""

    header: IndexHeader
    rows: Mapping[str, IndexRow]

    def vouches(self, file: File, device: int) -> bool:
        """Return whether the file has not changed since a layer was made of it, or it was restored, on `device`."""
        path, type_, size, mode, mtime, ctime, inode, file_device, _, _ = (
            file  # faster than by name, for each file
        )
        if type_ == "directory":
            row = self.rows.get(path + "/")
            return row is not None and row[1] == mode and row[5] != NO_LAYER
        row = self.rows.get(path, _NO_ROW)
        return (
            row[:2] == (size, mode)
            and row[4] == inode
            and (row[2] == mtime or row[2] == clamped(mtime))
            and (row[3] == ctime or row[3] == ANY_CTIME)
            and row[5] != NO_LAYER
            and ctime < self.header.taken
            and file_device == device
        )

    def layer_of(self, file: File) -> int:
        """Return the number of the layer that was made of the file, which must be in the index."""
        return layer_number(self.rows[file.path + "/" if file.type == "directory" else file.path][5])

    def mtime_of(self, path: str) -> int | None:
        """Return the file's mtime in nanoseconds, or None if the index does not have it."""
        row = self.rows.get(path)
        return None if row is None else row[2]

    def renewed(
        self,
        taken: int,
        confirmed: Mapping[str, IndexRow],
        doubtful: Collection[str],
        files: Mapping[str, File],
    ) -> Index:
        """Return the index as if it had been taken later, with the `confirmed` rows.

        All other `files`, except for the `doubtful` ones, must be as this index has them. Those that it does not vouch
        for, the new one does not vouch for either.
        """
        rows = {}
        for path, row in self.rows.items():
            ctime = row[3]
            if path not in confirmed and not path.endswith("/") and not 0 <= ctime < self.header.taken:
                file = files.get(path)
                is_vouched = ctime == ANY_CTIME and file is not None and file.ctime_ns < self.header.taken
                ctime = file.ctime_ns if file and is_vouched and path not in doubtful else NO_CTIME
                rows[path] = (*row[:3], ctime, *row[4:])
            else:
                rows[path] = confirmed.get(path, row)
        return Index(replace(self.header, taken=taken), rows)

    def encoded_blocks(self) -> list[bytes]:
        """Return the rows as blocks, to encode the index again."""
        entries: dict[int, list[EntryFields]] = defaultdict(list)
        for path, row in self.rows.items():
            entries[row[5]].append((path, *row[:5]))
        return [encode_block(layer, of_layer) for layer, of_layer in entries.items()]

    def entries_by_layer(self) -> dict[int, list[EntryFields]]:
        """Return the entries of the files that restoring a layer would write as they are, by its number.

        The list is empty for layers without any.
        """
        entries: dict[int, list[EntryFields]] = defaultdict(list)
        for path, (size, mode, mtime, ctime, inode, layer) in self.rows.items():
            if layer >= 0:
                entries[layer].append((path, size, mode, mtime, ctime, inode))
        return entries


def confirmed_row(row: IndexRow, status: os.stat_result, *, as_restored: bool) -> IndexRow:
    """Return the row of a file with this status and the contents in the snapshot; `as_restored` if its hard links are.

    One with another mtime is not vouched for: it is packed with that, since caches can depend on it.
    """
    size, mode, mtime, _, _, layer = row
    ctime, inode, now = status.st_ctime_ns, status.st_ino, clamped(status.st_mtime_ns)
    if now != mtime:
        return (size, mode, now, ctime, 0, layer)
    return (size, mode, mtime, ctime, inode, layer if as_restored or layer < 0 else rewritten(layer))


def index_entry(file: File) -> IndexEntry:
    """Return the entry for a file that a walk has found."""
    if file.type == "directory":
        return directory_entry(file.path, file.mode)
    return IndexEntry(file.path, file.size, file.mode, clamped(file.mtime_ns), file.ctime_ns, file.inode)


def followed_entry(link: File, size: int) -> IndexEntry:
    """Return the entry for a link that was packed as the file of this size that it leads to."""
    return index_entry(link)._replace(size=size, mode=link.mode | FOLLOWED)


def directory_entry(path: str, mode: int) -> IndexEntry:
    """Return the entry for a directory that is a member of a layer."""
    return IndexEntry(path + "/", 0, mode, 0, 0, 0)


def encode_block(layer: int, entries: Iterable[EntryFields]) -> bytes:
    """Encode the entries of one layer."""
    paths, *columns = tuple(zip(*entries, strict=True)) or ((),) * 6
    names = path_bytes("\0".join(paths))
    packed = [_pack_column(code, column) for code, column in zip(_COLUMNS, columns, strict=True)]
    return b"".join([_BLOCK.pack(layer, len(paths), len(names)), names, *packed])


def _pack_column(code: str, column: Sequence[int]) -> bytes:
    """Encode a column. Values that do not fit, such as times after 2262, are limited, so no file is vouched for."""
    try:
        return array(code, column).tobytes()
    except OverflowError:
        least, greatest = _INTEGERS[code]
        return array(code, [min(max(value, least), greatest) for value in column]).tobytes()


def block_paths(data: bytes) -> list[str]:
    """Return the paths in a block."""
    return next(_blocks(memoryview(data))).paths


def block_entries(data: bytes) -> list[EntryFields]:
    """Return the entries in a block."""
    _, paths, (sizes, modes, mtimes, ctimes, inodes) = next(_blocks(memoryview(data)))
    return list(zip(paths, sizes, modes, mtimes, ctimes, inodes, strict=True))


def encode(header: IndexHeader, blocks: Iterable[bytes]) -> bytes:
    """Encode an index."""
    fields = {**canonical.to_jsonable(header), "format": _FORMAT}
    return b"".join([json.dumps(fields).encode("ascii"), b"\n", *blocks])


def decode_header(line: bytes) -> IndexHeader:
    """Decode the first line of an index; raise InvalidIndex if it has another format."""
    try:
        fields = canonical.parse(line)
        if (
            not isinstance(fields, dict)
            or "version" not in fields
            or fields.pop("format", _FORMAT) != _FORMAT
        ):
            raise InvalidIndex("it has another format")
        return canonical.decode(IndexHeader, fields)
    except canonical.MalformedDocument as error:
        raise InvalidIndex(str(error)) from None


# A restore that replaces an environment reads its index from disk three times, as another process may have written it
# in between; usually, the bytes are the same.
@lru_cache(maxsize=1)
def decode(data: bytes) -> Index:
    """Decode an index; raise InvalidIndex if the bytes are not one of this format."""
    try:
        line, _, _ = data.partition(b"\n")
        header = decode_header(line)
        rows: dict[str, IndexRow] = {}
        for layer, paths, columns in _blocks(memoryview(data)[len(line) + 1 :]):
            rows.update(zip(paths, zip(*columns, repeat(layer, len(paths)), strict=True), strict=True))
        return Index(header, rows)
    except InvalidIndex:
        raise
    except (ValueError, struct.error) as error:
        raise InvalidIndex(str(error)) from None


class _Block(NamedTuple):
    """A decoded block: its columns follow the order of IndexEntry."""

    layer: int
    paths: list[str]
    columns: list[array[int]]


def _blocks(data: memoryview) -> Iterator[_Block]:
    position = 0
    while position < len(data):
        layer, count, length = _BLOCK.unpack_from(data, position)
        if count < 0 or length < 0:
            raise InvalidIndex("a block has a negative length")
        position += _BLOCK.size
        names = bytes(data[position : position + length]).decode("utf-8", "surrogateescape")
        position += length
        columns = []
        for code in _COLUMNS:
            column = array(code)
            column.frombytes(data[position : position + count * column.itemsize])
            columns.append(column)
            position += count * column.itemsize
        yield _Block(layer, names.split("\0") if count else [], columns)
