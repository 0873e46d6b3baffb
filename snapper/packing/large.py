"""Files larger than a layer: cut inside their data, so that several processes pack and restore one file.

Cuts are a layer's size apart, but never inside what relocation replaces, so that each piece is relocated alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from snapper.environment.conda import FileFacts
from snapper.format.model import LAYER_SIZE, Continuation, Kind, Mode
from snapper.format.relocate import (
    CanonicalFile,
    candidate_originals,
    default_placeholders,
    is_object_code,
    replace_directory,
    replace_placeholder,
)
from snapper.format.segment import padding
from snapper.packing.collect import (
    LINK_TIME,
    CollectedGroup,
    PackContext,
    PackItem,
    RelocatedFacts,
    builder_for,
    member_of,
    opened,
    prefix_bytes,
    read_at,
    read_range,
    store_layer,
)
from snapper.process.worker import Deferred

#: How many bytes behind a cut are looked at for the end of what began before it.
_LOOK_AHEAD = 64 * 1024

#: How much of a file is read at once that is only looked at.
_READ = 1024 * 1024

#: How far a path's neighbours reach that decide whether it is one.
_CONTEXT = 4


class RelocationMethod(NamedTuple):
    """How a file is relocated: `everywhere` as conda does it, or only where the prefix is a path of its own."""

    mode: Mode
    placeholder: str
    everywhere: bool = False


class PieceStart(NamedTuple):
    """Where a piece begins: in the file on disk, in the canonical file, and after how many placeholders."""

    at: int
    offset: int
    replaced: int


@dataclass(frozen=True)
class Scan:
    """What reading a large file has shown. `cuts` has one more entry than there are pieces: the end."""

    item: PackItem
    proved: bool
    way: RelocationMethod | None
    cuts: tuple[PieceStart, ...]
    unrelocated: bool
    facts: RelocatedFacts | None = None

    @property
    def size(self) -> int:
        return self.cuts[-1].offset


@dataclass(frozen=True)
class Piece:
    """One layer's worth of a scanned file."""

    kind: Kind
    owner: str
    scan: Scan
    number: int

    @property
    def size(self) -> int:
        return self.scan.cuts[self.number + 1].offset - self.scan.cuts[self.number].offset


def scan(context: PackContext, item: PackItem) -> Scan:
    """Reads the file once or more: proves it where a package vouches for it, else finds how to relocate it."""
    entry = item.entry
    if entry and entry.sha256 and entry.placeholder:
        proved = _relocate(context, item, RelocationMethod(entry.mode, entry.placeholder, everywhere=True))
        if proved.stored.sha256 == entry.sha256:
            return Scan(
                item, True, proved.way, proved.cuts, False, RelocatedFacts(proved.disk, proved.stored)
            )
    seen = _look(context, item)
    if not seen.mentions:
        return Scan(item, bool(entry and entry.sha256 == seen.sha256), None, seen.cuts, False)
    if entry and entry.sha256 == seen.sha256:
        return Scan(item, True, None, seen.cuts, False)
    for way in _ways(context, item, seen):
        found = _relocate(context, item, way)
        if found.reversible:
            return Scan(item, False, way, found.cuts, False)
    return Scan(item, False, None, seen.cuts, True)


def collect_piece(context: PackContext, piece: Piece) -> Deferred[CollectedGroup]:
    """Packs one piece and has its layer stored; gives a Collected then."""
    scanned, builder = piece.scan, builder_for(context)
    item, start, end = scanned.item, scanned.cuts[piece.number], scanned.cuts[piece.number + 1]
    mtime = LINK_TIME if item.made_at_link or (scanned.proved and scanned.way) else item.file.mtime
    member = member_of(item, mtime, scanned.size) if piece.number == 0 else None
    tail = padding(scanned.size) if piece.number == len(scanned.cuts) - 2 else b""
    path = context.path_of(item.file)

    if scanned.way is None:
        room = builder.make_piece(member, end.at - start.at, tail)
        with opened(path, item.file) as descriptor:
            read_range(descriptor, start.at, room, path)
    else:
        with opened(path, item.file) as descriptor:
            data = read_at(descriptor, start.at, end.at - start.at, path)
        data = _canonical(data, scanned.way, context.prefix)
        builder.add_piece(member, data, tail)
        builder.note(item.file.path, CanonicalFile(b"", scanned.way.mode, scanned.way.placeholder))
        del data
    begins = (
        Continuation(item.file.path, start.offset, scanned.size, start.replaced) if piece.number else None
    )
    sealed = builder.seal(piece.kind, piece.owner, context.stored, begins)
    layer, added_size = sealed.layer, store_layer(context, sealed)
    return Deferred(lambda: CollectedGroup((layer,), (added_size(),)))


