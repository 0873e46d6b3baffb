"""Files larger than a layer, split inside their data so that several processes can pack and restore one file.

Pieces are as large as a layer, but never end inside what relocation replaces: each piece is relocated on its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from snapper.environment.conda import FileFacts
from snapper.format.canonicalize import (
    CanonicalFile,
    candidate_originals,
    default_placeholders,
    is_object_code,
    replace_directory,
)
from snapper.format.member import padding
from snapper.format.model import LAYER_SIZE, Continuation, Kind, Mode, path_bytes
from snapper.format.relocate import replace_placeholder
from snapper.packing.collect import layer_builder, member_of, store_layer
from snapper.packing.context import PackContext
from snapper.packing.files import open_checked, read_range, read_range_into
from snapper.packing.items import CollectedGroup, PackItem, RelocatedFacts
from snapper.process.worker import Deferred

#: How many bytes after a cut are searched for the end of what began before it.
_LOOK_AHEAD = 64 * 1024

#: How many bytes of a file are read at a time when it is surveyed.
_READ_SIZE = 1024 * 1024

#: How many bytes around a prefix decide whether it is a path of its own.
_CONTEXT = 4


class RelocationMethod(NamedTuple):
    """How a file is relocated: `everywhere`, as conda does it, or only where the prefix is a path of its own."""

    mode: Mode
    placeholder: str
    everywhere: bool = False


class PieceStart(NamedTuple):
    """Where a piece begins: in the file on disk, in the canonical file, and after how many placeholders."""

    position: int
    offset: int
    replaced: int


@dataclass(frozen=True)
class LargeFileScan:
    """How to pack a large file. `starts` has one more element than there are pieces: the end of the file.

    `proved` says whether the file is its package's, `method` how it is relocated, if it is.
    """

    item: PackItem
    proved: bool
    method: RelocationMethod | None
    starts: tuple[PieceStart, ...]
    unrelocated: bool
    facts: RelocatedFacts | None = None

    @property
    def size(self) -> int:
        return self.starts[-1].offset


@dataclass(frozen=True)
class Piece:
    """The part of a scanned file that goes into one layer."""

    kind: Kind
    owner: str
    scan: LargeFileScan
    number: int

    @property
    def size(self) -> int:
        return self.scan.starts[self.number + 1].offset - self.scan.starts[self.number].offset


def scan_large_file(context: PackContext, item: PackItem) -> LargeFileScan:
    """Read the file, possibly several times: prove that it is its package's, or find a way to relocate it."""
    entry = item.entry
    if entry and entry.sha256 and entry.placeholder:
        method = RelocationMethod(entry.mode, entry.placeholder, everywhere=True)
        original = _relocate(context, item, method)
        if original.stored.sha256 == entry.sha256:
            facts = RelocatedFacts(original.disk, original.stored)
            return LargeFileScan(item, True, method, original.starts, False, facts)
    survey = _survey(context, item)
    proved = bool(entry and entry.sha256 == survey.sha256)
    if proved or not survey.has_prefix:
        return LargeFileScan(item, proved, None, survey.starts, False)
    for method in _relocation_methods(context, item, survey):
        relocated = _relocate(context, item, method)
        if relocated.reversible:
            return LargeFileScan(item, False, method, relocated.starts, False)
    return LargeFileScan(item, False, None, survey.starts, True)


def collect_piece(context: PackContext, piece: Piece) -> Deferred[CollectedGroup]:
    """Pack one piece, and store its layer in the background."""
    scan, builder = piece.scan, layer_builder(context.level)
    item, start, end = scan.item, scan.starts[piece.number], scan.starts[piece.number + 1]
    at_link = scan.proved and scan.method is not None
    member = member_of(item, piece.kind, scan.size, at_link=at_link) if piece.number == 0 else None
    tail = padding(scan.size) if piece.number == len(scan.starts) - 2 else b""
    place = context.place_of(item.file)

    if scan.method is None:
        view = builder.make_piece(member, end.position - start.position, tail)
        with open_checked(place, item.file) as descriptor:
            read_range_into(descriptor, start.position, view, place)
    else:
        with open_checked(place, item.file) as descriptor:
            data = read_range(descriptor, start.position, end.position - start.position, place)
        data = _canonical(data, scan.method, context.prefix)
        builder.add_piece(member, data, tail)
        builder.note(item.file.path, CanonicalFile(b"", scan.method.mode, scan.method.placeholder))
        del data
    begins = Continuation(item.file.path, start.offset, scan.size, start.replaced) if piece.number else None
    sealed = builder.seal(piece.kind, piece.owner, context.find_stored, begins)
    layer, added_size = sealed.layer, store_layer(context, sealed)
    return Deferred(lambda: CollectedGroup((layer,), (added_size(),)))


