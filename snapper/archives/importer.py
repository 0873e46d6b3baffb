"""Import: from an archive that conda-pack made to an environment that can be packed.

The environment is not moved to where it is unpacked: files that a package brought with a placeholder get the prefix
that all others have already, which is that of the environment which was archived.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from snapper.archives.archive import ADDED, UNPACK, kind_of
from snapper.archives.origin import NOWHERE, Fix, dest_prefix_of, fixes_of, prefix_of, proved
from snapper.archives.unarchive import make_links, unarchive
from snapper.environment import conda, pip
from snapper.environment.conda import FileFacts, PathEntry, Record
from snapper.environment.embedded import ForeignPrefix
from snapper.environment.scan import scan
from snapper.errors import FileOperationFailed, InvalidArchive, NotAnArchive, NotAnEnvironment
from snapper.format import shebang
from snapper.format.canonicalize import candidate_originals, default_placeholders
from snapper.format.model import STATE_DIRECTORY, Mode
from snapper.format.relocate import PlaceholderTooShort, replace_placeholder
from snapper.fs.removal import remove_tree
from snapper.fs.temporary import temporary_directory
from snapper.process.progress import Progress

_MOST_WRAPPERS = 8
_ENDING = re.compile(r"\.(?:tar(?:\.\w+)?|tgz|tbz2|txz|tzst|zip|squashfs)\Z", re.I)


@dataclass(frozen=True)
class UnpackedArchive:
    """An archive's environment: the directory it is in, and what its files know of where it was."""

    prefix: Path
    foreign_prefix: ForeignPrefix


@dataclass(frozen=True)
class _Found:
    """What was unpacked at `top`: its regular files, its packages, and what these say of files that are there."""

    top: Path
    files: frozenset[str]
    records: tuple[Record, ...]
    entries: Mapping[str, PathEntry]


def archive_stem(file: Path) -> str:
    """The archive's name without the ending that says its format."""
    return _ENDING.sub("", file.name)


@contextmanager
def unpacked_archive(file: Path, progress: Progress) -> Iterator[UnpackedArchive]:
    """The environment of an archive, unpacked in a private temporary directory that is gone at the end.

    Nothing of the archive is executed. Raises NotAnArchive, InvalidArchive, PermissionDenied, InsufficientSpace,
    ProgramNotFound.
    """
    kind_of(file)
    with temporary_directory() as holder:
        tree, spool = holder / "tree", holder / "spool"
        tree.mkdir()
        tree.chmod(0o755)
        spool.mkdir()
        progress.start(f"Unpacking {file.name}", os.path.getsize(file))
        links = unarchive(file, tree, spool, progress)
        progress.done()
        remove_tree(spool)
        yield _arrive(file, tree, links)


def _arrive(file: Path, tree: Path, links: dict[str, str]) -> UnpackedArchive:
    """Makes an environment of what was unpacked, which has no symbolic links yet."""
    top = _top(file, tree)
    inner = "" if top == tree else f"{top.relative_to(tree)}/"
    links = {path.removeprefix(inner): target for path, target in links.items()}
    if (top / STATE_DIRECTORY).is_dir():
        remove_tree(top / STATE_DIRECTORY)
    found = _look(file, top)
    try:
        fixes = fixes_of(top / UNPACK)
    except ValueError as error:
        raise InvalidArchive(str(file), str(error)) from None
    if fixes is None:
        prefix = dest_prefix_of(top, found.entries, [path for path in found.files if path.startswith("bin/")])
    else:
        prefix = prefix_of(fixes, found.entries)
    _relocate(found, fixes or (), prefix)
    if fixes is None:
        _relocate_programs(found, prefix)
    _restore_first_lines(found, prefix)
    _restate_records(found, prefix)
    for path in ADDED:
        if path in found.files and path not in found.entries:
            (top / path).unlink()
    make_links(file, top, prefix, {path: to for path, to in links.items() if not _is_own(path)})
    placeholders = {fix.path: fix.placeholder for fix in fixes or () if fix.placeholder != prefix}
    return UnpackedArchive(top, ForeignPrefix(prefix, placeholders))


def _is_own(path: str) -> bool:
    return path.split("/", 1)[0] == STATE_DIRECTORY


def _top(file: Path, tree: Path) -> Path:
    """The environment's directory in what was unpacked: the top, or a directory that is alone there."""
    top = tree
    for _ in range(_MOST_WRAPPERS):
        if conda.is_environment(top):
            return top
        inside = list(top.iterdir())
        if len(inside) != 1 or not inside[0].is_dir():
            break
        top = inside[0]
    raise NotAnArchive(str(file), "it has no conda-meta directory")


