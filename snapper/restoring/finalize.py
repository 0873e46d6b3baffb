"""Complete a tree when all its layers are written: split files, package records, links, modes of directories."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

from snapper.environment.conda import LARGEST_RECORD, LARGEST_RECORDS, FileFacts
from snapper.environment.index import IndexEntry, block_paths, directory_entry, encode_block
from snapper.environment.record_text import with_facts
from snapper.errors import Corrupted
from snapper.format.constraints import directory_mode, file_mode, path_bytes
from snapper.format.macho import HEAD_SIZE, needs_signature
from snapper.format.member import InvalidSegment, Member
from snapper.format.model import Continuation, Layer
from snapper.format.times import restored_time
from snapper.fs.directories import DirectoryTree, link_or_copy, set_mode, without_umask, write_all
from snapper.fs.handles import DirectoryHandle
from snapper.fs.moves import Entry
from snapper.restoring.errors import unpack_errors
from snapper.restoring.layer_writer import ExtractedLayer, Link, SplitFile
from snapper.restoring.signing import LARGEST_SIGNED, sign


def finalize_tree(
    directory: DirectoryHandle,
    prefix: str,
    layers: tuple[Layer, ...],
    extracted: list[ExtractedLayer],
    altered: frozenset[str] = frozenset(),
) -> list[bytes]:
    """Make links and set what can only be set last; return further blocks of the index.

    `extracted` are the results of `layers`, in their order. Records are not updated for `altered` paths. Raise
    Corrupted if split files do not join.
    """
    directories = DirectoryTree(directory.pin())
    index: dict[int, list[IndexEntry]] = defaultdict(list)
    what = f"the snapshot for {prefix}"
    try:
        with unpack_errors(what, prefix), without_umask():
            _check_whole_files(layers, extracted)
            unrelocated = {path for result in extracted for path in result.unrelocated}
            relocated = _relocated_split_files(layers)
            for number, member in _join_split_files(what, layers, extracted):
                is_signed = member.path not in relocated or _sign(directories, member.path)
                if not is_signed and member.path not in unrelocated:
                    extracted[number].unrelocated.append(member.path)
                    unrelocated.add(member.path)
                entry = _set_attributes(directories, member)
                # The index does not vouch for what is unrelocated, so that the next pack reports it, too.
                index[number].append(entry._replace(inode=0) if member.path in unrelocated else entry)
            for number, entry in _update_records(directories, layers, extracted, altered):
                index[number].append(entry)
            for number, entry in _make_links(directories, extracted):
                index[number].append(entry)
            for number, entry in _set_directory_modes(directories, extracted):
                index[number].append(entry)
    finally:
        directories.close()
    return [encode_block(number, entries) for number, entries in sorted(index.items())]


def _check_whole_files(layers: tuple[Layer, ...], extracted: list[ExtractedLayer]) -> None:
    """Raise InvalidSegment if a split file is also the whole file of a layer: both have written to it."""
    split = {layer.begins.path for layer in layers if layer.begins}
    for result in extracted if split else ():
        if not result.linked:
            for path in split.intersection(block_paths(result.index)):
                raise InvalidSegment(f"{path!r} is present both as a whole and in parts")


def _join_split_files(
    what: str, layers: tuple[Layer, ...], extracted: list[ExtractedLayer]
) -> Iterator[tuple[int, Member]]:
    """Yield split files, each with the number of its first layer; raise Corrupted unless the pieces join exactly."""
    pending: SplitFile | None = None
    first: tuple[int, Member] | None = None
    for number, (layer, result) in enumerate(zip(layers, extracted, strict=True)):
        if result.linked and not pending:
            continue
        _check_joins(what, pending, layer.begins)
        if pending and not result.split and first:
            yield first
        if result.split and not pending:
            first = number, result.split.member
        pending = result.split
    if pending:
        raise Corrupted(what, f"the end of {pending.member.path!r} is missing")


def _check_joins(what: str, pending: SplitFile | None, begins: Continuation | None) -> None:
    """Raise Corrupted unless a layer continues the file that the layer before it leaves unfinished, if any."""
    expected = (pending.member.path, pending.offset, pending.member.size) if pending else None
    if (begins and (begins.path, begins.offset, begins.size)) != expected:
        raise Corrupted(what, "the parts of a large file do not fit together")
    if begins and pending and pending.replaced not in (None, begins.replaced):
        raise Corrupted(what, "the parts of a large file do not agree on a prefix that spans them")


def _relocated_split_files(layers: tuple[Layer, ...]) -> set[str]:
    """Return the paths of split files that have relocations."""
    split = {layer.begins.path for layer in layers if layer.begins}
    if not split:
        return split
    relocations = (relocation for layer in layers for relocation in layer.relocations)
    return {path for relocation in relocations for path in relocation.paths if path in split}


def _sign(directories: DirectoryTree, path: str) -> bool:
    """Sign a relocated file if it is a program for macOS; return whether it can start."""
    with _open(directories, path) as file:
        head = file.read(HEAD_SIZE)
        if not needs_signature(head):
            return True
        program = head + file.read(LARGEST_SIGNED)
    signed = sign(program) if len(program) <= LARGEST_SIGNED else None
    if signed is not None:
        _overwrite(directories, path, signed)
    return signed is not None


def _set_attributes(directories: DirectoryTree, member: Member) -> IndexEntry:
    parent, _, name = member.path.rpartition("/")
    with _open(directories, member.path) as file:
        set_mode(file.fileno(), file_mode(member.mode))
    times = (time.time_ns(), restored_time(member.mtime_ns))
    os.utime(name, ns=times, dir_fd=directories[parent], follow_symlinks=False)
    return _index_entry(directories, member.path)


def _update_records(
    directories: DirectoryTree,
    layers: tuple[Layer, ...],
    extracted: list[ExtractedLayer],
    altered: frozenset[str],
) -> Iterator[tuple[int, IndexEntry]]:
    """Write digests and sizes of relocated files into conda's records; yield the records' index entries, by layer."""
    facts: dict[object, dict[str, FileFacts]] = defaultdict(dict)
    split = set()
    for layer, result in zip(layers, extracted, strict=True):
        facts[layer.owner_group].update(
            {path: fact for path, fact in result.facts.items() if path not in altered}
        )
        if layer.begins and layer.begins.path not in altered and layer.relocations and not result.linked:
            split.add((layer.owner_group, layer.begins.path))
    for owner, path in split:
        with _open(directories, path) as file:
            facts[owner][path] = FileFacts(_digest(file), os.fstat(file.fileno()).st_size)
    remaining = LARGEST_RECORDS
    for number, result in enumerate(extracted):
        for path, mode in result.records:
            text = _read_record(directories, path)
            remaining -= len(text)
            if remaining < 0:
                raise InvalidSegment(f"its package records have more than {LARGEST_RECORDS:,} bytes")
            updated = with_facts(text, facts[layers[number].owner_group], sizes=mode == "sized-record")
            _overwrite(directories, path, updated)
            yield number, _index_entry(directories, path)


def _read_record(directories: DirectoryTree, path: str) -> bytes:
    with _open(directories, path) as file:
        if os.fstat(file.fileno()).st_size > LARGEST_RECORD:
            raise InvalidSegment(f"{path!r} is too large for a package record")
        return file.read()


def _overwrite(directories: DirectoryTree, path: str, data: bytes) -> None:
    """Write a file in place, with the mode and mtime that it has."""
    parent, _, name = path.rpartition("/")
    status = os.stat(name, dir_fd=directories[parent], follow_symlinks=False)
    with suppress(OSError):  # a file system without modes
        os.chmod(name, 0o600, dir_fd=directories[parent])
    descriptor = os.open(name, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW, dir_fd=directories[parent])
    try:
        write_all(descriptor, data)
        set_mode(descriptor, stat.S_IMODE(status.st_mode))
        os.utime(descriptor, ns=(time.time_ns(), status.st_mtime_ns))
    finally:
        os.close(descriptor)


def _make_links(
    directories: DirectoryTree, extracted: list[ExtractedLayer]
) -> Iterator[tuple[int, IndexEntry]]:
    """Make hard links, then symlinks; yield the index entries of the links and of the files they link, by layer."""
    links = [(number, link) for number, result in enumerate(extracted) for link in result.links]
    for number, link in sorted(links, key=lambda numbered: not numbered[1].hard):
        _make_link(directories, link)
        yield number, _index_entry(directories, link.path)
    targets = {link.target for _, link in links if link.hard}
    for number, result in enumerate(extracted if targets else ()):
        for path in block_paths(result.index):
            if path in targets:  # its ctime changed when it was linked
                yield number, _index_entry(directories, path)


def _make_link(directories: DirectoryTree, link: Link) -> None:
    parent, _, name = link.path.rpartition("/")
    if not link.hard:
        os.symlink(link.target, name, dir_fd=directories[parent])
        return
    target_parent, _, target = link.target.rpartition("/")
    source = os.dup(directories[target_parent])  # opening the other directory may close this one
    try:
        if not stat.S_ISREG(os.stat(target, dir_fd=source, follow_symlinks=False).st_mode):
            raise InvalidSegment(f"{link.path!r} is a hard link to something that is not a file")
        link_or_copy(Entry(source, target), Entry(directories[parent], name))
    finally:
        os.close(source)


def _set_directory_modes(
    directories: DirectoryTree, extracted: list[ExtractedLayer]
) -> Iterator[tuple[int, IndexEntry]]:
    """Set modes from the innermost directories outwards, as a mode may forbid entering a directory.

    Yield the index entries of those that get another mode from the file system, by layer.
    """
    members = [(number, member) for number, result in enumerate(extracted) for member in result.directories]
    for number, member in sorted(members, key=lambda item: path_bytes(item[1].path), reverse=True):
        mode = directory_mode(member.path, member.mode)
        found = stat.S_IMODE(set_mode(directories[member.path], mode).st_mode)
        if found != mode:
            yield number, directory_entry(member.path, found)


def _index_entry(directories: DirectoryTree, path: str) -> IndexEntry:
    """Return the index's entry for a path of the tree."""
    parent, _, name = path.rpartition("/")
    status = os.stat(name, dir_fd=directories[parent], follow_symlinks=False)
    return IndexEntry(
        path,
        status.st_size,
        status.st_mode & 0o7777,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_ino,
    )


def _open(directories: DirectoryTree, path: str) -> BinaryIO:
    parent, _, name = path.rpartition("/")
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(name, flags, dir_fd=directories[parent]), "rb")


def _digest(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(1024 * 1024):
        digest.update(chunk)
    return digest.hexdigest()
