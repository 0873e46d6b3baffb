"""Read the contents of untrusted layers: the only place that decompresses and iterates them.

The digest of the stored bytes has been verified before, by `repository.objects.read_layer`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import NamedTuple

from snapper.errors import Corrupted
from snapper.format.compression import FrameDecompressor, ZstdError
from snapper.format.constraints import (
    LONGEST_FILE_NAME,
    SHARED_DIRECTORIES,
    check_path,
    check_target,
    is_foreign,
    path_bytes,
)
from snapper.format.member import InvalidSegment, Member
from snapper.format.model import LARGEST_LAYER, Continuation, Layer, Relocation
from snapper.format.placeholders import paths_for_loader
from snapper.format.segment import iter_members, segment_start

logger = logging.getLogger(__name__)

#: How names begin that no path may contain, or that are reserved.
_SPECIAL_BEGINNINGS = ("", ".")


class Piece(NamedTuple):
    """Data that is only part of a file's: `start` says which file, and where in it."""

    start: Continuation
    data: memoryview

    @classmethod
    def first(cls, member: Member, data: memoryview) -> Piece:
        """Return the data of a member that continues in the next layer."""
        return cls(Continuation(member.path, 0, member.size, 0), data)

    @property
    def end(self) -> int:
        """The offset of the next byte, in the file as stored."""
        return self.start.offset + len(self.data)

    @property
    def is_last(self) -> bool:
        """Whether the file ends with this piece."""
        return self.end >= self.start.size

    def offset_on_disk(self, relocation: Relocation | None, prefix: str) -> int:
        """Return where the piece begins in the file when relocated to `prefix`.

        Raise InvalidSegment if the placeholders that are said to precede it would not fit there.
        """
        if relocation is None or relocation.mode != "text":
            return self.start.offset
        length, replaced = len(relocation.placeholder.encode()), self.start.replaced
        if replaced * length > self.start.offset:
            raise InvalidSegment("fewer placeholders than it says can precede a part of a large file")
        return self.start.offset + replaced * (len(path_bytes(prefix)) - length)


class OpenLayer:
    """A decompressed layer, valid until its reader opens the next one.

    `continuation` is the data that it begins with, of a file that began in an earlier layer. `relocations` says how the
    data of members depends on the prefix, by path; it lacks those that do not. `links` does the same for the targets of
    symlinks, and for files that contain a prefix which only one of the same length can replace. `for_loader` has the
    `paths_for_loader`.
    """

    def __init__(self, name: str, layer: Layer, segment: memoryview) -> None:
        self._name = name
        self._segment = segment
        self._layer = layer
        self._start = segment_start(layer.begins, len(segment))
        self.relocations: dict[str, Relocation] = {}
        self.links: dict[str, Relocation] = {}
        self.for_loader = paths_for_loader(layer)
        for group in layer.relocations:
            if group.mode == "link":
                paths = (path for path in group.paths if (path, group.placeholder) not in self.for_loader)
                self.links.update(dict.fromkeys(paths, group))
            else:
                self.relocations.update(dict.fromkeys(group.paths, group))
        self.continuation = Piece(layer.begins, segment[: self._start.size]) if layer.begins else None

    def members(self) -> Iterator[tuple[Member, memoryview]]:
        """Yield the members that begin in the layer, with their data; that of the last one may be its first piece only.

        Paths and the targets of hard links are relative, normal, and inside the environment. Raise Corrupted if
        anything differs from docs/format.md or from the layer's description.
        """
        return read_members(self._segment, self._start.members, self._name, self._layer.members)


class LayerReader:
    """Open layers one by one. They are decompressed into one buffer, which is reused."""

    def __init__(self) -> None:
        self._decompressor = FrameDecompressor(LARGEST_LAYER)

    def open(self, layer: Layer, data: bytes, store_url: str) -> OpenLayer:
        """Open the layer whose bytes in the store are `data`.

        No more than its declared size is decompressed. Raise Corrupted if that is not exactly its size.
        """
        name = f"layer {layer.digest[:12]} in {store_url}"
        segment = self._decompress(name, data, layer.diff_size)
        if segment is None or len(segment) != layer.diff_size:
            raise Corrupted(name, "its uncompressed size differs from its snapshot")
        return OpenLayer(name, layer, segment)

    def decompress(self, data: bytes) -> memoryview:
        """Return the segment of a layer of unknown size, valid until the next call. Raise Corrupted."""
        segment = self._decompress("the layer", data, LARGEST_LAYER)
        if segment is None:
            raise Corrupted("the layer", "its uncompressed size exceeds the limit")
        return segment

    def _decompress(self, name: str, data: bytes, limit: int) -> memoryview | None:
        try:
            return self._decompressor.decompress(data, limit)
        except ZstdError as error:
            raise Corrupted(name, str(error)) from None


def read_members(
    segment: memoryview, start: int, name: str, expected: int | None = None
) -> Iterator[tuple[Member, memoryview]]:
    """Yield the members from offset `start` on, with their data, except for those that are `foreign`.

    snapper 0.1.0 packed other environments, for example, that it did not recognize as such.
    Raise Corrupted about the layer `name` if anything is not allowed, or if there are not as many as `expected`.
    """
    checked: set[str] = set()
    count = 0
    left_out = False
    try:
        for member_with_data in iter_members(segment, start):
            count += 1
            member = member_with_data[0]
            path = member.path
            directory, _, last = path.rpartition("/")
            # Paths in one directory differ only in their last component: it is enough to check one of them in full.
            if (
                directory not in checked
                or last[:1] in _SPECIAL_BEGINNINGS
                or len(last) > LONGEST_FILE_NAME
                or "\0" in last
            ):
                check_path(path)
                if is_foreign(path):
                    left_out = True
                    continue
                if directory:
                    checked.add(directory)
                if path.casefold() in SHARED_DIRECTORIES and member.type != "directory":
                    raise InvalidSegment(f"{path!r} is not a directory")
            if member.type == "hardlink":
                check_path(member.target)
                if is_foreign(member.target):
                    raise InvalidSegment(f"{path!r} is a link to {member.target!r}, which is not part of it")
            elif member.type == "symlink":
                check_target(member.target)
            yield member_with_data
    except ValueError as error:
        raise Corrupted(name, str(error)) from None
    if left_out:
        logger.warning(
            "%s has files that are part of no environment (in envs or pkgs); they are left out", name
        )
    if expected is not None and count != expected:
        raise Corrupted(name, f"it has {count} members instead of {expected}")


def members_offset(begins: Continuation | None, length: int) -> int:
    """Return where the members begin in a segment of `length` bytes."""
    return segment_start(begins, length).members
