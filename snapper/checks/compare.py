"""Layers beside the files of an environment on disk, byte by byte: what a verifying worker does.

Nothing is written. Files are opened from the environment's own descriptor on, component by component, without
following links.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from snapper.environment.conda import FileFacts, with_facts, without_prefix_facts
from snapper.errors import Corrupted, SnapperError
from snapper.format import bytecode
from snapper.format.layer import LayerUnpacker
from snapper.format.model import RECORD_MODES, Continuation, Layer, Mode, Relocation, Snapshot, check_path
from snapper.format.relocate import (
    PlaceholderTooShort,
    candidate_originals,
    relocate_file,
    replace_placeholder,
)
from snapper.format.segment import InvalidSegment, Member, iter_members, split_continuation
from snapper.fs.directories import DirectoryTree
from snapper.fs.errors import map_os_error
from snapper.process.pool import WorkerPool
from snapper.process.progress import Progress
from snapper.repository.snapshots import read_layer
from snapper.restoring.errors import unpack_errors
from snapper.store import Store

#: In which way a path of the environment is not what its snapshot says.
#: `checksums` are those that one of conda's records has of files that depend on the prefix.
DifferenceKind = Literal["missing", "type", "contents", "checksums", "target", "mode", "extra"]


class FileDifference(NamedTuple):
    """A path and what is not right there; the first that is found."""

    path: str
    what: DifferenceKind


@dataclass(frozen=True)
class _Job:
    """A layer to hold against the files at `place`, which know themselves as being at `prefix`."""

    store: Store
    place: str
    prefix: str
    layer: Layer


@dataclass
class _Compared:
    """What a layer showed. `facts` are those of relocated files, with which `records` are to be restated."""

    paths: list[str] = field(default_factory=list)
    different: list[FileDifference] = field(default_factory=list)
    facts: dict[str, FileFacts] = field(default_factory=dict)
    records: list[tuple[str, Mode, bytes]] = field(default_factory=list)


_FORMATS = {
    "file": stat.S_IFREG,
    "hardlink": stat.S_IFREG,
    "symlink": stat.S_IFLNK,
    "directory": stat.S_IFDIR,
}

_unpacker = LayerUnpacker()


def compare_environment(
    store: Store,
    snapshot: Snapshot,
    place: Path,
    prefix: str,
    there: Iterable[str],
    workers: WorkerPool[None],
    progress: Progress,
) -> tuple[FileDifference, ...]:
    """What is not at `place` as the snapshot has it for `prefix`, by path; `there` are the paths that are there.

    Compiled modules may be valid for another time of their source, and further ones may be there. Raises Corrupted,
    PermissionDenied, FileOperationFailed.
    """
    jobs = {
        workers.submit(_compare, _Job(store, str(place), prefix, layer), layer.diff_size): layer
        for layer in snapshot.layers
    }
    parts: list[tuple[Layer, _Compared]] = []
    with closing(workers.results()) as results:
        for number, part in results:
            parts.append((jobs[number], part))
            progress.advance(jobs[number].diff_size)
    different = {each.path: each for _, part in parts for each in part.different}
    for each in _records(place, parts, snapshot.altered_paths):
        different.setdefault(each.path, each)
    known = {path for _, part in parts for path in part.paths}
    sources = known.union(there)
    for path in there:
        if path not in known and bytecode.cached_for(path) not in sources:
            different[path] = FileDifference(path, "extra")
    return tuple(different[path] for path in sorted(different))


def _records(
    place: Path, parts: Sequence[tuple[Layer, _Compared]], altered: frozenset[str]
) -> Iterator[FileDifference]:
    """conda's records that are not as they should be, given how their packages' files are."""
    facts: dict[object, dict[str, FileFacts]] = defaultdict(dict)
    for layer, part in parts:
        facts[layer.whose].update({path: fact for path, fact in part.facts.items() if path not in altered})
    files = _Files(str(place))
    try:
        cut = {(each.whose, each.begins.path) for each, _ in parts if each.begins and each.relocations}
        for whose, path in cut:
            data = files.read(path) if path not in altered else None
            if data is not None:
                facts[whose][path] = FileFacts(hashlib.sha256(data).hexdigest(), len(data))
        records = [(layer.whose, *record) for layer, part in parts for record in part.records]
        for whose, path, mode, stored in records:
            found = files.read(path)
            if found in (None, stored, with_facts(stored, facts[whose], sizes=mode == "sized-record")):
                continue
            same = without_prefix_facts(found) == without_prefix_facts(stored)
            yield FileDifference(path, "checksums" if same else "contents")
    finally:
        files.close()


def _compare(_: object, job: _Job) -> _Compared:
    what = f"layer {job.layer.digest[:12]} in {job.store.url}"
    segment = _unpacker.segment(job.layer, read_layer(job.store, job.layer))
    comparison = _Comparison(job)
    count = 0
    try:
        with unpack_errors(what, job.prefix):
            start = comparison.continued(segment) if job.layer.begins else 0
            for member, data in iter_members(segment, start):
                comparison.member(member, data)
                count += 1
    finally:
        comparison.files.close()
    if count != job.layer.members:
        raise Corrupted(what, f"it has {count} members instead of {job.layer.members}")
    return comparison.result


class _Files:
    """The environment's files, read by descriptors."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._directories = DirectoryTree(place, make=False)

    def close(self) -> None:
        self._directories.close()

    def status(self, path: str) -> os.stat_result | None:
        """None where nothing is, or where something else than directories is on the way."""
        above, _, name = path.rpartition("/")
        try:
            return os.stat(name, dir_fd=self._directories[above], follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                return None
            raise self._failure(path, error) from None

    def target(self, path: str) -> str:
        above, _, name = path.rpartition("/")
        return os.readlink(name, dir_fd=self._directories[above])

    def read(self, path: str, offset: int = 0, size: int | None = None) -> bytes | None:
        """The bytes of a regular file, from the offset on; None where there is none."""
        status = self.status(path)
        if status is None or not stat.S_ISREG(status.st_mode):
            return None
        above, _, name = path.rpartition("/")
        try:
            descriptor = os.open(
                name,
                os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC,
                dir_fd=self._directories[above],
            )
        except OSError as error:
            raise self._failure(path, error) from None
        with open(descriptor, "rb", buffering=0) as file:
            try:
                file.seek(offset)
                return file.read(status.st_size if size is None else size)
            except OSError as error:
                raise self._failure(path, error) from None

    def _failure(self, path: str, error: OSError) -> SnapperError:
        return map_os_error(error, f"{self._place}/{path}", "read")


class _Comparison:
    """A layer's members beside what is on disk."""

    def __init__(self, job: _Job) -> None:
        self._job = job
        self._relocations = {path: each for each in job.layer.relocations for path in each.paths}
        self.files = _Files(job.place)
        self.result = _Compared()

    def member(self, member: Member, data: memoryview) -> None:
        """Compares a member, of whose data all may be there or the first part."""
        check_path(member.path)
        self.result.paths.append(member.path)
        what = self._difference(member, data)
        if what is not None:
            self.result.different.append(FileDifference(member.path, what))

    def continued(self, segment: memoryview) -> int:
        """Compares the data that the segment begins with; returns where its members begin."""
        begins = self._job.layer.begins
        assert begins is not None
        size, start = split_continuation(begins, len(segment))
        if not self._piece_is_there(begins, segment[:size]):
            self.result.different.append(FileDifference(begins.path, "contents"))
        return start

    def _difference(self, member: Member, data: memoryview) -> DifferenceKind | None:
        status = self.files.status(member.path)
        if status is None:
            return "missing"
        if stat.S_IFMT(status.st_mode) != _FORMATS[member.type]:
            return "type"
        if member.type == "symlink":
            return None if self.files.target(member.path) == self._target(member) else "target"
        if member.type == "hardlink":
            other = self.files.status(check_path(member.target))
            return None if other and os.path.samestat(status, other) else "target"
        if member.type == "file" and not self._is_same(member, data):
            return "contents"
        return None if status.st_mode & 0o777 == member.mode & 0o777 else "mode"

    def _target(self, member: Member) -> str:
        relocation = self._relocations.get(member.path)
        if relocation and relocation.mode == "link" and member.target.startswith(relocation.placeholder):
            return self._job.prefix + member.target[len(relocation.placeholder) :]
        return member.target

    def _is_same(self, member: Member, data: memoryview) -> bool:
        if len(data) < member.size:
            return self._piece_is_there(Continuation(member.path, 0, member.size, 0), data)
        found = self.files.read(member.path)
        if found is None:
            return False
        relocation = self._relocations.get(member.path)
        if relocation and relocation.mode in RECORD_MODES:
            self.result.records.append((member.path, relocation.mode, bytes(data)))
            return True
        if relocation is None:
            return found == data or (member.path.endswith(".pyc") and _same_module(found, bytes(data)))
        self.result.facts[member.path] = FileFacts(hashlib.sha256(found).hexdigest(), len(found))
        return self._is_relocated(found, bytes(data), relocation, member.path.endswith(".pyc"))

    def _is_relocated(self, found: bytes, stored: bytes, relocation: Relocation, is_module: bool) -> bool:
        """Whether the file is what relocation makes of the stored one, or what relocation undone makes that one."""
        try:
            expected = relocate_file(stored, relocation.mode, relocation.placeholder, self._job.prefix)
        except PlaceholderTooShort:
            expected = stored
        if found == expected or (is_module and _same_module(found, expected)):
            return True
        return stored in candidate_originals(found, relocation.mode, relocation.placeholder, self._job.prefix)

    def _piece_is_there(self, begins: Continuation, data: memoryview) -> bool:
        relocation = self._relocations.get(begins.path)
        offset, expected = begins.offset, bytes(data)
        if relocation and relocation.mode not in RECORD_MODES:
            with suppress(PlaceholderTooShort):
                expected = replace_placeholder(
                    expected, relocation.mode, relocation.placeholder, self._job.prefix
                )
            if relocation.mode == "text":
                length = len(os.fsencode(self._job.prefix)) - len(relocation.placeholder.encode())
                offset += begins.replaced * length
        if offset < 0:
            raise InvalidSegment("it starts before its file")
        is_last = begins.offset + len(data) >= begins.size
        found = self.files.read(begins.path, offset, len(expected) + is_last)
        return found == expected


def _same_module(one: bytes, other: bytes) -> bool:
    """Whether two compiled modules differ at most in the time of the source that they are valid for."""
    return bytecode.without_source_mtime(one) == bytecode.without_source_mtime(other)
