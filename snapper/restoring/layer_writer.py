"""Write one layer into a directory: the job of a restore's worker. `unpacker` coordinates the jobs.

Nothing in a layer can write outside the directory: every path is walked from the directory's descriptor, component by
component, without following symlinks, and the links of layers are made last, by `finalize`.

The directory may already contain links, though, made by `link_unchanged`: hard links to files of the environment that
is replaced. These files must not be modified. New files are created exclusively, so an existing name is an error;
only a split file is opened although it may exist, and it is refused if it has further links.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from snapper.environment.conda import FileFacts
from snapper.environment.index import EntryFields, directory_entry, encode_block
from snapper.errors import TooManyFiles
from snapper.format import bytecode
from snapper.format.canonicalize import TEXT_PLACEHOLDERS
from snapper.format.constraints import directory_mode, file_mode
from snapper.format.cstrings import PlaceholderTooShort
from snapper.format.growth import tolerated_growth
from snapper.format.layer_reader import LayerReader, OpenLayer, Piece
from snapper.format.macho import needs_signature
from snapper.format.member import (
    DIRECTORIES_PER_MEMBER,
    FEW_DIRECTORIES,
    MOST_KEPT,
    InvalidSegment,
    Member,
    kept_size,
)
from snapper.format.model import RECORD_MODES, Layer, Mode, Relocation
from snapper.format.placeholders import is_own_placeholder
from snapper.format.relocate import (
    is_complete,
    may_have_wrong_lengths,
    relocate_file,
    relocate_link,
    replace_in_piece,
    replace_kept,
)
from snapper.format.times import LINK_TIME, RESTORED_LINK_TIME, restored_time
from snapper.fs.directories import DirectoryTree, RecentTrees, set_mode, write_all
from snapper.fs.errors import os_errors
from snapper.fs.handles import DirectoryHandle
from snapper.repository.objects import read_layer
from snapper.restoring.errors import unpack_errors
from snapper.restoring.signing import sign
from snapper.store import Store

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SHARED_FILE = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC

#: The largest index block of a layer, in bytes. The layers that snapper writes have half as many bytes of members.
_LARGEST_BLOCK = 64 << 20


@dataclass(frozen=True)
class ExtractJob:
    """A layer to write below `directory`, relocated to `prefix`; `number` is its position in its snapshot."""

    directory: DirectoryHandle
    prefix: str
    layer: Layer
    number: int


class Link(NamedTuple):
    """A link for `finalize` to make; the target of a hard link is a path in the tree."""

    path: str
    target: str
    hard: bool


class SplitFile(NamedTuple):
    """A file that continues in the next layer, at `offset` of its canonical bytes.

    `replaced` is the number of text placeholders before that, None if the file has no relocation.
    """

    member: Member
    offset: int
    replaced: int | None


@dataclass
class ExtractedLayer:
    """What a layer wrote, and what it leaves for `finalize`.

    `records` are conda package records that have to be updated with the `facts` of relocated files. `split` is the
    last file if it continues in the next layer. `index` is a block of the environment's index. A layer that was
    `linked` has not been written: its files are hard links to those of the environment that is replaced. `kept` is how
    many bytes of memory `links` and `directories` take. `implied_directories` counts those that it made
    although they are no members of it.
    """

    links: list[Link] = field(default_factory=list)
    directories: list[Member] = field(default_factory=list)
    split: SplitFile | None = None
    records: list[tuple[str, Mode]] = field(default_factory=list)
    facts: dict[str, FileFacts] = field(default_factory=dict)
    unrelocated: list[str] = field(default_factory=list)
    index: bytes = b""
    linked: bool = False
    kept: int = 0
    implied_directories: int = 0

    @property
    def described(self) -> int:
        """How many bytes take what describes its files, approximately."""
        facts = sum(kept_size(path, fact.sha256) for path, fact in self.facts.items())
        return len(self.index) + facts


_reader = LayerReader()


def _open_tree(directory: DirectoryHandle) -> DirectoryTree:
    return DirectoryTree(directory.pin())


_trees = RecentTrees(_open_tree)


def fetch_layer(store: Store, job: ExtractJob) -> bytes:
    """Read one layer and check its digest; raise Corrupted, and what the store raises."""
    return read_layer(store, job.layer)


def extract_layer(store: Store, job: ExtractJob, stored: bytes) -> ExtractedLayer:
    """Decompress and write one layer, given its bytes as stored.

    Raise Corrupted, TooManyFiles, InsufficientSpace, PermissionDenied, FileOperationFailed.
    """
    # Files get their modes when they are created. Nothing else in a worker depends on the umask, so it is not restored.
    os.umask(0)
    what = f"layer {job.layer.digest[:12]} in {store.url}"
    layer = _reader.open(job.layer, stored, store.url)
    with os_errors(job.directory.path, "write to"):
        tree = _trees[job.directory]
    with unpack_errors(what, job.prefix):
        writer = _Writer(what, job, layer, tree)
        if layer.continuation is not None:
            writer.write_continuation(layer.continuation)
        writer.write_members(layer.members())
        return writer.result()


class _Writer:
    """Writes the members of one layer."""

    def __init__(self, name: str, job: ExtractJob, layer: OpenLayer, directories: DirectoryTree) -> None:
        self._name = name
        self._job = job
        self._relocations, self._links = layer.relocations, layer.links
        self._for_loader = layer.for_loader
        self._directories = directories
        self._growth = 0
        self._now = time.time_ns()
        self._made_before = directories.made
        self._most_growth = tolerated_growth(job.layer, job.prefix)
        self._result = ExtractedLayer()
        self._index: list[EntryFields] = []

    def result(self) -> ExtractedLayer:
        """Return what the layer wrote; raise TooManyFiles if its index block is larger than any layer's."""
        made = self._directories.made - self._made_before
        self._result.implied_directories = made - len(self._result.directories)
        self._result.index = encode_block(self._job.number, self._index)
        if len(self._result.index) > _LARGEST_BLOCK:
            raise TooManyFiles(self._name, "paths", _LARGEST_BLOCK)
        return self._result

    def write_members(self, members: Iterable[tuple[Member, memoryview]]) -> None:
        """Write files and directories, and note the links."""
        most_made = self._made_before + FEW_DIRECTORIES
        for member, data in members:
            if self._directories.made > most_made:
                raise InvalidSegment("its paths have more directories than members")
            most_made += DIRECTORIES_PER_MEMBER
            if member.type == "file":
                self._write_file(member, data)
            elif member.type == "directory":
                self._keep(member.path)
                self._result.directories.append(member)
                self._directories[member.path]
                self._index.append(directory_entry(member.path, directory_mode(member.path, member.mode)))
            else:
                self._note_link(member)

    def write_continuation(self, piece: Piece) -> None:
        """Write the piece of a split file that the layer begins with."""
        replaced = self._write_piece(piece)
        if not piece.is_last:
            member = Member(piece.start.path, "file", 0, 0, piece.start.size)
            self._result.split = SplitFile(member, piece.end, replaced)

    def _note_link(self, member: Member) -> None:
        relocation = self._links.get(member.path)
        target = relocate_link(member.target, relocation, self._job.prefix)
        self._keep(member.path, target)
        self._directories[member.path.rpartition("/")[0]]
        self._result.links.append(Link(member.path, target, member.type == "hardlink"))

    def _keep(self, path: str, target: str = "") -> None:
        """Count a link or directory; raise TooManyFiles if there are more than an environment may have."""
        self._result.kept += kept_size(path, target)
        if self._result.kept > MOST_KEPT:
            raise TooManyFiles(self._name, "links and directories", MOST_KEPT)

    def _write_file(self, member: Member, data: memoryview) -> None:
        path, size = member.path, member.size
        if len(data) < size:
            replaced = self._write_piece(Piece.first(member, data))
            self._result.split = SplitFile(member, len(data), replaced)
            return
        relocation, kept = self._relocations.get(path), self._links.get(path)
        if path.endswith(".pyc") and self._job.layer.kind != "package":  # those of packages have checksums
            module = bytecode.with_source_mtime(data, LINK_TIME, RESTORED_LINK_TIME)
            data = data if module is None else memoryview(module)
        content = data if not (relocation or kept) else self._relocated_content(path, data, relocation, kept)
        directory, _, name = path.rpartition("/")
        mode = file_mode(member.mode)
        descriptor = os.open(name, _NEW_FILE, mode, dir_fd=self._directories[directory])
        try:
            write_all(descriptor, content)
            os.utime(descriptor, ns=(self._now, restored_time(member.mtime_ns)))
            status = set_mode(descriptor, mode)
        finally:
            os.close(descriptor)
        mode = stat.S_IMODE(status.st_mode)
        inode = 0 if (relocation or kept) and path in self._result.unrelocated else status.st_ino
        self._index.append((path, status.st_size, mode, status.st_mtime_ns, status.st_ctime_ns, inode))

    def _relocated_content(
        self, path: str, data: memoryview, relocation: Relocation | None, kept: Relocation | None
    ) -> memoryview | bytes:
        """Return what to write of a file that has relocations, and note what `finalize` has to know of it."""
        if relocation and relocation.mode in RECORD_MODES:
            self._result.records.append((path, relocation.mode))
            return data
        content = self._relocate(path, data, relocation, relocate_file) if relocation else bytes(data)
        if kept and kept.placeholder != self._job.prefix:
            content = replace_kept(content, kept.placeholder, self._job.prefix)
            self._check_complete(path, content, kept.placeholder)
        if content != data and needs_signature(content):
            content = self._signed(path, content, data)
        self._result.facts[path] = FileFacts(hashlib.sha256(content).hexdigest(), len(content))
        return content

    def _signed(self, path: str, content: bytes, stored: memoryview) -> bytes:
        """Return a program for macOS with a valid signature; the stored one, noted as unrelocated, if that fails."""
        signed = sign(content)
        if signed is None and path not in self._result.unrelocated:
            self._result.unrelocated.append(path)
        return bytes(stored) if signed is None else signed

    def _write_piece(self, piece: Piece) -> int | None:
        """Write a piece of a split file at its offset in the relocated file.

        Return the number of text placeholders up to the end of the piece, None if the file has no relocation.
        """
        path = piece.start.path
        relocation = self._relocations.get(path)
        offset = piece.offset_on_disk(relocation, self._job.prefix)
        replaced = None
        content = piece.data
        kept = self._links.get(path)
        if kept and kept.placeholder != self._job.prefix and piece.start.offset == 0:
            self._result.unrelocated.append(path)  # this piece does not tell how the others can be changed
        if relocation and relocation.mode not in RECORD_MODES:
            is_for_loader = (path, relocation.placeholder) in self._for_loader
            relocate = partial(replace_in_piece, is_for_loader=is_for_loader)
            content = memoryview(self._relocate(path, piece.data, relocation, relocate))
            replaced = piece.start.replaced
            if relocation.mode == "text":
                replaced += bytes(piece.data).count(relocation.placeholder.encode())
        directory, _, name = path.rpartition("/")
        descriptor = os.open(name, _SHARED_FILE, 0o600, dir_fd=self._directories[directory])
        try:
            # Further links: `link_unchanged` put it here, and writing would modify the environment that is replaced.
            if os.fstat(descriptor).st_nlink != 1:
                raise InvalidSegment(f"{path!r} is present both as a whole and in parts")
            while content:
                written = os.pwrite(descriptor, content, offset)
                content, offset = content[written:], offset + written
        finally:
            os.close(descriptor)
        return replaced

    def _relocate(
        self,
        path: str,
        data: memoryview,
        relocation: Relocation,
        relocate: Callable[[bytes, Mode, str, str], bytes],
    ) -> bytes:
        """Return the relocated bytes; the unchanged ones, noted as unrelocated, if the prefix is too long."""
        try:
            relocated = relocate(bytes(data), relocation.mode, relocation.placeholder, self._job.prefix)
        except PlaceholderTooShort:
            self._result.unrelocated.append(path)
            return bytes(data)
        is_own_binary = relocation.mode == "binary" and is_own_placeholder(relocation.placeholder)
        if is_own_binary and relocation.placeholder.encode() in relocated:
            self._check_complete(path, relocated, relocation.placeholder)
        is_own_text = relocation.mode == "text" and relocation.placeholder in TEXT_PLACEHOLDERS
        if is_own_text and may_have_wrong_lengths(relocated, self._job.prefix):
            self._result.unrelocated.append(path)
        self._growth += len(relocated) - len(data)
        if self._growth > self._most_growth:
            raise InvalidSegment("relocating its files makes it more than twice as large")
        return relocated

    def _check_complete(self, path: str, content: bytes, replaced: str) -> None:
        """Note the file as unrelocated if it can still depend on what should have been replaced."""
        if path not in self._result.unrelocated and not is_complete(content, replaced):
            self._result.unrelocated.append(path)
