"""Writes layers into a directory: what a restoring worker does.

Every path is walked from the directory's own descriptor, component by component, without following links, and
no link exists while files are written: symlinks and hard links are made last, by `finish`. So nothing that a
layer says can reach outside the directory.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from snapper.environment.conda import FileFacts
from snapper.environment.index import IndexEntry, directory_entry, encode_block
from snapper.format.layer_reader import LayerReader, OpenLayer, Piece
from snapper.format.member import InvalidSegment, Member
from snapper.format.model import RECORD_MODES, Layer, Mode, Relocation
from snapper.format.relocate import PlaceholderTooShort, relocate_file, relocate_link, replace_placeholder
from snapper.fs.directories import DirectoryTree, write_all
from snapper.repository.snapshots import read_layer
from snapper.restoring.errors import unpack_errors
from snapper.store import Store

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SHARED_FILE = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
NANOSECONDS = 1_000_000_000


@dataclass(frozen=True)
class ExtractJob:
    """A layer to write below `directory`, relocated to `prefix`; `cut` are the files that several layers hold.

    `number` is the layer's in its snapshot.
    """

    store: Store
    directory: str
    prefix: str
    layer: Layer
    cut: frozenset[str]
    number: int


class Link(NamedTuple):
    """A link to make at the end; the target of a hard link is a path of the tree."""

    path: str
    target: str
    hard: bool


class SplitFile(NamedTuple):
    """A file whose data goes on in the next layer, at `offset` of its canonical bytes.

    `replaced` counts the placeholders before that, if they were looked for.
    """

    member: Member
    offset: int
    replaced: int | None


@dataclass
class ExtractedLayer:
    """What a layer left to do, and what it wrote.

    `facts` are those of relocated files, with which `records` are to be restated, and `index` is a block of the
    environment's index. What was `inherited` was not written, but linked.
    """

    size: int = 0
    links: list[Link] = field(default_factory=list)
    directories: list[Member] = field(default_factory=list)
    cut: SplitFile | None = None
    records: list[tuple[str, Mode]] = field(default_factory=list)
    facts: dict[str, FileFacts] = field(default_factory=dict)
    unrelocated: list[str] = field(default_factory=list)
    index: bytes = b""
    inherited: bool = False


_reader = LayerReader()
_directories: dict[str, DirectoryTree] = {}


def fetch_layer(_: object, job: ExtractJob) -> bytes:
    """Reads and checks one layer; raises Corrupted, and what the store raises."""
    return read_layer(job.store, job.layer)


def extract_layer(_: object, job: ExtractJob, stored: bytes) -> ExtractedLayer:
    """Unpacks and writes one layer, of which `stored` are the bytes as the store has them.

    Raises Corrupted, InsufficientSpace, PermissionDenied, FileOperationFailed.
    """
    os.umask(0)
    what = f"layer {job.layer.digest[:12]} in {job.store.url}"
    layer = _reader.open(job.layer, stored, job.store.url)
    with unpack_errors(what, job.prefix):
        writer = _Writer(job, layer, _directories_of(job.directory))
        if layer.continuation is not None:
            writer.continued(layer.continuation)
        for member, data in layer.members():
            writer.write(member, data)
    return writer.done()


def _directories_of(top: str) -> DirectoryTree:
    """Those of the tree; layers of two trees may come by turns, so the ones of the last two are kept."""
    found = _directories.pop(top, None) or DirectoryTree(top)
    for stale in list(_directories)[:-1]:
        _directories.pop(stale).close()
    _directories[top] = found
    return found


class _Writer:
    def __init__(self, job: ExtractJob, layer: OpenLayer, directories: DirectoryTree) -> None:
        self._job = job
        self._layer = layer
        self._directories = directories
        self._result = ExtractedLayer()
        self._stats: list[IndexEntry] = []

    def done(self) -> ExtractedLayer:
        self._result.index = encode_block(self._job.number, self._stats)
        return self._result

    def write(self, member: Member, data: memoryview) -> None:
        if member.type == "file":
            self._file(member, data)
        elif member.type == "directory":
            self._result.directories.append(member)
            self._directories[member.path]
            self._stats.append(directory_entry(member.path, member.mode & 0o777))
        else:
            self._link(member)

    def continued(self, piece: Piece) -> None:
        """Writes the data that the layer begins with."""
        replaced = self._piece(piece)
        if not piece.is_last:
            member = Member(piece.start.path, "file", 0, 0, piece.start.size)
            self._result.cut = SplitFile(member, piece.end, replaced)

    def _link(self, member: Member) -> None:
        relocation = self._layer.relocation(member.path)
        target = relocate_link(member.target, relocation, self._job.prefix)
        self._result.links.append(Link(member.path, target, member.type == "hardlink"))

    def _file(self, member: Member, data: memoryview) -> None:
        path, _, mode, mtime, size, _ = member
        if len(data) < size:
            replaced = self._piece(Piece.first(member, data))
            self._result.cut = SplitFile(member, len(data), replaced)
            return
        if path in self._job.cut:
            raise InvalidSegment(f"{path!r} is present both whole and in parts")
        relocation = self._layer.relocation(path)
        content = data if relocation is None else self._content(path, data, relocation)
        directory, _, name = path.rpartition("/")
        mode &= 0o777
        time = mtime * NANOSECONDS
        descriptor = os.open(name, _NEW_FILE, mode, dir_fd=self._directories[directory])
        try:
            write_all(descriptor, content)
            os.utime(descriptor, ns=(time, time))
            status = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        self._result.size += size
        inode = 0 if path in self._result.unrelocated else status.st_ino
        self._stats.append(
            IndexEntry(path, status.st_size, mode, status.st_mtime_ns, status.st_ctime_ns, inode)
        )

    def _content(self, path: str, data: memoryview, relocation: Relocation) -> memoryview | bytes:
        """What to write of a file that is relocated; what has to be known of that later on is noted."""
        if relocation.mode in RECORD_MODES:
            self._result.records.append((path, relocation.mode))
            return data
        content = self._relocated(path, data, relocation, relocate_file)
        self._result.facts[path] = FileFacts(hashlib.sha256(content).hexdigest(), len(content))
        return content

    def _piece(self, piece: Piece) -> int | None:
        """Writes part of a file that several layers hold, at its place in the relocated file.

        Gives the number of text placeholders in the file up to the piece's end, where that is relocated.
        """
        path = piece.start.path
        relocation = self._layer.relocation(path)
        offset = piece.offset_on_disk(relocation, self._job.prefix)
        replaced = None
        content = piece.data
        if relocation and relocation.mode not in RECORD_MODES:
            content = memoryview(self._relocated(path, piece.data, relocation, replace_placeholder))
            replaced = piece.start.replaced
            if relocation.mode == "text":
                replaced += bytes(piece.data).count(relocation.placeholder.encode())
        directory, _, name = path.rpartition("/")
        descriptor = os.open(name, _SHARED_FILE, 0o600, dir_fd=self._directories[directory])
        try:
            if os.fstat(descriptor).st_nlink != 1:  # taken over, and so another environment's too
                raise InvalidSegment(f"{path!r} is present both whole and in parts")
            while content:
                written = os.pwrite(descriptor, content, offset)
                content, offset = content[written:], offset + written
        finally:
            os.close(descriptor)
        self._result.size += len(piece.data)
        return replaced

    def _relocated(
        self,
        path: str,
        data: memoryview,
        relocation: Relocation,
        how: Callable[[bytes, Mode, str, str], bytes],
    ) -> bytes:
        if relocation.mode == "link":
            return bytes(data)
        try:
            return how(bytes(data), relocation.mode, relocation.placeholder, self._job.prefix)
        except PlaceholderTooShort:
            self._result.unrelocated.append(path)
            return bytes(data)
