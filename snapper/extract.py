"""Writes layers into a directory: what a restoring worker does.

Every path is walked from the directory's own descriptor, component by component, without following links, and
no link exists while files are written: symlinks and hard links are made last, by `finish`. So nothing that a
layer says can reach outside the directory.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from snapper.catalog import read_layer
from snapper.conda import Fact, restated
from snapper.errors import Damaged, FileFailed, NoPermission, NoSpace
from snapper.layer import Unpacker
from snapper.model import RECORD_MODES, Begin, Layer, Mode, Relocation, check_path, path_bytes
from snapper.relocate import DoesNotFit, apply, substitute
from snapper.segment import BadSegment, Member, members
from snapper.store import Store

_MOST_DESCRIPTORS = 128
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SHARED_FILE = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SECOND = 1_000_000_000


@dataclass(frozen=True)
class Job:
    """A layer to write below `directory`, relocated to `prefix`; `cut` are the files that several layers hold."""

    store: Store
    directory: str
    prefix: str
    layer: Layer
    cut: frozenset[str] = frozenset()


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

    `facts` are those of relocated files, with which `records` are to be restated, and `index` is a line of the
    environment's index.
    """

    size: int = 0
    links: list[Link] = field(default_factory=list)
    directories: list[Member] = field(default_factory=list)
    cut: Cut | None = None
    records: list[tuple[str, Mode]] = field(default_factory=list)
    facts: dict[str, Fact] = field(default_factory=dict)
    unrelocated: list[str] = field(default_factory=list)
    index: str = ""


class Directories:
    """Descriptors of a tree's directories, made as they are asked for."""

    def __init__(self, top: str) -> None:
        self._open = {"": os.open(top, _DIRECTORY)}

    def close(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def __getitem__(self, path: str) -> int:
        found = self._open.get(path)
        if found is not None:
            return found
        parent, _, name = path.rpartition("/")
        above = self[parent]
        with suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=above)
        descriptor = os.open(name, _DIRECTORY, dir_fd=above)
        if len(self._open) > _MOST_DESCRIPTORS:
            self._forget(parent)
        self._open[path] = descriptor
        return descriptor

    def _forget(self, kept: str) -> None:
        """Closes what is open but the top and the way to `kept`."""
        for path in list(self._open):
            if path and path != kept and not kept.startswith(path + "/"):
                os.close(self._open.pop(path))


_unpacker = Unpacker()
_directories: dict[str, Directories] = {}


def extract(_: object, job: Job) -> Extracted:
    """Fetches, checks, unpacks and writes one layer.

    Raises Damaged, NoSpace, NoPermission, FileFailed, and what the store raises.
    """
    os.umask(0)
    what = f"layer {job.layer.digest[:12]} in {job.store.url}"
    segment = _unpacker.segment(job.layer, read_layer(job.store, job.layer))
    with reporting(what, job.prefix):
        if job.directory not in _directories:
            for stale in list(_directories):
                _directories.pop(stale).close()
            _directories[job.directory] = Directories(job.directory)
        writer = _Writer(job, _directories[job.directory])
        start = writer.continued(segment) if job.layer.begins else 0
        count = 0
        for member, data in members(segment, start):
            writer.write(member, data)
            count += 1
        if count != job.layer.members:
            raise Damaged(what, f"it has {count} members, and its snapshot says {job.layer.members}")
    return writer.done()


