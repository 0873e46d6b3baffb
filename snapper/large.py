"""Files larger than a layer: cut inside their data, so that several processes pack and restore one file.

Cuts are a layer's size apart, but never inside what relocation replaces, so that each piece is relocated alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from snapper.collect import (
    LINK_TIME,
    Collected,
    Context,
    Facts,
    Item,
    builder_for,
    member_of,
    opened,
    prefix_bytes,
    read_range,
    store_layer,
)
from snapper.conda import Fact
from snapper.model import LAYER_SIZE, Begin, Kind, Mode
from snapper.relocate import Relocated, fresh_placeholders, invert, is_object_code, substitute
from snapper.segment import padding

#: How many bytes behind a cut are looked at for the end of what began before it.
_LOOK_AHEAD = 64 * 1024

#: How far a path's neighbours reach that decide whether it is one.
_CONTEXT = 4


class Way(NamedTuple):
    """How a file is relocated."""

    mode: Mode
    placeholder: str


class Cut(NamedTuple):
    """Where a piece begins: in the file on disk, in the canonical file, and after how many placeholders."""

    at: int
    offset: int
    replaced: int


@dataclass(frozen=True)
class Scan:
    """What reading a large file has shown. `cuts` has one more entry than there are pieces: the end."""

    item: Item
    proved: bool
    way: Way | None
    cuts: tuple[Cut, ...]
    unrelocated: bool
    facts: Facts | None = None

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


def scan(context: Context, item: Item) -> Scan:
    """Reads the file once or twice: proves it where a package vouches for it, else finds how to relocate it."""
    entry = item.entry
    if entry and entry.sha256:
        way = Way(entry.mode, entry.placeholder) if entry.placeholder else None
        found, digest, seen = _pass(context, item, way)
        if digest == entry.sha256:
            facts = Facts(Fact(seen.sha256, item.file.size), Fact(digest, found[-1].offset)) if way else None
            return Scan(item, True, way, found, False, facts)
    found, _, seen = _pass(context, item, None)
    if not seen.mentions:
        return Scan(item, False, None, found, False)
    for way in _ways(context, item, seen):
        relocated, _, after = _pass(context, item, way)
        if after.reversible:
            return Scan(item, False, way, relocated, False)
    return Scan(item, False, None, found, True)


def collect_piece(context: Context, piece: Piece) -> Collected:
    """Packs one piece and stores its layer."""
    scanned, builder = piece.scan, builder_for(context)
    item, start, end = scanned.item, scanned.cuts[piece.number], scanned.cuts[piece.number + 1]
    data = bytearray(end.at - start.at)
    path = context.path_of(item.file)
    with opened(path, item.file) as descriptor:
        read_range(descriptor, start.at, memoryview(data), path)
    canonical = bytes(data) if scanned.way is None else _canonical(bytes(data), scanned.way, context.prefix)
    mtime = LINK_TIME if item.made_at_link or (scanned.proved and scanned.way) else item.file.mtime
    member = member_of(item, mtime, scanned.size) if piece.number == 0 else None
    last = piece.number == len(scanned.cuts) - 2
    builder.add_piece(member, canonical, padding(scanned.size) if last else b"")
    if scanned.way:
        builder.note(item.file.path, Relocated(b"", *scanned.way))
    begins = Begin(item.file.path, start.offset, scanned.size, start.replaced) if piece.number else None
    sealed = builder.seal(piece.kind, piece.owner, context.known, begins)
    return Collected((sealed.layer,), (store_layer(context.store, sealed),))


@dataclass
class _Seen:
    """What a reading has shown; `sha256` is that of the file on disk, where it was relocated on the way."""

    mentions: bool = False
    nul: bool = False
    object_code: bool = False
    reversible: bool = True
    sha256: str = ""


def _pass(context: Context, item: Item, way: Way | None) -> tuple[tuple[Cut, ...], str, _Seen]:
    """One reading: where to cut, the canonical sha256, and what was seen on the way."""
    seen, needle = _Seen(), prefix_bytes(context.prefix)
    digest, disk_digest = hashlib.sha256(), hashlib.sha256()
    cuts = [Cut(0, 0, 0)]
    for at, data in _windows(context, item, way):
        canonical = data if way is None else _canonical(data, way, context.prefix)
        digest.update(canonical)
        replaced = canonical.count(way.placeholder.encode()) if way and way.mode == "text" else 0
        cuts.append(Cut(at + len(data), cuts[-1].offset + len(canonical), cuts[-1].replaced + replaced))
        seen.mentions = seen.mentions or needle in data
        seen.nul = seen.nul or b"\0" in data
        seen.object_code = seen.object_code or (at == 0 and is_object_code(data))
        if way is not None:
            disk_digest.update(data)
            seen.reversible = (
                seen.reversible
                and len(canonical) <= LAYER_SIZE + LAYER_SIZE // 2
                and substitute(canonical, way.mode, way.placeholder, context.prefix) == data
            )
    seen.sha256 = disk_digest.hexdigest()
    return tuple(cuts), digest.hexdigest(), seen


def _canonical(data: bytes, way: Way, prefix: str) -> bytes:
    return invert(data, way.mode, way.placeholder, prefix)[0]


def _ways(context: Context, item: Item, seen: _Seen) -> list[Way]:
    if seen.nul and not seen.object_code:
        return []
    mode: Mode = "binary" if seen.nul else "text"
    before = context.placeholders.get(item.file.path, ())
    return [
        Way(mode, name) for name in (*before, *fresh_placeholders(mode, len(prefix_bytes(context.prefix))))
    ]


def _windows(context: Context, item: Item, way: Way | None) -> Iterator[tuple[int, bytes]]:
    """The file in pieces: where each begins, and its bytes."""
    needle, path = prefix_bytes(context.prefix), context.path_of(item.file)
    with opened(path, item.file) as descriptor:
        at, size = 0, item.file.size
        while at < size:
            length = min(LAYER_SIZE, size - at)
            data = bytearray(min(length + _LOOK_AHEAD, size - at))
            read_range(descriptor, at, memoryview(data), path)
            if way is not None and at + length < size:
                length = _safe_cut(data, length, needle, way.mode)
            del data[length:]
            yield at, bytes(data)
            at += length


def _safe_cut(data: bytearray, length: int, needle: bytes, mode: Mode) -> int:
    """The cut nearest before `length` that parts nothing which relocation replaces."""
    if mode == "text":
        reach = len(needle) + _CONTEXT
        at = data.find(needle, max(0, length - reach), length + reach)
        return max(1, at - _CONTEXT) if at >= 0 else length
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
