"""Reads the files of an environment into layers: what a packing worker does.

Each file that a package vouches for is proved to be as the package has it: its canonical bytes hash to what the
package's record says. What cannot be proved is handed back, to go where link-time and altered files go.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from snapper.environment.conda import FileFacts, PathEntry, with_facts
from snapper.environment.tree import File
from snapper.errors import ChangedWhilePacking, FileOperationFailed, PermissionDenied
from snapper.format import bytecode
from snapper.format.layer import LayerBuilder, SealedLayer
from snapper.format.layout import Layout
from snapper.format.model import LAYER_SIZE, Kind, Layer, Mode
from snapper.format.relocate import (
    BINARY_PLACEHOLDER,
    CanonicalFile,
    candidate_originals,
    canonicalize,
    contains_path,
    replace_directory,
    search_patterns,
)
from snapper.format.segment import Member
from snapper.packing.uploads import upload_queue
from snapper.process.worker import Deferred
from snapper.repository.locks import Intent
from snapper.store import Store

#: The time of files that are made when a package is installed, so that equal files are equal everywhere:
#: 1980-01-01, the earliest that zip archives can hold.
LINK_TIME = 315532800

_READ_ONLY = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class PackItem(NamedTuple):
    """A file to pack. `linked` is the path, packed before, of which it is a hard link."""

    file: File
    entry: PathEntry | None = None
    linked: str = ""
    made_at_link: bool = False
    source_mtime: int | None = None


class RelocatedFacts(NamedTuple):
    """A relocated file as it is on disk and as it is stored."""

    disk: FileFacts
    stored: FileFacts


@dataclass(frozen=True)
class FileGroup:
    """Files for layers of one kind and owner.

    `records` are the paths of conda records among them, and `facts` what is known of files that these describe.
    """

    kind: Kind
    owner: str
    number: int
    items: tuple[PackItem, ...]
    records: frozenset[str] = frozenset()
    facts: Mapping[str, RelocatedFacts] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return sum(item.file.size for item in self.items)


@dataclass(frozen=True)
class IncludedSource:
    """A directory from elsewhere that is packed as `place`, and the environment's files that name it."""

    source: str
    place: str
    links: frozenset[str]


@dataclass(frozen=True)
class PackContext:
    """What every packing worker knows from its start.

    `prefix` is what files have as the environment's directory, `place` where it is; `known` gives digest and
    size of layers by diff_id; `placeholders` those that an earlier snapshot had for a path.
    """

    place: str
    prefix: str
    store: Store
    intent: Intent
    level: int
    known: Mapping[str, tuple[str, int]]
    placeholders: Mapping[str, tuple[str, ...]]
    included: tuple[IncludedSource, ...] = ()

    def stored(self, diff_id: str) -> tuple[str, int] | None:
        """Digest and size of the layer that holds this segment, if it is known that the store has one."""
        digest, size = self.known.get(diff_id, ("", -1))
        return (digest, size) if digest and self.store.size(Layout.layer(digest)) == size else None

    def path_of(self, file: File) -> str:
        """Where the file is to be read."""
        for each in self.included:
            if file.path.startswith(each.place + "/"):
                return each.source + file.path[len(each.place) :]
        return f"{self.place}/{file.path}"

    def rewired(self, file: File, data: bytes) -> bytes:
        """The file's bytes with the sources where they will be, if it is one that names them."""
        for each in self.included:
            if file.path in each.links or file.path.startswith(each.place + "/"):
                data = replace_directory(data, each.source, f"{self.prefix}/{each.place}")
        return data


@dataclass(frozen=True)
class CollectedGroup:
    """What became of a group: its layers, the bytes that each added to the store, files that were not as their
    package has them, and paths that hold a prefix for good.
    """

    layers: tuple[Layer, ...]
    added_sizes: tuple[int, ...]
    unproved: tuple[PackItem, ...] = ()
    facts: Mapping[str, RelocatedFacts] = field(default_factory=dict)
    unrelocated: tuple[str, ...] = ()


@dataclass
class _Run:
    """The state of one group's collection."""

    context: PackContext
    builder: LayerBuilder
    group: FileGroup
    layers: list[Layer] = field(default_factory=list)
    added_sizes: list[Callable[[], int]] = field(default_factory=list)
    unproved: list[PackItem] = field(default_factory=list)
    facts: dict[str, RelocatedFacts] = field(default_factory=dict)
    unrelocated: list[str] = field(default_factory=list)

    def seal(self) -> None:
        if not self.builder.empty:
            sealed = self.builder.seal(self.group.kind, self.group.owner, self.context.stored)
            self.layers.append(sealed.layer)
            self.added_sizes.append(store_layer(self.context, sealed))

    def make_room(self, size: int) -> None:
        if not self.builder.has_room(size):
            self.seal()


