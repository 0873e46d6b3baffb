"""Find the libraries and interpreters outside of an environment that the user's own programs and libraries need.

Libraries of the C library and the compiler are on all machines that conda supports.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

from snapper.environment.dependency import OutsideLibrary
from snapper.environment.lookup import Lookup
from snapper.environment.outside_paths import Surroundings
from snapper.format.elf_needed import NeededLibraries, read_needed
from snapper.format.shebang import program_of
from snapper.fs.beneath import open_beneath
from snapper.fs.directories import closing_descriptor

_ON_ALL_MACHINES = re.compile(
    r"(?:ld-linux.*|ld64|ld-musl.*|lib(?:c|m|dl|rt|pthread|util|resolv|anl|mvec)|linux-vdso.*)\.so[.\d]*"
    r"|lib(?:gcc_s|stdc\+\+)\.so[.\d]*"
)


_ORIGIN = re.compile(r"\$(ORIGIN\b|\{ORIGIN\})")

#: The work of naming a library, and how many characters of its name are 1 more.
_NAMED, _CHARACTERS = 4, 4

#: Where programs are that are in no environment. Examples in distributions name some that no machine has.
_OF_SYSTEM = "/usr/"

#: How much of a script is read to find its interpreter, in bytes.
_BEGINNING = 4096


class _Directory(NamedTuple):
    """A directory in which libraries are looked for, and its path in the environment, "" if it is outside of it."""

    path: str
    inside: str


@dataclass(frozen=True)
class ProgramFiles:
    """The files of an environment, by path, and where its programs look for libraries.

    The `search_path` is LD_LIBRARY_PATH.
    """

    around: Surroundings
    paths: Collection[str]
    search_path: Collection[str] = ()

    def outside(self, candidates: Iterable[str]) -> tuple[OutsideLibrary, ...]:
        """Return the libraries and interpreters outside of the environment that files among the candidates need.

        Interpreters of scripts also count if they are missing, unless they would be the system's: they can be in
        another environment. Only the beginnings of these files are read. Files that cannot be read do not count.
        """
        found: dict[str, set[str]] = defaultdict(set)
        for path in candidates:
            with suppress(OSError):
                for library in self._needed_outside(path):
                    found[library].add(path)
            if self._lookup.is_exhausted:
                found[""].add(path)
                break
        return tuple(
            OutsideLibrary(library, tuple(sorted(files))) for library, files in sorted(found.items())
        )

    @property
    def _lookup(self) -> Lookup:
        return self.around.lookup

    def _needed_outside(self, path: str) -> Iterator[str]:
        """Yield what a file needs outside of the environment. May raise OSError."""
        with closing_descriptor(open_beneath(self.around.environment, path)) as file:
            beginning = os.pread(file, _BEGINNING, 0)
            if beginning.startswith(b"#!"):
                interpreter = program_of(beginning)
                is_of_system = interpreter.startswith(_OF_SYSTEM)
                if self._is_outside(interpreter) or (not is_of_system and self.around.has(interpreter)):
                    yield interpreter
                return
            needed = read_needed(partial(self._read, file))
        if needed is None:
            return
        names = [name for name in needed.names if not _is_on_all_machines(name)]
        directories = self._directories(path, needed) if names else []
        if self._lookup.spend(sum(len(directories) + _NAMED + len(name) // _CHARACTERS for name in names)):
            yield from filter(None, (self._outside(name, directories, needed) for name in names))
        if not _is_on_all_machines(needed.interpreter) and self._is_outside(needed.interpreter):
            yield needed.interpreter

    def _read(self, file: int, offset: int, size: int) -> bytes:
        return os.pread(file, size, offset) if self._lookup.spend() else b""

    def _directories(self, path: str, needed: NeededLibraries) -> list[_Directory]:
        """Return where the loader looks for what a file needs; nothing once that is too much."""
        origin = f"{self.around.environment.path}/{posixpath.dirname(path)}"
        entries = [entry for entry in dict.fromkeys((*needed.search_path, *self.search_path)) if entry]
        if not self._lookup.spend(len(entries)):
            return []
        return [self._directory(_ORIGIN.sub(lambda _: origin, entry)) for entry in entries]

    def _directory(self, path: str) -> _Directory:
        normal = posixpath.normpath(path)
        return _Directory(normal, self.around.relative(normal))

    def _outside(self, name: str, directories: Iterable[_Directory], needed: NeededLibraries) -> str:
        """Return the name or path of a library that is not in the environment, "" if it is.

        Python finds what a module needs if another module has loaded it, or in its own `lib`.
        """
        if "/" in name:
            path, name_there = posixpath.split(posixpath.normpath(name))
            directories = [self._directory(path)] if path else ()
        else:
            name_there = name
        for directory in directories:
            place = self._place(directory, name_there)
            if place is not None:
                return place
        return "" if name in self._names and not needed.interpreter else name

    def _place(self, directory: _Directory, name: str) -> str | None:
        """Return the path of a library in a directory, "" if it is in the environment, None if there is none."""
        path = posixpath.join(directory.path, name)
        if directory.inside:
            inside = name if directory.inside == "." else f"{directory.inside}/{name}"
            return "" if inside in self.paths else None
        if not self._lookup.exists(path):
            return None
        inside = self.around.relative(path)
        return "" if inside in self.paths else None if inside else path

    def _is_outside(self, interpreter: str) -> bool:
        return self.around.has(interpreter) and self._lookup.exists(interpreter)

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(posixpath.basename(path) for path in self.paths)


def _is_on_all_machines(name: str) -> bool:
    return _ON_ALL_MACHINES.fullmatch(posixpath.basename(name)) is not None
