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

from snapper.catalog import read_layer
from snapper.environment.conda import Fact
from snapper.environment.index import Stats, block
from snapper.errors import Damaged
from snapper.format.layer import Unpacker
from snapper.format.model import RECORD_MODES, Begin, Layer, Mode, Relocation, check_path
from snapper.format.relocate import DoesNotFit, apply, substitute
from snapper.format.segment import BadSegment, Member, begun, members
from snapper.store import Store
from snapper.unpacking.descriptors import Directories, reporting, write_all

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SHARED_FILE = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_NAMES = ("", ".", "..")
SECOND = 1_000_000_000


@dataclass(frozen=True)
class Job:
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


class Cut(NamedTuple):
    """A file whose data goes on in the next layer, at `offset` of its canonical bytes.

    `replaced` counts the placeholders before that, if they were looked for.
    """

    member: Member
    offset: int
    replaced: int | None


@dataclass
class Extracted:
    """What a layer left to do, and what it wrote.

    `facts` are those of relocated files, with which `records` are to be restated, and `index` is a block of the
    environment's index. What was `inherited` was not written, but linked.
    """

    size: int = 0
    links: list[Link] = field(default_factory=list)
    directories: list[Member] = field(default_factory=list)
    cut: Cut | None = None
    records: list[tuple[str, Mode]] = field(default_factory=list)
    facts: dict[str, Fact] = field(default_factory=dict)
    unrelocated: list[str] = field(default_factory=list)
    index: bytes = b""
    inherited: bool = False


_unpacker = Unpacker()
_directories: dict[str, Directories] = {}


def fetch(_: object, job: Job) -> bytes:
    """Reads and checks one layer; raises Damaged, and what the store raises."""
    return read_layer(job.store, job.layer)


def extract(_: object, job: Job, stored: bytes) -> Extracted:
    """Unpacks and writes one layer, of which `stored` are the bytes as the store has them.

    Raises Damaged, NoSpace, NoPermission, FileFailed.
    """
    os.umask(0)
    what = f"layer {job.layer.digest[:12]} in {job.store.url}"
    segment = _unpacker.segment(job.layer, stored)
    with reporting(what, job.prefix):
        writer = _Writer(job, _directories_of(job.directory))
        start = writer.continued(segment) if job.layer.begins else 0
        count = 0
        for member, data in members(segment, start):
            writer.write(member, data)
            count += 1
        if count != job.layer.members:
            raise Damaged(what, f"it has {count} members, and its snapshot says {job.layer.members}")
    return writer.done()


def _directories_of(top: str) -> Directories:
    """Those of the tree; layers of two trees may come by turns, so the ones of the last two are kept."""
    found = _directories.pop(top, None) or Directories(top)
    for stale in list(_directories)[:-1]:
        _directories.pop(stale).close()
    _directories[top] = found
    return found


class _Writer:
    def __init__(self, job: Job, directories: Directories) -> None:
        self._job = job
        self._directories = directories
        self._relocations = {path: each for each in job.layer.relocations for path in each.paths}
        self._result = Extracted()
        self._stats: list[Stats] = []
        self._known: set[str] = set()

    def done(self) -> Extracted:
        self._result.index = block(self._job.number, self._stats)
        return self._result

    def write(self, member: Member, data: memoryview) -> None:
        above, name = self._checked(member.path)
        if self._result.cut:
            raise BadSegment("members follow one whose data is cut short")
        if member.type == "file":
            self._file(member, data, above, name)
        elif member.type == "directory":
            self._result.directories.append(member)
            self._directories[member.path]
            self._stats.append((member.path + "/", 0, member.mode & 0o777, 0, 0, 0))
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
        size, start = begun(begins, len(segment))
        if size < 0:
            raise BadSegment("it begins behind the end of its file")
        replaced = self._piece(begins, segment[:size])
        if begins.offset + size < begins.size:
            member = Member(begins.path, "file", 0, 0, begins.size)
            self._result.cut = Cut(member, begins.offset + size, replaced)
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
            replaced = self._piece(Begin(path, 0, size, 0), data)
            self._result.cut = Cut(member, len(data), replaced)
            return
        if path in self._job.cut:
            raise BadSegment(f"{path!r} is both whole and in pieces")
        content = self._content(path, data) if path in self._relocations else data
        mode &= 0o777
        time = mtime * SECOND
        descriptor = os.open(name, _NEW_FILE, mode, dir_fd=self._directories[above])
        try:
            write_all(descriptor, content)
            os.utime(descriptor, ns=(time, time))
            status = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        self._result.size += size
        inode = 0 if path in self._result.unrelocated else status.st_ino
        self._stats.append((path, status.st_size, mode, status.st_mtime_ns, status.st_ctime_ns, inode))

    def _content(self, path: str, data: memoryview) -> memoryview | bytes:
        """What to write of a file that is relocated; what has to be known of that later on is noted."""
        relocation = self._relocations[path]
        if relocation.mode in RECORD_MODES:
            self._result.records.append((path, relocation.mode))
            return data
        content = self._relocated(path, data, relocation, apply)
        self._result.facts[path] = Fact(hashlib.sha256(content).hexdigest(), len(content))
        return content

    def _piece(self, begins: Begin, data: memoryview) -> int | None:
        """Writes part of a file that several layers hold, at its place in the relocated file.

        Gives the number of text placeholders in the file up to the piece's end, where that is relocated.
        """
        relocation = self._relocations.get(begins.path)
        offset, replaced = begins.offset, None
        content = data
        if relocation and relocation.mode not in RECORD_MODES:
            content = memoryview(self._relocated(begins.path, data, relocation, substitute))
            replaced = begins.replaced
            if relocation.mode == "text":
                placeholder = relocation.placeholder.encode()
                offset += begins.replaced * (len(os.fsencode(self._job.prefix)) - len(placeholder))
                replaced += bytes(data).count(placeholder)
            if offset < 0:
                raise BadSegment("it begins before its file")
        directory, _, name = begins.path.rpartition("/")
        descriptor = os.open(name, _SHARED_FILE, 0o600, dir_fd=self._directories[directory])
        try:
            if os.fstat(descriptor).st_nlink != 1:  # taken over, and so another environment's too
                raise BadSegment(f"{begins.path!r} is both whole and in pieces")
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
        except DoesNotFit:
            self._result.unrelocated.append(path)
            return bytes(data)