def collect_group(context: PackContext, group: FileGroup) -> Deferred[CollectedGroup]:
    """Packs a group of files, none larger than a layer, and has its layers stored; gives a Collected then."""
    run = _Run(context, builder_for(context), group, facts=dict(group.facts))
    dropped: set[str] = set()
    for item in group.items:
        if item.file.type != "file":
            _add_other(run, item)
        elif item.file.path in group.records:
            _add_record(run, item)
        elif item.linked and item.linked not in dropped:
            run.make_room(0)
            run.builder.add(member_of(item, LINK_TIME if _retimed(item) else item.file.mtime))
        elif group.kind != "package":
            _add_found(run, item)
        elif not _add_proved(run, item):
            dropped.add(item.file.path)
    run.seal()

    def stored() -> CollectedGroup:
        sizes = tuple(size() for size in run.added_sizes)
        return CollectedGroup(
            tuple(run.layers), sizes, tuple(run.unproved), run.facts, tuple(run.unrelocated)
        )

    return Deferred(stored)


@cache
def _builder(level: int) -> LayerBuilder:
    return LayerBuilder(level)


def builder_for(context: PackContext) -> LayerBuilder:
    """This process's builder: its buffers are worth keeping."""
    return _builder(context.level)


def store_layer(context: PackContext, sealed: SealedLayer) -> Callable[[], int]:
    """Has the layer put into the store; what it returns waits for that and says how many bytes were added."""
    if sealed.data is None:
        return lambda: 0
    context.intent.declare()
    size, put = (
        sealed.layer.size,
        upload_queue().put(context.store, Layout.layer(sealed.layer.digest), sealed.data),
    )
    return lambda: size if put.result() else 0


def member_of(item: PackItem, mtime: int, size: int | None = None) -> Member:
    """The tar member for an item, with canonical time and mode."""
    file = item.file
    if item.linked:
        return Member(file.path, "hardlink", file.mode & 0o777, mtime, 0, item.linked)
    return Member(file.path, "file", file.mode & 0o777, mtime, file.size if size is None else size)


def _retimed(item: PackItem) -> bool:
    """Whether the file got its time when it was installed rather than from its package."""
    return item.made_at_link or bool(item.entry and item.entry.placeholder)


def _add_other(run: _Run, item: PackItem) -> None:
    file = item.file
    run.make_room(0)
    if file.type == "directory":
        run.builder.add(Member(file.path, "directory", file.mode & 0o777, LINK_TIME))
        return
    target, prefix = file.target, run.context.prefix
    how = None
    if target == prefix or target.startswith(prefix + "/"):
        placeholder = "/opt/snapper_prefix_placehold"
        how = CanonicalFile(b"", "link", placeholder)
        target = placeholder + target[len(prefix) :]
    run.builder.add(Member(file.path, "symlink", 0o777, LINK_TIME, 0, target), how=how)


def _add_proved(run: _Run, item: PackItem) -> bool:
    """Adds a file if it is provably the package's own, else sets it aside."""
    entry = item.entry
    assert entry is not None
    if not entry.placeholder:
        run.make_room(item.file.size)
        view = run.builder.stage(member_of(item, item.file.mtime))
        read_whole(run.context.path_of(item.file), item.file, view)
        found = hashlib.sha256(view).hexdigest()
        if found == entry.sha256:
            run.builder.keep()
        else:
            run.unproved.append(item._replace(made_at_link=found == entry.sha256_in_prefix))
        return found == entry.sha256
    data = read_bytes(run.context.path_of(item.file), item.file)
    for candidate in candidate_originals(data, entry.mode, entry.placeholder, run.context.prefix):
        if hashlib.sha256(candidate).hexdigest() == entry.sha256:
            run.make_room(len(candidate))
            how = None
            if candidate != data:
                how = CanonicalFile(candidate, entry.mode, entry.placeholder)
                run.facts[item.file.path] = facts_of(data, candidate)
            run.builder.add(member_of(item, LINK_TIME, len(candidate)), candidate, how)
            return True
    as_linked = hashlib.sha256(data).hexdigest() == entry.sha256_in_prefix
    run.unproved.append(item._replace(made_at_link=as_linked))
    return False


