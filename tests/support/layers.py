"""Layers written by hand: what snapper never writes itself, but a store may hold."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path
from typing import Any, NamedTuple

import zstandard

from snapper.format.member import Member, encode_header, padding
from snapper.format.model import Continuation, Layer, Relocation

PLACEHOLDER = "/opt/placeholder"
PLACEHOLDER_BYTES = PLACEHOLDER.encode()

#: The member that makes a directory an environment.
META = Member("conda-meta", "directory", 0o755, 0)


class StoredLayer(NamedTuple):
    """A layer and its bytes in the store."""

    layer: Layer
    data: bytes


def encode_member(member: Member, data: bytes = b"") -> bytes:
    """Return a whole member: header, data, padding."""
    return encode_header(member) + data + padding(len(data))


def file(path: str, data: bytes = b"data", mode: int = 0o644, mtime: int = 1_600_000_000) -> bytes:
    """Return a file as a whole member."""
    return encode_member(Member(path, "file", mode, mtime, len(data)), data)


def directory(path: str, mode: int = 0o755) -> bytes:
    """Return a directory as a whole member."""
    return encode_member(Member(path, "directory", mode, 0))


def symlink(path: str, target: str | Path) -> bytes:
    """Return a symbolic link as a whole member."""
    return encode_member(Member(path, "symlink", 0o777, 0, 0, str(target)))


def hardlink(path: str, target: str) -> bytes:
    """Return a hard link as a whole member."""
    return encode_member(Member(path, "hardlink", 0o644, 0, 0, target))


def member_of_type(path: str, flag: bytes) -> bytes:
    """Return an empty member with this tar type flag, which layers may not contain."""
    return with_header_field(156, flag, path)


def with_header_field(start: int, value: bytes, path: str = "a") -> bytes:
    """Return an empty file whose header has these bytes at an offset."""
    block = bytearray(file(path, b""))
    block[start : start + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pack_segment(
    segment: bytes,
    members: int,
    relocations: tuple[Relocation, ...] = (),
    begins: Continuation | None = None,
    stored: bytes | None = None,
) -> StoredLayer:
    """Return a layer of the segment; `stored` are its bytes in the store, by default the compressed segment."""
    data = zstandard.compress(segment) if stored is None else stored
    digest, diff_id = hashlib.sha256(data).hexdigest(), hashlib.sha256(segment).hexdigest()
    layer = Layer(digest, len(data), diff_id, len(segment), "files", "", members, relocations, begins)
    return StoredLayer(layer, data)


def pack_members(*members: bytes) -> StoredLayer:
    """Return a layer of whole members."""
    return pack_segment(b"".join(members), len(members))


def relocations_of(mode: Any, *paths: str) -> tuple[Relocation, ...]:
    """Return relocations of the paths, with `PLACEHOLDER`."""
    return (Relocation(mode, PLACEHOLDER, paths),)


def first_piece(size: int, held: bytes, path: str = "big", **options: Any) -> StoredLayer:
    """Return a layer that ends inside a file's data."""
    return pack_segment(encode_header(Member(path, "file", 0o644, 0, size)) + held, 1, **options)


def next_piece(
    offset: int, held: bytes, size: int = 2000, path: str = "big", replaced: int = 0, **options: Any
) -> StoredLayer:
    """Return a layer that begins inside a file's data."""
    return pack_segment(held, 0, begins=Continuation(path, offset, size, replaced), **options)


def split_file(
    data: bytes, offsets: list[int], relocations: tuple[Relocation, ...], mode: int = 0o755
) -> list[StoredLayer]:
    """Return layers of a file `lib/big`, split at the offsets, between the whole files `before` and `behind`."""
    ends = [*offsets, len(data)]
    first = Member("lib/big", "file", mode, 1_600_000_000, len(data))
    layers = [pack_segment(file("before") + encode_header(first) + data[: offsets[0]], 2, relocations)]
    for start, end in itertools.pairwise(ends):
        is_text = bool(relocations) and relocations[0].mode == "text"
        replaced = data[:start].count(PLACEHOLDER_BYTES) if is_text else 0
        begins = Continuation("lib/big", start, len(data), replaced)
        tail = padding(len(data)) + file("behind") if end == len(data) else b""
        layers.append(pack_segment(data[start:end] + tail, int(end == len(data)), relocations, begins))
    return layers