@dataclass(frozen=True)
class _Survey:
    """What a file contains, and where its pieces start if it is packed as it is."""

    starts: tuple[PieceStart, ...]
    sha256: str
    has_prefix: bool
    has_nul: bool
    is_object_code: bool


@dataclass(frozen=True)
class _Relocated:
    """A file on disk and as it is stored when it is relocated, and whether that can be undone exactly."""

    starts: tuple[PieceStart, ...]
    disk: FileFacts
    stored: FileFacts
    reversible: bool


def _survey(context: PackContext, item: PackItem) -> _Survey:
    """Read the file once, in blocks that are small compared to a layer."""
    prefix, place, size = path_bytes(context.prefix), context.place_of(item.file), item.file.size
    digest, buffer, carried = hashlib.sha256(), bytearray(_READ_SIZE), b""
    has_prefix = has_nul = object_code = False
    with open_checked(place, item.file) as descriptor:
        for position in range(0, size, _READ_SIZE):
            view = memoryview(buffer)[: min(_READ_SIZE, size - position)]
            read_range_into(descriptor, position, view, place)
            digest.update(view)
            block = carried + bytes(view)
            has_prefix = has_prefix or prefix in block
            has_nul = has_nul or b"\0" in block
            object_code = object_code or (position == 0 and is_object_code(block[:4]))
            carried = block[len(block) - len(prefix) + 1 :]
    starts = tuple(PieceStart(position, position, 0) for position in (*range(0, size, LAYER_SIZE), size))
    return _Survey(starts, digest.hexdigest(), has_prefix, has_nul, object_code)


def _relocate(context: PackContext, item: PackItem, method: RelocationMethod) -> _Relocated:
    """Read the file once, in pieces that end where relocation allows it."""
    disk, stored = hashlib.sha256(), hashlib.sha256()
    starts, reversible = [PieceStart(0, 0, 0)], True
    for data in _pieces(context, item, method):
        canonical = _canonical(data, method, context.prefix)
        disk.update(data)
        stored.update(canonical)
        replaced = canonical.count(method.placeholder.encode()) if method.mode == "text" else 0
        last = starts[-1]
        starts.append(
            PieceStart(last.position + len(data), last.offset + len(canonical), last.replaced + replaced)
        )
        reversible = (
            reversible
            and len(canonical) <= LAYER_SIZE + LAYER_SIZE // 2
            and replace_placeholder(canonical, method.mode, method.placeholder, context.prefix) == data
        )
    end = starts[-1]
    disk_facts = FileFacts(disk.hexdigest(), end.position)
    return _Relocated(tuple(starts), disk_facts, FileFacts(stored.hexdigest(), end.offset), reversible)


def _canonical(data: bytes, method: RelocationMethod, prefix: str) -> bytes:
    if method.mode == "text" and not method.everywhere:
        return replace_directory(data, prefix, method.placeholder)
    return candidate_originals(data, method.mode, method.placeholder, prefix)[0]


def _relocation_methods(context: PackContext, item: PackItem, survey: _Survey) -> list[RelocationMethod]:
    """Return the methods to try, in order; none for data that is neither text nor object code."""
    if survey.has_nul and not survey.is_object_code:
        return []
    mode: Mode = "binary" if survey.has_nul else "text"
    earlier = context.earlier_placeholders(item.file)
    return [
        RelocationMethod(mode, placeholder)
        for placeholder in (*earlier, *default_placeholders(mode, len(path_bytes(context.prefix))))
    ]


def _pieces(context: PackContext, item: PackItem, method: RelocationMethod) -> Iterator[bytes]:
    """Yield the file's data in pieces."""
    prefix, place = path_bytes(context.prefix), context.place_of(item.file)
    with open_checked(place, item.file) as descriptor:
        position, size = 0, item.file.size
        while position < size:
            length = min(LAYER_SIZE, size - position)
            data = read_range(descriptor, position, min(length + _LOOK_AHEAD, size - position), place)
            if position + length < size:
                length = _safe_cut(data, length, prefix, method.mode)
            data = data[:length]
            yield data
            position += length


def _safe_cut(data: bytes, length: int, prefix: bytes, mode: Mode) -> int:
    """Return the last position up to `length` at which a cut splits nothing that relocation replaces.

    Return `length` if there is none.
    """
    if mode == "text":
        cut, reach = length, len(prefix) + _CONTEXT - 1
        while (start := data.find(prefix, max(0, cut - reach), cut + reach)) >= 0:
            cut = start - _CONTEXT
            if cut <= 0:
                return length
        return cut
    last = data.rfind(prefix, 0, length + len(prefix) - 1)
    if last < 0:
        return length
    end = data.find(0, last)
    while 0 <= end < len(data) and data[end] == 0:
        end += 1
    if 0 <= end < length:
        return length
    first = data.find(prefix, data.rfind(b"\0", 0, last) + 1)
    return first if first > 0 else length