class _Writer:
    def __init__(self, job: Job, directories: Directories) -> None:
        self._job = job
        self._directories = directories
        self._relocations = {path: each for each in job.layer.relocations for path in each.paths}
        self._result = Extracted()
        self._stats: list[tuple[str, int, int, int, int, int]] = []

    def done(self) -> Extracted:
        self._result.index = json.dumps(self._stats)
        return self._result

    def write(self, member: Member, data: memoryview) -> None:
        check_path(member.path)
        if self._result.cut:
            raise BadSegment("members follow one whose data is cut short")
        if member.type == "directory":
            self._result.directories.append(member)
            self._directories[member.path]
        elif member.type == "file":
            self._file(member, data)
        else:
            self._link(member)

    def continued(self, segment: memoryview) -> int:
        """Writes the data that the segment begins with; returns where its members begin."""
        begins = self._job.layer.begins
        assert begins is not None
        size = min(len(segment), begins.size - begins.offset)
        if size < 0:
            raise BadSegment("it begins behind the end of its file")
        replaced = self._piece(begins, segment[:size])
        if begins.offset + size < begins.size:
            member = Member(begins.path, "file", 0, 0, begins.size)
            self._result.cut = Cut(member, begins.offset + size, replaced)
        return min(len(segment), size + -begins.size % 512) if not self._result.cut else len(segment)

    def _link(self, member: Member) -> None:
        target = member.target
        if member.type == "hardlink":
            check_path(target)
        relocation = self._relocations.get(member.path)
        if relocation and relocation.mode == "link" and target.startswith(relocation.placeholder):
            target = self._job.prefix + target[len(relocation.placeholder) :]
        self._result.links.append(Link(member.path, target, member.type == "hardlink"))

    def _file(self, member: Member, data: memoryview) -> None:
        relocation = self._relocations.get(member.path)
        if len(data) < member.size:
            replaced = self._piece(Begin(member.path, 0, member.size, 0), data)
            self._result.cut = Cut(member, len(data), replaced)
            return
        if member.path in self._job.cut:
            raise BadSegment(f"{member.path!r} is both whole and in pieces")
        content: memoryview | bytes = data
        if relocation and relocation.mode in RECORD_MODES:
            self._result.records.append((member.path, relocation.mode))
        elif relocation:
            content = self._relocated(member.path, data, relocation, apply)
            self._result.facts[member.path] = Fact(hashlib.sha256(content).hexdigest(), len(content))
        directory, _, name = member.path.rpartition("/")
        descriptor = os.open(name, _NEW_FILE, member.mode & 0o777, dir_fd=self._directories[directory])
        try:
            _write_all(descriptor, content)
            os.utime(descriptor, ns=(member.mtime * _SECOND, member.mtime * _SECOND))
            status = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        self._result.size += len(data)
        self._stats.append(
            (
                member.path,
                status.st_size,
                member.mode & 0o777,
                status.st_mtime_ns,
                status.st_ctime_ns,
                status.st_ino,
            )
        )

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


def finish(directory: str, prefix: str, layers: tuple[Layer, ...], parts: list[Extracted]) -> str:
    """Makes links and sets what could not be set before; returns a further line of the index.

    `parts` are the results of `layers`, in their order. Raises Damaged where a file's pieces do not join.
    """
    directories = Directories(directory)
    umask = os.umask(0)
    stats: list[tuple[str, int, int, int, int, int]] = []
    what = f"the snapshot for {prefix}"
    try:
        with reporting(what, prefix):
            for member in _joined(what, layers, parts):
                above, _, name = member.path.rpartition("/")
                os.chmod(name, member.mode & 0o777, dir_fd=directories[above])
                times = (member.mtime * _SECOND, member.mtime * _SECOND)
                os.utime(name, ns=times, dir_fd=directories[above], follow_symlinks=False)
                stats.append(_stat(directories[above], member.path))
            stats += _restate(directories, layers, parts)
            links = [link for part in parts for link in part.links]
            for link in sorted(links, key=lambda link: not link.hard):
                _make_link(directories, link)
                stats.append(_stat(directories[link.path.rpartition("/")[0]], link.path))
            modes = [member for part in parts for member in part.directories]
            for member in sorted(modes, key=lambda member: path_bytes(member.path), reverse=True):
                os.fchmod(directories[member.path], member.mode & 0o777)
    finally:
        directories.close()
        os.umask(umask)
    return json.dumps(stats)


