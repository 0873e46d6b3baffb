"""Layers: tar segments compressed with zstd, named by what they hold.

A layer is one zstd frame (RFC 8878) over one segment. Frames joined are one zstd stream and segments joined are
one tar stream, so layers joined in a snapshot's order are a `.tar.zst`.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

import zstandard

from snapper.errors import Corrupted
from snapper.format.model import (
    LARGEST_LAYER,
    LAYER_SIZE,
    Continuation,
    Kind,
    Layer,
    Relocation,
    StoredLayer,
    path_bytes,
)
from snapper.format.relocate import CanonicalFile
from snapper.format.segment import BLOCK, Member, encode_header, padding

DEFAULT_LEVEL = 1
LEVELS = range(1, 20)

#: Level 1 is zstd's fast strategy, as zstd itself has it there, but with a window of 4 MiB and a table of 2^16: so it
#: makes layers as small as zstd's level 2 does, within 1%, and sooner.
_OF_LEVEL_1 = {"window_log": 22, "hash_log": 16, "min_match": 7}

#: What reading a stream of `decompressing` raises where the frames are damaged.
ZstdError: type[Exception] = zstandard.ZstdError


@dataclass(frozen=True)
class SealedLayer:
    """A finished layer's description and its bytes; `data` is None where the store is known to have them."""

    layer: Layer
    data: bytes | None


class LayerBuilder:
    """Collects members in one buffer, which is kept from layer to layer, and seals them into layers."""

    def __init__(self, level: int) -> None:
        self._buffer = bytearray(LAYER_SIZE + 1024 * 1024)
        self._view = memoryview(self._buffer)
        self._compressor = zstandard.ZstdCompressor(compression_params=_parameters(level))
        self._reset()

    def _reset(self) -> None:
        self._length = 0
        self._staged = 0
        self._members = 0
        self._relocated: dict[tuple[str, str], list[str]] = {}

    @property
    def empty(self) -> bool:
        return self._length == 0

    def has_room(self, size: int) -> bool:
        """Whether a member of that size still fits in the layer that is being built."""
        return self._length + size <= LAYER_SIZE

    def stage(self, member: Member) -> memoryview:
        """Puts a member behind the last one and gives room for its data; it counts only once `keep` is called."""
        blocks = encode_header(member)
        start = self._length + len(blocks)
        end = start + member.size
        self._staged = end + -end % BLOCK
        self._grow(self._staged)
        self._view[self._length : start] = blocks
        self._view[end : self._staged] = padding(end)
        return self._view[start:end]

    def mentions(self, needle: bytes) -> bool:
        """Whether the staged member's data holds these bytes."""
        return self._buffer.find(needle, self._length, self._staged) >= 0

    def keep(self) -> None:
        """Takes the staged member in."""
        self._length = self._staged
        self._members += 1

    def add(self, member: Member, data: bytes = b"", how: CanonicalFile | None = None) -> None:
        """Appends a whole member."""
        self.add_piece(member, data, padding(len(data)))
        if how is not None:
            self.note(member.path, how)

    def add_piece(self, member: Member | None, data: bytes, tail: bytes) -> None:
        """Appends part of a member's data, behind its header where `member` is given, and then `tail`."""
        self.make_piece(member, len(data), tail)[:] = data

    def make_piece(self, member: Member | None, size: int, tail: bytes) -> memoryview:
        """As `add_piece`, but gives room for the `size` bytes, which are to be put there before the layer is sealed."""
        blocks = encode_header(member) if member else b""
        start = self._length + len(blocks)
        end = start + size
        self._grow(end + len(tail))
        self._view[self._length : start] = blocks
        self._view[end : end + len(tail)] = tail
        self._length = end + len(tail)
        self._members += member is not None
        return self._view[start:end]

    def note(self, path: str, how: CanonicalFile) -> None:
        """Records that the member of that path is relocated."""
        self._relocated.setdefault((how.mode, how.placeholder), []).append(path)

    def seal(
        self,
        kind: Kind,
        owner: str,
        known: Callable[[str], StoredLayer | None],
        begins: Continuation | None = None,
    ) -> SealedLayer:
        """Ends the layer and begins the next; one is not compressed of which `known` gives digest and size."""
        view = self._view[: self._length]
        diff_id = hashlib.sha256(view).hexdigest()
        data, found = None, known(diff_id)
        if found is None:
            data = self._compressor.compress(view)
            found = StoredLayer(hashlib.sha256(data).hexdigest(), len(data))
        digest, size = found
        layer = Layer(
            digest, size, diff_id, self._length, kind, owner, self._members, self._relocations(), begins
        )
        self._reset()
        return SealedLayer(layer, data)

    def _relocations(self) -> tuple[Relocation, ...]:
        return tuple(
            Relocation(mode, placeholder, tuple(sorted(paths, key=path_bytes)))  # type: ignore[arg-type]
            for (mode, placeholder), paths in sorted(self._relocated.items())
        )

    def _grow(self, size: int) -> None:
        if size > len(self._buffer):
            self._buffer = self._buffer.ljust(size, b"\0")
            self._view = memoryview(self._buffer)


