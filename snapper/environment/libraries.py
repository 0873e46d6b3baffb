"""Find the libraries outside of an environment that the user's own compiled files are linked with.

Libraries of the C library and the compiler are on all machines that conda supports.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass

from snapper.format.elf_needed import NeededLibraries, read_needed
from snapper.fs.beneath import open_beneath
from snapper.fs.directories import closing_descriptor
from snapper.fs.pinned import PinnedDirectory

_ON_ALL_MACHINES = re.compile(
    r"(?:ld-linux.*|ld64|ld-musl.*|lib(?:c|m|dl|rt|pthread|util|resolv|anl|mvec)|linux-vdso.*)\.so[.\d]*"
    r"|lib(?:gcc_s|stdc\+\+)\.so[.\d]*"
)


@dataclass(frozen=True)
class OutsideLibrary:
    """A library outside of an environment, by its name or path, and the files that are linked with it."""

    library: str
    files: tuple[str, ...]


def outside_libraries(
    environment: PinnedDirectory, candidates: Iterable[str], paths: Collection[str]
) -> tuple[OutsideLibrary, ...]:
    """Return the libraries that files among the candidates are linked with and that are none of the `paths`.

    Only the headers of these files are read. Files that cannot be read do not count.
    """
    needed: dict[str, NeededLibraries] = {}
    for path in candidates:
        with suppress(OSError):
            libraries = _read(environment, path)
            if libraries and not all(map(_is_on_all_machines, libraries.names)):
                needed[path] = libraries
    if not needed:
        return ()
    names = frozenset(posixpath.basename(path) for path in paths)
    found: dict[str, set[str]] = defaultdict(set)
    for path, libraries in needed.items():
        for name in libraries.names:
            library = _outside(name, path, libraries, environment, paths, names)
            if library:
                found[library].add(path)
    return tuple(OutsideLibrary(library, tuple(sorted(files))) for library, files in sorted(found.items()))


def _is_on_all_machines(name: str) -> bool:
    return _ON_ALL_MACHINES.fullmatch(posixpath.basename(name)) is not None


def _read(environment: PinnedDirectory, path: str) -> NeededLibraries | None:
    """Return what a file is linked with, None if it is not in ELF format. May raise OSError."""
    with closing_descriptor(open_beneath(environment, path)) as file:
        return read_needed(lambda offset, size: os.pread(file, size, offset))


def _outside(
    name: str,
    path: str,
    needed: NeededLibraries,
    environment: PinnedDirectory,
    paths: Collection[str],
    names: Collection[str],
) -> str:
    """Return the name or path of a library that is not in the environment, "" if it is, or is on all machines.

    Python finds what a module needs if another module has loaded it, or in its own `lib`.
    """
    if _is_on_all_machines(name):
        return ""
    prefix = f"{environment.path}/"
    origin = prefix + posixpath.dirname(path)
    directories = [
        re.sub(r"\$(ORIGIN\b|\{ORIGIN\})", lambda _: origin, entry) for entry in needed.search_path
    ]
    places = [name] if "/" in name else [f"{directory}/{name}" for directory in directories if directory]
    for place in map(posixpath.normpath, places):
        if place.startswith(prefix) and place.removeprefix(prefix) in paths:
            return ""
        if place.startswith("/") and not place.startswith(prefix) and os.path.exists(place):
            return place
    return "" if name in names and not needed.is_program else name