@dataclass(frozen=True)
class _Seen:
    """What a file is, read as it stands: cut where layers are full."""

    cuts: tuple[PieceStart, ...]
    sha256: str
    mentions: bool
    nul: bool
    object_code: bool


@dataclass(frozen=True)
class _Relocated:
    """What a file is on disk and stored, relocated one way, and whether the way leads back."""

    way: RelocationMethod
    cuts: tuple[PieceStart, ...]
    disk: FileFacts
    stored: FileFacts
    reversible: bool


def _look(context: PackContext, item: PackItem) -> _Seen:
    """One reading, in parts that are small beside a layer."""
    needle, path, size = prefix_bytes(context.prefix), context.path_of(item.file), item.file.size
    digest, buffer, kept = hashlib.sha256(), bytearray(_READ), b""
    mentions = nul = object_code = False
    with opened(path, item.file) as descriptor:
        for at in range(0, size, _READ):
            view = memoryview(buffer)[: min(_READ, size - at)]
            read_range(descriptor, at, view, path)
            digest.update(view)
            part = kept + bytes(view)
            mentions = mentions or needle in part
            nul = nul or b"\0" in part
            object_code = object_code or (at == 0 and is_object_code(part[:4]))
            kept = part[len(part) - len(needle) + 1 :]
    cuts = tuple(PieceStart(at, at, 0) for at in (*range(0, size, LAYER_SIZE), size))
    return _Seen(cuts, digest.hexdigest(), mentions, nul, object_code)


def _relocate(context: PackContext, item: PackItem, way: RelocationMethod) -> _Relocated:
    """One reading, in pieces that are cut where relocation allows it."""
    disk, stored = hashlib.sha256(), hashlib.sha256()
    cuts, reversible = [PieceStart(0, 0, 0)], True
    for at, data in _pieces(context, item, way):
        canonical = _canonical(data, way, context.prefix)
        disk.update(data)
        stored.update(canonical)
        replaced = canonical.count(way.placeholder.encode()) if way.mode == "text" else 0
        cuts.append(
            PieceStart(at + len(data), cuts[-1].offset + len(canonical), cuts[-1].replaced + replaced)
        )
        reversible = (
            reversible
            and len(canonical) <= LAYER_SIZE + LAYER_SIZE // 2
            and replace_placeholder(canonical, way.mode, way.placeholder, context.prefix) == data
        )
    facts = FileFacts(disk.hexdigest(), cuts[-1].at), FileFacts(stored.hexdigest(), cuts[-1].offset)
    return _Relocated(way, tuple(cuts), *facts, reversible)


def _canonical(data: bytes, way: RelocationMethod, prefix: str) -> bytes:
    if way.mode == "text" and not way.everywhere:
        return replace_directory(data, prefix, way.placeholder)
    return candidate_originals(data, way.mode, way.placeholder, prefix)[0]


def _ways(context: PackContext, item: PackItem, seen: _Seen) -> list[RelocationMethod]:
    if seen.nul and not seen.object_code:
        return []
    mode: Mode = "binary" if seen.nul else "text"
    before = context.placeholders.get(item.file.path, ())
    return [
        RelocationMethod(mode, name)
        for name in (*before, *default_placeholders(mode, len(prefix_bytes(context.prefix))))
    ]


def _pieces(context: PackContext, item: PackItem, way: RelocationMethod) -> Iterator[tuple[int, bytes]]:
    """The file in pieces: where each begins, and its bytes."""
    needle, path = prefix_bytes(context.prefix), context.path_of(item.file)
    with opened(path, item.file) as descriptor:
        at, size = 0, item.file.size
        while at < size:
            length = min(LAYER_SIZE, size - at)
            data = read_at(descriptor, at, min(length + _LOOK_AHEAD, size - at), path)
            if at + length < size:
                length = _safe_cut(data, length, needle, way.mode)
            data = data[:length]
            yield at, data
            at += length


def _safe_cut(data: bytes, length: int, needle: bytes, mode: Mode) -> int:
    """The cut nearest before `length` that parts nothing which relocation replaces."""
    if mode == "text":
        cut, reach = length, len(needle) + _CONTEXT - 1
        while (at := data.find(needle, max(0, cut - reach), cut + reach)) >= 0:
            cut = at - _CONTEXT
            if cut <= 0:
                return length
        return cut
    at = data.rfind(needle, 0, length + len(needle) - 1)
    if at < 0:
        return length
    end = data.find(0, at)
    while 0 <= end < len(data) and data[end] == 0:
        end += 1
    if 0 <= end < length:
        return length
    first = data.find(needle, data.rfind(b"\0", 0, at) + 1)
    return first if first > 0 else length
