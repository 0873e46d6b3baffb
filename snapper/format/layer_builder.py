"""Write layers: tar segments compressed with zstd, named by their contents.

A layer is one zstd frame that contains one segment. Concatenated frames are a valid zstd stream and concatenated
segments are a valid tar stream, so the layers of a snapshot, concatenated in order, are a `.tar.zst`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from snapper.format.canonicalize import CanonicalFile
from snapper.format.compression import FrameCompressor
from snapper.format.constraints import path_bytes
from snapper.format.member import BLOCK, Member, encode_header, padding
from snapper.format.model import LAYER_SIZE, Continuation, Kind, Layer, Relocation, StoredLayer

_SPARE = 1024 * 1024


@dataclass(frozen=True)
class SealedLayer:
    """The description of a finished layer, and its bytes: None if the store has them already."""

    layer: Layer
    data: bytes | None


class LayerBuilder:
    """Collect members in a buffer and seal them into layers. The buffer is reused."""

    def __init__(self, level: int) -> None:
        self._buffer = bytearray(LAYER_SIZE + _SPARE)
        self._view = memoryview(self._buffer)
        self._compressor = FrameCompressor(level)
        self._reset()

    def _reset(self) -> None:
        self._length = 0
        self._staged = 0
        self._data = (0, 0)
        self._members = 0
        self._relocated: dict[tuple[str, str], list[str]] = {}
        self._kept: dict[str, list[str]] = {}

    @property
    def empty(self) -> bool:
        """Whether nothing has been added since the last layer was sealed."""
        return self._length == 0

    def has_room(self, size: int) -> bool:
        """Return whether a member of that size fits in the current layer."""
        return self._length + size <= LAYER_SIZE

    def stage(self, member: Member) -> memoryview:
        """Return the buffer to write the member's data to. The member is only added by a call of `keep`."""
        blocks = encode_header(member)
        start = self._length + len(blocks)
        end = start + member.size
        self._staged = end + -end % BLOCK
        self._grow(self._staged)
        self._view[self._length : start] = blocks
        self._view[end : self._staged] = padding(end)
        self._data = (start, end)
        return self._view[start:end]

    def mentions(self, needle: bytes) -> bool:
        """Return whether the staged member contains these bytes."""
        return self._buffer.find(needle, self._length, self._staged) >= 0

    def has_nul(self) -> bool:
        """Return whether the data of the staged member contains a NUL byte."""
        return self._buffer.find(0, *self._data) >= 0

    def keep(self) -> None:
        """Add the staged member."""
        self._length = self._staged
        self._members += 1

    def add(self, member: Member, data: bytes = b"", how: CanonicalFile | None = None) -> None:
        """Add a whole member, which `how` relocates."""
        self.add_piece(member, data, padding(len(data)))
        if how is not None:
            self.note(member.path, how)

    def add_piece(self, member: Member | None, data: bytes, tail: bytes) -> None:
        """Add part of a member's data, after its header if `member` is given, and then `tail`."""
        self.make_piece(member, len(data), tail)[:] = data

    def make_piece(self, member: Member | None, size: int, tail: bytes) -> memoryview:
        """Do the same as `add_piece`, but return the buffer to write the `size` bytes to before the layer is sealed."""
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
        """Record that the member of that path is relocated."""
        if how.mode is not None:
            self._relocated.setdefault((how.mode, how.placeholder), []).append(path)
        if how.kept:
            self._kept.setdefault(how.kept, []).append(path)

    def seal(
        self,
        kind: Kind,
        owner: str,
        known: Callable[[str, int], StoredLayer | None],
        begins: Continuation | None = None,
    ) -> SealedLayer:
        """Return the finished layer and begin the next one.

        `known` returns, by diff_id and size, what a store has already: such a segment is not compressed again.
        `begins` says which member's data the layer continues.
        """
        segment = self._view[: self._length]
        diff_id = hashlib.sha256(segment).hexdigest()
        data, stored = None, known(diff_id, self._length)
        if stored is None:
            data = self._compressor.compress(segment)
            stored = StoredLayer(hashlib.sha256(data).hexdigest(), len(data))
        layer = Layer(
            stored.digest,
            stored.size,
            diff_id,
            self._length,
            kind,
            owner,
            self._members,
            self._relocations(),
            begins,
        )
        self._reset()
        return SealedLayer(layer, data)

    def _relocations(self) -> tuple[Relocation, ...]:
        """Return the groups of relocations. Readers of 0.1.0 know one for each path, the last."""
        groups = [(("link", kept), paths) for kept, paths in sorted(self._kept.items())]
        groups += sorted(self._relocated.items())
        return tuple(
            Relocation(mode, placeholder, tuple(sorted(paths, key=path_bytes)))  # type: ignore[arg-type]
            for (mode, placeholder), paths in groups
        )

    def _grow(self, size: int) -> None:
        if size > len(self._buffer):
            self._buffer = self._buffer.ljust(size, b"\0")
            self._view = memoryview(self._buffer)
