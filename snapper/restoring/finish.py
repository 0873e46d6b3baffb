"""What is left to do when all layers of a snapshot are written: links, records, and modes of directories."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import defaultdict
from collections.abc import Iterator
from typing import BinaryIO

from snapper.environment.conda import FileFacts, with_facts
from snapper.environment.index import IndexEntry, block_paths, encode_block
from snapper.errors import Corrupted
from snapper.format.member import InvalidSegment, Member
from snapper.format.model import Layer, path_bytes
from snapper.fs.directories import DirectoryTree, without_umask, write_all
from snapper.restoring.errors import unpack_errors
from snapper.restoring.extract import NANOSECONDS, ExtractedLayer, Link, SplitFile


def finish(
    directory: str,
    prefix: str,
    layers: tuple[Layer, ...],
    parts: list[ExtractedLayer],
    altered: frozenset[str] = frozenset(),
) -> list[bytes]:
    """Makes links and sets what could not be set before; returns further blocks of the index.

    `parts` are the results of `layers`, in their order; records are told nothing of `altered` files. Raises Corrupted
    where a file's pieces do not join.
    """
    directories = DirectoryTree(directory)
    stats: dict[int, list[IndexEntry]] = defaultdict(list)
    what = f"the snapshot for {prefix}"
    try:
        with unpack_errors(what, prefix), without_umask():
            for order, member in _joined(what, layers, parts):
                above, _, name = member.path.rpartition("/")
                os.chmod(name, member.mode & 0o777, dir_fd=directories[above])
                times = (member.mtime * NANOSECONDS, member.mtime * NANOSECONDS)
                os.utime(name, ns=times, dir_fd=directories[above], follow_symlinks=False)
                stats[order].append(_index_entry_at(directories[above], member.path))
            for order, entry in _restate(directories, layers, parts, altered):
                stats[order].append(entry)
            links = [(order, link) for order, part in enumerate(parts) for link in part.links]
            for order, link in sorted(links, key=lambda each: not each[1].hard):
                _make_link(directories, link)
                stats[order].append(_index_entry_at(directories[link.path.rpartition("/")[0]], link.path))
            for order, path in _linked({link.target for _, link in links if link.hard}, parts):
                stats[order].append(_index_entry_at(directories[path.rpartition("/")[0]], path))
            modes = [member for part in parts for member in part.directories]
            for member in sorted(modes, key=lambda member: path_bytes(member.path), reverse=True):
                os.fchmod(directories[member.path], member.mode & 0o777)
    finally:
        directories.close()
    return [encode_block(order, entries) for order, entries in sorted(stats.items())]


def _restate(
    directories: DirectoryTree,
    layers: tuple[Layer, ...],
    parts: list[ExtractedLayer],
    altered: frozenset[str],
) -> Iterator[tuple[int, IndexEntry]]:
    """Makes conda's records true of their packages' files as they are now; gives the index's entries for them, by
    layer.
    """
    facts: dict[object, dict[str, FileFacts]] = defaultdict(dict)
    cut = set()
    for layer, part in zip(layers, parts, strict=True):
        facts[layer.owner_group].update(
            {path: fact for path, fact in part.facts.items() if path not in altered}
        )
        if layer.begins and layer.begins.path not in altered and layer.relocations and not part.inherited:
            cut.add((layer.owner_group, layer.begins.path))
    for whose, path in cut:
        with _opened(directories, path) as file:
            facts[whose][path] = FileFacts(_digest(file), os.fstat(file.fileno()).st_size)
    records = [(order, *record) for order, part in enumerate(parts) for record in part.records]
    for order, path, mode in records:
        with _opened(directories, path) as file:
            status = os.fstat(file.fileno())
            text = with_facts(file.read(), facts[layers[order].owner_group], sizes=mode == "sized-record")
        above, _, name = path.rpartition("/")
        os.chmod(name, 0o600, dir_fd=directories[above])
        descriptor = os.open(name, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW, dir_fd=directories[above])
        try:
            write_all(descriptor, text)
            os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
            os.utime(descriptor, ns=(status.st_mtime_ns, status.st_mtime_ns))
        finally:
            os.close(descriptor)
        yield order, _index_entry_at(directories[above], path)


def _opened(directories: DirectoryTree, path: str) -> BinaryIO:
    above, _, name = path.rpartition("/")
    return os.fdopen(
        os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directories[above]), "rb"
    )


def _digest(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(1024 * 1024):
        digest.update(chunk)
    return digest.hexdigest()


def _joined(
    what: str, layers: tuple[Layer, ...], parts: list[ExtractedLayer]
) -> Iterator[tuple[int, Member]]:
    """The members that several layers hold, each with the first, after a look that each goes on where the one before
    ended.
    """
    pending: SplitFile | None = None
    first: tuple[int, Member] | None = None
    for order, (layer, part) in enumerate(zip(layers, parts, strict=True)):
        if part.inherited and not pending:
            continue
        begins = layer.begins
        expected = (pending.member.path, pending.offset, pending.member.size) if pending else None
        if (begins and (begins.path, begins.offset, begins.size)) != expected:
            raise Corrupted(what, "the parts of a large file do not join")
        if begins and pending and pending.replaced not in (None, begins.replaced):
            raise Corrupted(what, "the parts of a large file do not join at a prefix")
        if pending and not part.cut and first:
            yield first
        if part.cut and not pending:
            first = order, part.cut.member
        pending = part.cut
    if pending:
        raise Corrupted(what, f"the end of {pending.member.path!r} is missing")


def _linked(paths: set[str], parts: list[ExtractedLayer]) -> Iterator[tuple[int, str]]:
    """The files that were written before they got further links, which shows in their ctime, by layer."""
    for order, part in enumerate(parts if paths else ()):
        yield from ((order, path) for path in block_paths(part.index) if path in paths)


def _index_entry_at(directory: int, path: str) -> IndexEntry:
    """Return the index's entry for a path of the tree, whose directory is open."""
    status = os.stat(path.rpartition("/")[2], dir_fd=directory, follow_symlinks=False)
    return IndexEntry(
        path,
        status.st_size,
        status.st_mode & 0o7777,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_ino,
    )


def _make_link(directories: DirectoryTree, link: Link) -> None:
    above, _, name = link.path.rpartition("/")
    if link.hard:
        beside, _, target = link.target.rpartition("/")
        source = os.dup(directories[beside])
        try:
            if not stat.S_ISREG(os.stat(target, dir_fd=source, follow_symlinks=False).st_mode):
                raise InvalidSegment(f"{link.path!r} is a hard link to something that is not a file")
            os.link(target, name, src_dir_fd=source, dst_dir_fd=directories[above], follow_symlinks=False)
        finally:
            os.close(source)
    else:
        os.symlink(link.target, name, dir_fd=directories[above])
