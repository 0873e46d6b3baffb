"""Find paths in values, commands, and scripts that lead out of an environment, and that not all machines have."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from snapper.environment.lookup import Lookup
from snapper.fs.beneath import is_possible_path
from snapper.fs.pinned import PinnedDirectory
from snapper.settings.directories import home_directory

#: Directories that every machine has, and those whose contents are a matter of the system.
_ON_ALL_MACHINES = re.compile(
    r"/(?:(?:usr/(?:local/)?)?(?:s?bin|lib\w*|lib/\w+-linux-gnu\w*|include|share|games|libexec)?)"
    r"|/(?:usr|usr/local|opt|tmp|var|var/\w+|home|root|mnt|media|srv|boot|Users|Volumes|Library|Applications|private)"
    r"|/dev(?:/shm|/(?!shm/).*)?|/(?:proc|sys|etc|run)(?:/.*)?|/(?:usr/)?s?bin/.*",
    re.S,
)

#: A path in a text, also behind an option such as -I.
_PATH = re.compile(r"""(?:\A|[\s=,;|&(<>"'`]|[\s=,"'(]-[A-Za-z])(/[^\s=,;|&()<>"'`]+)""")

#: The work of searching a text, and how many of its characters are 1 more.
_TEXT, _CHARACTERS = 5, 32


@dataclass(frozen=True)
class Surroundings:
    """What is outside of an environment, whose files may also contain other `prefixes` as its path.

    Each instance is one search: paths in what the environment's publisher wrote are only found until the `lookup` is
    exhausted.
    """

    environment: PinnedDirectory
    prefixes: Collection[str] = ()
    lookup: Lookup = field(default_factory=Lookup)

    def paths_in(self, text: str, *, anywhere: bool = False) -> Iterator[str]:
        """Yield the existing absolute paths in a text that lead out of the environment, each once.

        Those that all machines have only count if `anywhere`. The text may be a list of paths, separated by colons,
        which may contain spaces.
        """
        if not self.lookup.spend(_TEXT + len(text) // _CHARACTERS):
            return
        for path in dict.fromkeys(self._spelled_in(text)):
            counts = not self.relative(path) if anywhere else self.has(path)
            if counts and self.lookup.exists(path):
                yield path

    def has(self, path: str) -> bool:
        """Return whether an absolute path leads out of the environment, to something that not all machines have."""
        if not path.startswith("/") or not is_possible_path(path) or self.relative(path):
            return False
        normal = os.path.normpath(path)
        return not (
            _ON_ALL_MACHINES.fullmatch(normal) or f"{self._home}/".startswith(f"{self.lookup.real(normal)}/")
        )

    def has_directory(self, path: str) -> bool:
        """Return whether an absolute path leads to a directory outside of the environment."""
        return self.lookup.is_directory(path) and not self.relative(path)

    def relative(self, path: str) -> str:
        """Return the path relative to the environment, "." for this itself; "" if it leads elsewhere."""
        if not is_possible_path(path):
            return ""
        absolute = os.path.abspath(path)
        return self._inside(absolute) or self._inside(self.lookup.real(absolute))

    def _inside(self, path: str) -> str:
        for top in self._tops:
            if f"{path}/".startswith(f"{top}/"):
                return path[len(top) + 1 :] or "."
        return ""

    def _spelled_in(self, text: str) -> Iterator[str]:
        for entry in dict.fromkeys(text.split(":")):
            if self.lookup.is_exhausted:
                return
            if "/" in entry and is_possible_path(entry):
                yield from [entry] if self.lookup.exists(entry) else _PATH.findall(entry)

    @cached_property
    def _tops(self) -> tuple[str, ...]:
        own = str(self.environment.path)
        return (os.path.abspath(own), os.path.realpath(own), *self.prefixes)

    @cached_property
    def _home(self) -> str:
        return os.path.realpath(home_directory())