def _parameters(level: int) -> zstandard.ZstdCompressionParameters:
    own = _OF_LEVEL_1 if level == 1 else {}
    return zstandard.ZstdCompressionParameters.from_level(level, write_content_size=True, **own)


class LayerUnpacker:
    """Decompresses layers into one buffer, which is kept from layer to layer."""

    def __init__(self) -> None:
        self._buffer: mmap.mmap | None = None
        self._decompressor = zstandard.ZstdDecompressor()

    def segment(self, layer: Layer, data: bytes) -> memoryview:
        """The layer's segment, valid until the next call; `data` are its stored bytes.

        Never holds more than the layer says; raises Corrupted where it is not exactly that long.
        """
        what = f"layer {layer.digest[:12]}"
        segment = self._unpacked(what, data, layer.diff_size)
        if segment is None or len(segment) != layer.diff_size:
            raise Corrupted(what, "its uncompressed size differs from its snapshot")
        return segment

    def whole(self, data: bytes) -> memoryview:
        """The segment of a layer of which nothing is known but its stored bytes; raises Corrupted."""
        segment = self._unpacked("the layer", data, LARGEST_LAYER)
        if segment is None:
            raise Corrupted("the layer", "its uncompressed size exceeds the limit")
        return segment

    def _unpacked(self, what: str, data: bytes, most: int) -> memoryview | None:
        """What the bytes unpack to; None where that is more than `most` bytes."""
        if not self._buffer:
            self._buffer = _room(LARGEST_LAYER)
        view = memoryview(self._buffer)[:most]
        filled = 0
        try:
            with self._decompressor.stream_reader(data, read_across_frames=False) as reader:
                while filled < most and (count := reader.readinto(view[filled:])):
                    filled += count
                return view[:filled] if filled < most or not reader.read(1) else None
        except zstandard.ZstdError as error:
            raise Corrupted(what, str(error)) from None


def _room(size: int) -> mmap.mmap:
    """So many bytes, of which those take memory that have been used: in large pages, which are less work to find."""
    room = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):
            room.madvise(mmap.MADV_HUGEPAGE)
    return room


def zstd_writer(out: BinaryIO, level: int, threads: int) -> zstandard.ZstdCompressionWriter:
    """A stream that writes one zstd frame to `out`, which stays open; closing it ends the frame."""
    compressor = zstandard.ZstdCompressor(level=level, threads=threads if threads > 1 else 0)
    return compressor.stream_writer(out, closefd=False)


def zstd_reader(file: BinaryIO) -> zstandard.ZstdDecompressionReader:
    """A stream of what the zstd frames in `file` hold; reading it may raise BadFrame. One cut short just ends."""
    return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True, closefd=False)