def _add_found(run: _Run, item: PackItem) -> None:
    """Adds a file as it is on disk, relocated where it holds the prefix and can be."""
    context, file = run.context, item.file
    mtime = LINK_TIME if item.made_at_link else file.mtime
    run.make_room(file.size)
    view = run.builder.stage(member_of(item, mtime))
    read_whole(context.path_of(file), file, view)
    data = None
    if item.source_mtime is not None:
        data = bytecode.with_source_mtime(bytes(view), item.source_mtime, LINK_TIME)
    elif context.included:
        data = context.rewired(file, bytes(view))
    placeholders = context.placeholders.get(file.path, ())
    sought = (*search_patterns(context.prefix, bytes(view[:256])), *map(prefix_bytes, placeholders))
    if data is None and not any(map(run.builder.mentions, sought)):
        run.builder.keep()
        return
    data = bytes(view) if data is None else data
    if item.entry and item.entry.mode == "binary" and item.entry.placeholder:
        placeholders = (*placeholders, item.entry.placeholder)
    elif item.entry and not item.entry.sha256:
        placeholders = (*placeholders, BINARY_PLACEHOLDER)
    how = canonicalize(data, context.prefix, placeholders)
    if how is not None and len(how.data) > LAYER_SIZE:
        how = None
    stored = data if how is None else how.data
    if how is None and contains_path(data, context.prefix):
        run.unrelocated.append(file.path)
    elif how is not None and item.made_at_link:
        run.facts[file.path] = facts_of(data, how.data)
    run.make_room(len(stored))
    run.builder.add(member_of(item, mtime, len(stored)), stored, how)


def _add_record(run: _Run, item: PackItem) -> None:
    """Adds a conda record that describes relocated files as they are stored."""
    data = read_bytes(run.context.path_of(item.file), item.file)
    disk = {path: facts.disk for path, facts in run.facts.items()}
    stored = {path: facts.stored for path, facts in run.facts.items()}
    how = None
    modes: tuple[tuple[Mode, bool], ...] = (("sized-record", True), ("record", False))
    for mode, sizes in modes:
        canonical = with_facts(data, stored, sizes=sizes)
        if canonical != data and with_facts(canonical, disk, sizes=sizes) == data:
            how = CanonicalFile(canonical, mode, "")
            break
    text = data if how is None else how.data
    run.make_room(len(text))
    run.builder.add(member_of(item, LINK_TIME, len(text)), text, how)


def facts_of(disk: bytes, stored: bytes) -> RelocatedFacts:
    """What is to be known of a relocated file."""
    return RelocatedFacts(
        FileFacts(hashlib.sha256(disk).hexdigest(), len(disk)),
        FileFacts(hashlib.sha256(stored).hexdigest(), len(stored)),
    )


def prefix_bytes(prefix: str) -> bytes:
    """The prefix as files hold it."""
    return prefix.encode("utf-8", "surrogateescape")


@contextmanager
def opened(path: str, file: File) -> Iterator[int]:
    """A descriptor of the file; raises ChangedWhilePacking where it is no longer what the walk saw."""
    descriptor = _open(path)
    try:
        _check_unchanged(path, file, descriptor)
        yield descriptor
        _check_unchanged(path, file, descriptor)
    finally:
        os.close(descriptor)


def read_whole(path: str, file: File, view: memoryview) -> None:
    """Fills the buffer, which is of the file's size, with its bytes; raises as `opened` does."""
    descriptor = _open(path)
    try:
        _check_unchanged(path, file, descriptor)
        read_range(descriptor, 0, view, path)
        _check_unchanged(path, file, descriptor)
    finally:
        os.close(descriptor)


def _open(path: str) -> int:
    try:
        return os.open(path, _READ_ONLY)
    except PermissionError:
        raise PermissionDenied(path, "read") from None
    except OSError as error:
        if not os.path.lexists(path) or os.path.islink(path):
            raise ChangedWhilePacking(path) from None
        raise FileOperationFailed(path, error.strerror or str(error)) from None


def _check_unchanged(path: str, file: File, descriptor: int) -> None:
    status = os.fstat(descriptor)
    if status.st_mtime_ns != file.mtime_ns or status.st_size != file.size or status.st_ino != file.inode:
        raise ChangedWhilePacking(path)


def read_range(descriptor: int, offset: int, view: memoryview, path: str) -> None:
    """Fills the buffer from the file's bytes at an offset."""
    done, size = 0, len(view)
    while done < size:
        try:
            count = os.preadv(descriptor, [view[done:] if done else view], offset + done)
        except OSError as error:
            raise FileOperationFailed(path, error.strerror or str(error)) from None
        if not count:
            raise ChangedWhilePacking(path)
        done += count


def read_at(descriptor: int, offset: int, size: int, path: str) -> bytes:
    """The file's bytes at an offset."""
    try:
        data = os.pread(descriptor, size, offset)
    except OSError as error:
        raise FileOperationFailed(path, error.strerror or str(error)) from None
    if len(data) < size:
        raise ChangedWhilePacking(path)
    return data


def read_bytes(path: str, file: File) -> bytes:
    """The whole file."""
    buffer = bytearray(file.size)
    read_whole(path, file, memoryview(buffer))
    return bytes(buffer)
