"""Find the libraries and interpreters outside of an environment that the user's own programs and libraries need.

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
from functools import cached_property

from snapper.environment.outside_paths import Surroundings
from snapper.format.elf_needed import NeededLibraries, read_needed
from snapper.format.shebang import program_of
from snapper.fs.beneath import open_beneath
from snapper.fs.directories import closing_descriptor

_ON_ALL_MACHINES = re.compile(
    r"(?:ld-linux.*|ld64|ld-musl.*|lib(?:c|m|dl|rt|pthread|util|resolv|anl|mvec)|linux-vdso.*)\.so[.\d]*"
    r"|lib(?:gcc_s|stdc\+\+)\.so[.\d]*"
)


#: How much of a script is read to find its interpreter, in bytes.
_BEGINNING = 4096


@dataclass(frozen=True)
class OutsideLibrary:
    """A library or interpreter outside of an environment, by its name or path, and the files that need it."""

    library: str
    files: tuple[str, ...]


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

        Only the beginnings of these files are read. Files that cannot be read do not count.
        """
        found: dict[str, set[str]] = defaultdict(set)
        for path in candidates:
            with suppress(OSError):
                for library in self._needed_outside(path):
                    found[library].add(path)
        return tuple(
            OutsideLibrary(library, tuple(sorted(files))) for library, files in sorted(found.items())
        )

    def _needed_outside(self, path: str) -> list[str]:
        """Return what a file needs outside of the environment. May raise OSError."""
        with closing_descriptor(open_beneath(self.around.environment, path)) as file:
            beginning = os.pread(file, _BEGINNING, 0)
            if beginning.startswith(b"#!"):
                interpreter = program_of(beginning)
                return [interpreter] if self._is_outside(interpreter) else []
            needed = read_needed(lambda offset, size: os.pread(file, size, offset))
        if needed is None:
            return []
        found = [self._outside(name, path, needed) for name in needed.names if not _is_on_all_machines(name)]
        if not _is_on_all_machines(needed.interpreter) and self._is_outside(needed.interpreter):
            found.append(needed.interpreter)
        return [name for name in found if name]

    def _outside(self, name: str, path: str, needed: NeededLibraries) -> str:
        """Return the name or path of a library that is not in the environment, "" if it is.

        Python finds what a module needs if another module has loaded it, or in its own `lib`.
        """
        origin = f"{self.around.environment.path}/{posixpath.dirname(path)}"
        directories = [
            re.sub(r"\$(ORIGIN\b|\{ORIGIN\})", lambda _: origin, entry)
            for entry in (*needed.search_path, *self.search_path)
        ]
        places = [name] if "/" in name else [f"{directory}/{name}" for directory in directories if directory]
        for place in map(posixpath.normpath, places):
            inside = self.around.relative(place)
            if inside in self.paths:
                return ""
            if not inside and place.startswith("/") and os.path.exists(place):
                return place
        return "" if name in self._names and not needed.interpreter else name

    def _is_outside(self, interpreter: str) -> bool:
        return self.around.has(interpreter) and os.path.exists(interpreter)

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(posixpath.basename(path) for path in self.paths)


def _is_on_all_machines(name: str) -> bool:
    return _ON_ALL_MACHINES.fullmatch(posixpath.basename(name)) is not None
