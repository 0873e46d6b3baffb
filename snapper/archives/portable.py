"""Makes an unpacked snapshot one that conda-unpack can relocate.

conda-unpack puts a prefix in a placeholder's place, in text and in binaries, and knows nothing else: no links, no
records, no names in compiled modules. It opens every file to write, and stops at the first that it may not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from snapper.archives.origin import Fix
from snapper.environment.conda import without_facts_of
from snapper.environment.tree import File, walk
from snapper.format.model import RECORD_MODES, Layer, Mode

#: What conda-pack leaves out of conda-unpack's list, because a running program cannot be written to.
_PYTHON = re.compile("bin/python")


def make_portable(tree: Path, layers: tuple[Layer, ...]) -> tuple[Fix, ...]:
    """Changes the snapshot's files at `tree`, which hold placeholders, so that a list of fixes suffices; the list.

    What is the likeliest not to fit comes last, so that everything else is fixed when conda-unpack stops there.
    Links into the environment become relative, files to be fixed writable, and records say of these files that
    checksums (and sizes, where those were of the relocated file) are not known.
    """
    found = {file.path: file for file in walk(tree).files}
    relocated = {
        path: way for layer in layers for path, way in _relocations(layer) if _can(found.get(path), way)
    }
    fixes = sorted(_fixes(found, relocated), key=lambda fix: (fix.mode == "binary", -room_of(fix)))
    for fix in fixes:
        file = tree / fix.path
        file.chmod(file.stat().st_mode & 0o777 | 0o200)
    paths = {os.path.normpath(fix.path) for fix in fixes}
    for path, (mode, placeholder) in relocated.items():
        if mode == "link":
            _make_relative(tree, path, placeholder)
        elif mode in RECORD_MODES:
            _forget(tree / path, paths, sizes=mode == "sized-record")
    return tuple(fixes)


def room_of(fix: Fix) -> int:
    """How long a prefix, in bytes, fits in the placeholder's place in a binary."""
    return len(fix.placeholder.encode())


def _relocations(layer: Layer) -> Iterator[tuple[str, tuple[Mode, str]]]:
    for relocation in layer.relocations:
        for path in relocation.paths:
            yield path, (relocation.mode, relocation.placeholder)


def _can(file: File | None, way: tuple[Mode, str]) -> bool:
    """Whether what is there can be changed so: a snapshot may say that of a link, which may lead outside."""
    return file is not None and file.type == ("symlink" if way[0] == "link" else "file")


def _fixes(found: Mapping[str, File], relocated: Mapping[str, tuple[Mode, str]]) -> Iterator[Fix]:
    """What conda-unpack can do, for every name of a file: unpacked from a zip, hard links are files of their own."""
    names: dict[int, list[str]] = {}
    for file in found.values():
        if file.type == "file" and file.links > 1:
            names.setdefault(file.inode, []).append(file.path)
    for path, (mode, placeholder) in sorted(relocated.items()):
        if mode not in ("text", "binary"):
            continue
        for name in names.get(found[path].inode, [path]):
            if not _PYTHON.match(name):
                yield Fix(name, placeholder, mode)
            elif mode == "text":
                yield Fix(f"./{name}", placeholder, mode)


def _make_relative(tree: Path, path: str, placeholder: str) -> None:
    link = tree / path
    inside = os.readlink(link)[len(placeholder) :].lstrip("/")
    up = [".."] * path.count("/")
    link.unlink()
    link.symlink_to("/".join([*up, inside] if inside else up) or ".")


def _forget(file: Path, paths: set[str], *, sizes: bool) -> None:
    status = file.stat()
    text = without_facts_of(file.read_bytes(), paths, sizes=sizes)
    file.chmod(0o600)
    file.write_bytes(text)
    file.chmod(status.st_mode & 0o777)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