def _look(file: Path, top: Path) -> _Found:
    try:
        records = tuple(conda.read_records(top))
        files = frozenset(each.path for each in scan(top).files if each.type == "file")
    except FileOperationFailed as error:
        raise InvalidArchive(str(file), f"{os.path.relpath(error.path, top)}: {error.reason}") from None
    except NotAnEnvironment:
        raise NotAnArchive(str(file), "it has no conda-meta directory") from None
    entries: dict[str, PathEntry] = {}
    for record in records:
        for entry in record.entries:
            if entry.path in files:
                entries.setdefault(entry.path, entry)
    return _Found(top, files, records, entries)


def _relocate(found: _Found, fixes: Collection[Fix], prefix: str) -> None:
    """Does what conda-unpack would do, and what it leaves out: Python's own programs, and compiled modules."""
    wanted: dict[str, tuple[str, Mode]] = {
        entry.path: (entry.placeholder, entry.mode) for entry in found.entries.values() if entry.placeholder
    }
    wanted.update({fix.path: (fix.placeholder, fix.mode) for fix in fixes if fix.path in found.files})
    for path, (placeholder, mode) in wanted.items():
        if placeholder != prefix:
            _replace(found.top / path, mode, placeholder, prefix)
    if prefix == NOWHERE:
        for path in found.files:
            if path.endswith(".pyc"):
                for placeholder in default_placeholders("pyc", 0):
                    _replace(found.top / path, "pyc", placeholder, prefix)


def _relocate_programs(found: _Found, prefix: str) -> None:
    """Relocates programs that hold yet another prefix: made without a package cache, an archive for a certain prefix
    has them as they were.
    """
    for entry in found.entries.values():
        if entry.mode == "binary" and entry.placeholder and _proved_fact(found.top, entry, prefix) is None:
            known = proved(found.top, entry)
            with suppress(PlaceholderTooShort):
                if known:
                    data = replace_placeholder(known.original, entry.mode, entry.placeholder, prefix)
                    _rewrite(found.top / entry.path, data)


def _replace(file: Path, mode: Mode, placeholder: str, prefix: str) -> None:
    data = file.read_bytes()
    try:
        changed = replace_placeholder(data, mode, placeholder, prefix)
    except PlaceholderTooShort:
        return
    if changed != data:
        _rewrite(file, changed)


def _restore_first_lines(found: _Found, prefix: str) -> None:
    """Gives scripts their own interpreter back, where it is proved that conda-pack had them look for it on PATH."""
    listed = pip.checksums(found.top, found.files)
    place = prefix.encode("utf-8", "surrogateescape")
    for path in found.files:
        entry = found.entries.get(path)
        if not path.startswith("bin/") or (entry and entry.placeholder):
            continue
        data = (found.top / path).read_bytes()
        if not data.startswith(b"#!/usr/bin/env "):
            continue
        proofs = {entry.sha256, entry.sha256_in_prefix} if entry else {listed.get(path, "")}
        is_made = entry is not None and entry.type == "unix_python_entry_point"
        for original in shebang.original_shebangs(data, place, place):
            if is_made or hashlib.sha256(original).hexdigest() in proofs:
                _rewrite(found.top / path, original)
                break


def _restate_records(found: _Found, prefix: str) -> None:
    """Makes conda's records true of the files as they are now, and fills in what `snapper export` left open."""
    facts = {
        entry.path: fact
        for entry in found.entries.values()
        if entry.placeholder and entry.sha256_in_prefix and (fact := _proved_fact(found.top, entry, prefix))
    }

    def fact_of(path: str) -> FileFacts | None:
        return _fact((found.top / path).read_bytes()) if path in found.files else None

    for record in found.records:
        file = found.top / record.file
        text = file.read_bytes()
        changed = conda.with_missing_facts(conda.with_facts(text, facts, sizes=False), fact_of)
        if changed != text:
            _rewrite(file, changed)


def _proved_fact(top: Path, entry: PathEntry, prefix: str) -> FileFacts | None:
    """What is to be said of a file that is its package's own, with the prefix for the placeholder."""
    data = (top / entry.path).read_bytes()
    originals = candidate_originals(data, entry.mode, entry.placeholder, prefix)
    proved = any(hashlib.sha256(each).hexdigest() == entry.sha256 for each in originals)
    return _fact(data) if proved else None


def _fact(data: bytes) -> FileFacts:
    return FileFacts(hashlib.sha256(data).hexdigest(), len(data))


def _rewrite(file: Path, data: bytes) -> None:
    """Replaces a file's contents, but not its mode and time, nor what is linked to it."""
    status = file.stat()
    mode = stat.S_IMODE(status.st_mode)
    file.chmod(mode | 0o200)
    with file.open("r+b") as opened:
        opened.write(data)
        opened.truncate()
    file.chmod(mode)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
