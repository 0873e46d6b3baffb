"""Compare the layers of a snapshot with the files of an environment on disk, byte by byte. Nothing is written."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from snapper.environment.conda import FileFacts
from snapper.environment.record_text import without_prefix_facts
from snapper.format import bytecode
from snapper.format.canonicalize import candidate_originals, with_one_prefix
from snapper.format.constraints import packed_mode
from snapper.format.cstrings import PlaceholderTooShort
from snapper.format.layer_reader import LayerReader, OpenLayer, Piece
from snapper.format.member import Member
from snapper.format.model import RECORD_MODES, Layer, Mode, Relocation
from snapper.format.relocate import relocate_file, relocate_link, replace_in_piece, replace_kept
from snapper.fs.pinned import PinnedDirectory
from snapper.repository.objects import read_layer
from snapper.restoring.disk_files import DiskFiles
from snapper.restoring.errors import unpack_errors
from snapper.store import Store

#: How a path differs from its snapshot. `checksums`: a package record has other checksums of relocated files.
DifferenceKind = Literal["missing", "type", "contents", "checksums", "target", "mode", "extra"]


class FileDifference(NamedTuple):
    """A path, and the first difference found there."""

    path: str
    what: DifferenceKind


@dataclass(frozen=True)
class CompareJob:
    """A layer to compare with the files in `directory`, which contain one of the `prefixes`, most of them the first.

    The links at the paths in `followed` count as the files that they lead to, by absolute paths. Files in `others` mean
    other environments by these prefixes, by path.
    """

    directory: str | PinnedDirectory
    prefixes: tuple[str, ...]
    followed: Mapping[str, str]
    layer: Layer
    others: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def prefix(self) -> str:
        return self.prefixes[0]


class StoredRecord(NamedTuple):
    """A package record as a layer has it; `mode` is that of its relocation."""

    path: str
    mode: Mode
    data: bytes


@dataclass
class ComparedLayer:
    """What comparing a layer found.

    `facts` are the checksums and sizes of relocated files on disk, which the packages' `records` must contain.
    `hard_links` are those of the layer, with the paths that they refer to.
    """

    paths: list[str] = field(default_factory=list)
    differences: list[FileDifference] = field(default_factory=list)
    facts: dict[str, FileFacts] = field(default_factory=dict)
    records: list[StoredRecord] = field(default_factory=list)
    hard_links: dict[str, str] = field(default_factory=dict)


_FILE_TYPES = {
    "file": stat.S_IFREG,
    "hardlink": stat.S_IFREG,
    "symlink": stat.S_IFLNK,
    "directory": stat.S_IFDIR,
}

_reader = LayerReader()


def compare_layer(store: Store, job: CompareJob) -> ComparedLayer:
    """Compare one layer; raise Corrupted, PermissionDenied, FileOperationFailed."""
    layer = _reader.open(job.layer, read_layer(store, job.layer), store.url)
    what = f"layer {job.layer.digest[:12]} in {store.url}"
    with unpack_errors(what, job.prefix), DiskFiles(job.directory, job.followed) as files:
        comparison = _LayerComparison(layer, files, job.prefixes, job.others)
        if layer.continuation is not None:
            comparison.compare_piece(layer.continuation)
        for member, data in layer.members():
            comparison.compare_member(member, data)
    return comparison.result


def differing_records(directory: PinnedDirectory, records: Iterable[StoredRecord]) -> list[FileDifference]:
    """Return the package records that differ from those on disk in more than checksums of relocated files.

    Raise PermissionDenied, FileOperationFailed.
    """
    with DiskFiles(directory, {}) as files:
        found = [(record, files.read(record.path)) for record in records]
    return [
        FileDifference(record.path, "contents")
        for record, on_disk in found
        if on_disk is None or without_prefix_facts(on_disk) != without_prefix_facts(record.data)
    ]


class _LayerComparison:
    """Compares the members of one layer with the files on disk."""

    def __init__(
        self,
        layer: OpenLayer,
        files: DiskFiles,
        prefixes: tuple[str, ...],
        others: Mapping[str, tuple[str, ...]],
    ) -> None:
        self._layer = layer
        self._files = files
        self._prefix, self._prefixes = prefixes[0], prefixes
        self._others = others
        self.result = ComparedLayer()

    def compare_member(self, member: Member, data: memoryview) -> None:
        """Compare a member; `data` is all of its data, or its first piece."""
        self.result.paths.append(member.path)
        what = self._difference(member, data)
        if what is not None:
            self.result.differences.append(FileDifference(member.path, what))

    def compare_piece(self, piece: Piece) -> None:
        """Compare the piece that the layer begins with."""
        if not self._is_same_piece(piece):
            self.result.differences.append(FileDifference(piece.start.path, "contents"))

    def _difference(self, member: Member, data: memoryview) -> DifferenceKind | None:
        status = self._files.status(member.path)
        if status is None:
            return "missing"
        if stat.S_IFMT(status.st_mode) != _FILE_TYPES[member.type]:
            return "type"
        if member.type == "symlink":
            relocation, target = self._layer.links.get(member.path), self._files.target(member.path)
            expected = {relocate_link(member.target, relocation, prefix) for prefix in self._prefixes}
            return None if target in expected else "target"
        if member.type == "hardlink":
            self.result.hard_links[member.path] = member.target
            other = self._files.status(member.target)
            return None if other and os.path.samestat(status, other) else "target"
        if member.type == "file" and not self._is_same_file(member, data):
            return "contents"
        modes = {packed_mode(member.path, member.type, mode) for mode in (status.st_mode, member.mode)}
        return None if len(modes) == 1 else "mode"

    def _is_same_file(self, member: Member, data: memoryview) -> bool:
        """Return whether the file on disk equals the member; keep package records, to compare them later."""
        if len(data) < member.size:
            return self._is_same_piece(Piece.first(member, data))
        on_disk = self._files.read(member.path)
        if on_disk is None:
            return False
        relocation = self._layer.relocations.get(member.path)
        if relocation and relocation.mode in RECORD_MODES:
            self.result.records.append(StoredRecord(member.path, relocation.mode, bytes(data)))
            return True
        is_module = member.path.endswith(".pyc")
        kept = self._layer.links.get(member.path)
        if relocation is None and kept is None:
            return on_disk == data or (is_module and _is_same_module(on_disk, bytes(data)))
        self.result.facts[member.path] = FileFacts(hashlib.sha256(on_disk).hexdigest(), len(on_disk))
        others = self._others.get(member.path, ())
        prefixes = [prefix for prefix in self._prefixes if prefix not in others]
        on_disk = with_one_prefix(on_disk, prefixes[0], tuple(prefixes[1:]))
        return any(
            self._is_relocated(prefix, on_disk, bytes(data), relocation, kept, is_module)
            for prefix in prefixes
        )

    def _is_relocated(
        self,
        prefix: str,
        on_disk: bytes,
        stored: bytes,
        relocation: Relocation | None,
        kept: Relocation | None,
        is_module: bool,
    ) -> bool:
        """Return whether relocating the stored file gives the one on disk, or undoing that gives the stored one."""
        expected = stored
        if relocation:
            with suppress(PlaceholderTooShort):
                expected = relocate_file(stored, relocation.mode, relocation.placeholder, prefix)
        if kept:
            expected = replace_kept(expected, kept.placeholder, prefix)
        if on_disk == expected or (is_module and _is_same_module(on_disk, expected)):
            return True
        if relocation is None:
            return False
        return stored in candidate_originals(on_disk, relocation.mode, relocation.placeholder, prefix)

    def _is_same_piece(self, piece: Piece) -> bool:
        relocation = self._layer.relocations.get(piece.start.path)
        offset, expected = piece.offset_on_disk(relocation, self._prefix), bytes(piece.data)
        if relocation and relocation.mode not in RECORD_MODES:
            with suppress(PlaceholderTooShort):
                expected = replace_in_piece(
                    expected,
                    relocation.mode,
                    relocation.placeholder,
                    self._prefix,
                    is_for_loader=(piece.start.path, relocation.placeholder) in self._layer.for_loader,
                )
        return self._files.read(piece.start.path, offset, len(expected) + piece.is_last) == expected


def _is_same_module(first: bytes, second: bytes) -> bool:
    """Return whether two compiled modules differ at most in the source mtime that they are valid for."""
    return bytecode.without_source_mtime(first) == bytecode.without_source_mtime(second)
