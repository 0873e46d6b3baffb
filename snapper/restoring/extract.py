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
from snapper.errors import Corrupted
from snapper.format.layer import LayerUnpacker
from snapper.format.model import RECORD_MODES, Continuation, Layer, Mode, Relocation, check_path
from snapper.format.relocate import PlaceholderTooShort, relocate_file, replace_placeholder
from snapper.format.segment import InvalidSegment, Member, iter_members, split_continuation
from snapper.fs.directories import DirectoryTree, write_all
from snapper.repository.snapshots import read_layer
from snapper.restoring.errors import unpack_errors
from snapper.store import Store

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SHARED_FILE = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_NAMES = ("", ".", "..")
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


_unpacker = LayerUnpacker()
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
    segment = _unpacker.segment(job.layer, stored)
    with unpack_errors(what, job.prefix):
        writer = _Writer(job, _directories_of(job.directory))
        start = writer.continued(segment) if job.layer.begins else 0
        count = 0
        for member, data in iter_members(segment, start):
            writer.write(member, data)
            count += 1
        if count != job.layer.members:
            raise Corrupted(what, f"it has {count} members instead of {job.layer.members}")
    return writer.done()


def _directories_of(top: str) -> DirectoryTree:
    """Those of the tree; layers of two trees may come by turns, so the ones of the last two are kept."""
    found = _directories.pop(top, None) or DirectoryTree(top)
    for stale in list(_directories)[:-1]:
        _directories.pop(stale).close()
    _directories[top] = found
    return found


class _Writer:
    def __init__(self, job: ExtractJob, directories: DirectoryTree) -> None:
        self._job = job
        self._directories = directories
        self._relocations = {path: each for each in job.layer.relocations for path in each.paths}
        self._result = ExtractedLayer()
        self._stats: list[IndexEntry] = []
        self._known: set[str] = set()

    def done(self) -> ExtractedLayer:
        self._result.index = encode_block(self._job.number, self._stats)
        return self._result

    def write(self, member: Member, data: memoryview) -> None:
        above, name = self._checked(member.path)
        if self._result.cut:
            raise InvalidSegment("members follow one with incomplete data")
        if member.type == "file":
            self._file(member, data, above, name)
        elif member.type == "directory":
            self._result.directories.append(member)
            self._directories[member.path]
            self._stats.append(directory_entry(member.path, member.mode & 0o777))
        else:
            self._link(member)

    def _checked(self, path: str) -> tuple[str, str]:
        """The path's directory, and its name there. Raises what `check_path` does, which need only look at one path of
        a directory in full, as the others differ from that one in their names.
        """
        above, _, name = path.rpartition("/")
        if not above or above not in self._known or name in _NO_NAMES or "\0" in name:
            check_path(path)
            self._known.add(above)
        return above, name

    def continued(self, segment: memoryview) -> int:
        """Writes the data that the segment begins with; returns where its members begin."""
        begins = self._job.layer.begins
        assert begins is not None
        size, start = split_continuation(begins, len(segment))
        if size < 0:
            raise InvalidSegment("it starts after the end of its file")
        replaced = self._piece(begins, segment[:size])
        if begins.offset + size < begins.size:
            member = Member(begins.path, "file", 0, 0, begins.size)
            self._result.cut = SplitFile(member, begins.offset + size, replaced)
        return start

    def _link(self, member: Member) -> None:
        target = member.target
        if member.type == "hardlink":
            check_path(target)
        relocation = self._relocations.get(member.path)
        if relocation and relocation.mode == "link" and target.startswith(relocation.placeholder):
            target = self._job.prefix + target[len(relocation.placeholder) :]
        self._result.links.append(Link(member.path, target, member.type == "hardlink"))

    def _file(self, member: Member, data: memoryview, above: str, name: str) -> None:
        path, _, mode, mtime, size, _ = member
        if len(data) < size:
            replaced = self._piece(Continuation(path, 0, size, 0), data)
            self._result.cut = SplitFile(member, len(data), replaced)
            return
        if path in self._job.cut:
            raise InvalidSegment(f"{path!r} is present both whole and in parts")
        content = self._content(path, data) if path in self._relocations else data
        mode &= 0o777
        time = mtime * NANOSECONDS
        descriptor = os.open(name, _NEW_FILE, mode, dir_fd=self._directories[above])
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

    def _content(self, path: str, data: memoryview) -> memoryview | bytes:
        """What to write of a file that is relocated; what has to be known of that later on is noted."""
        relocation = self._relocations[path]
        if relocation.mode in RECORD_MODES:
            self._result.records.append((path, relocation.mode))
            return data
        content = self._relocated(path, data, relocation, relocate_file)
        self._result.facts[path] = FileFacts(hashlib.sha256(content).hexdigest(), len(content))
        return content

    def _piece(self, begins: Continuation, data: memoryview) -> int | None:
        """Writes part of a file that several layers hold, at its place in the relocated file.

        Gives the number of text placeholders in the file up to the piece's end, where that is relocated.
        """
        relocation = self._relocations.get(begins.path)
        offset, replaced = begins.offset, None
        content = data
        if relocation and relocation.mode not in RECORD_MODES:
            content = memoryview(self._relocated(begins.path, data, relocation, replace_placeholder))
            replaced = begins.replaced
            if relocation.mode == "text":
                placeholder = relocation.placeholder.encode()
                offset += begins.replaced * (len(os.fsencode(self._job.prefix)) - len(placeholder))
                replaced += bytes(data).count(placeholder)
            if offset < 0:
                raise InvalidSegment("it starts before its file")
        directory, _, name = begins.path.rpartition("/")
        descriptor = os.open(name, _SHARED_FILE, 0o600, dir_fd=self._directories[directory])
        try:
            if os.fstat(descriptor).st_nlink != 1:  # taken over, and so another environment's too
                raise InvalidSegment(f"{begins.path!r} is present both whole and in parts")
            while content:
                written = os.pwrite(descriptor, content, offset)
                content, offset = content[written:], offset + written
        finally:
            os.close(descriptor)
        self._result.size += len(data)
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