def _restate(
    directories: Directories, layers: tuple[Layer, ...], parts: list[Extracted]
) -> Iterator[tuple[str, int, int, int, int, int]]:
    """Makes conda's records true of the files as they are now; gives the index's entries for them."""
    facts = {path: fact for part in parts for path, fact in part.facts.items()}
    for path in {each.begins.path for each in layers if each.begins and each.relocations}:
        with _opened(directories, path) as file:
            facts[path] = Fact(_digest(file), os.fstat(file.fileno()).st_size)
    for path, mode in (record for part in parts for record in part.records):
        with _opened(directories, path) as file:
            status = os.fstat(file.fileno())
            text = restated(file.read(), facts, sizes=mode == "sized-record")
        above, _, name = path.rpartition("/")
        os.chmod(name, 0o600, dir_fd=directories[above])
        descriptor = os.open(name, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW, dir_fd=directories[above])
        try:
            _write_all(descriptor, text)
            os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
            os.utime(descriptor, ns=(status.st_mtime_ns, status.st_mtime_ns))
        finally:
            os.close(descriptor)
        yield _stat(directories[above], path)


def _opened(directories: Directories, path: str) -> BinaryIO:
    above, _, name = path.rpartition("/")
    return os.fdopen(
        os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directories[above]), "rb"
    )


def _digest(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(1024 * 1024):
        digest.update(chunk)
    return digest.hexdigest()


def _joined(what: str, layers: tuple[Layer, ...], parts: list[Extracted]) -> Iterator[Member]:
    """The members that several layers hold, after a look that each goes on where the one before ended."""
    pending: Cut | None = None
    first: Member | None = None
    for layer, part in zip(layers, parts, strict=True):
        begins = layer.begins
        expected = (pending.member.path, pending.offset, pending.member.size) if pending else None
        if (begins and (begins.path, begins.offset, begins.size)) != expected:
            raise Damaged(what, "the pieces of a large file do not join")
        if begins and pending and pending.replaced not in (None, begins.replaced):
            raise Damaged(what, "the pieces of a large file do not join where the prefix is put in")
        if pending and not part.cut and first:
            yield first
        if part.cut and not pending:
            first = part.cut.member
        pending = part.cut
    if pending:
        raise Damaged(what, f"the end of {pending.member.path!r} is missing")


def _make_link(directories: Directories, link: Link) -> None:
    above, _, name = link.path.rpartition("/")
    if link.hard:
        beside, _, target = link.target.rpartition("/")
        source = os.dup(directories[beside])
        try:
            if not stat.S_ISREG(os.stat(target, dir_fd=source, follow_symlinks=False).st_mode):
                raise BadSegment(f"{link.path!r} is a hard link to what is no file")
            os.link(target, name, src_dir_fd=source, dst_dir_fd=directories[above], follow_symlinks=False)
        finally:
            os.close(source)
    else:
        os.symlink(link.target, name, dir_fd=directories[above])


def _stat(directory: int, path: str) -> tuple[str, int, int, int, int, int]:
    status = os.stat(path.rpartition("/")[2], dir_fd=directory, follow_symlinks=False)
    return (
        path,
        status.st_size,
        status.st_mode & 0o7777,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_ino,
    )


def _write_all(descriptor: int, data: memoryview | bytes) -> None:
    written = os.write(descriptor, data)
    while written < len(data):
        written += os.write(descriptor, memoryview(data)[written:])


@contextmanager
def reporting(what: str, prefix: str) -> Iterator[None]:
    """Turns what reading a layer and writing its files can raise into errors for the user."""
    try:
        yield
    except (BadSegment, ValueError) as error:
        raise Damaged(what, str(error)) from None
    except OSError as error:
        place = str(Path(prefix).parent)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(place) from None
        if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENOENT):
            raise Damaged(what, f"its members contradict each other ({error.strerror})") from None
        if error.errno in (errno.EACCES, errno.EPERM):
            raise NoPermission(place, "write in") from None
        raise FileFailed(place, error.strerror or str(error)) from None
