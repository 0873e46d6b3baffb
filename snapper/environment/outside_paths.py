"""Find paths in values, commands, and scripts that lead out of an environment, and that not all machines have."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

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

#: The most paths in one text that are looked at.
_MOST = 1000


@dataclass(frozen=True)
class Surroundings:
    """What is outside of an environment, whose files may also contain other `prefixes` as its path."""

    environment: PinnedDirectory
    prefixes: Collection[str] = ()

    def paths_in(self, text: str, *, anywhere: bool = False) -> Iterator[str]:
        """Yield the existing absolute paths in a text that lead out of the environment, each once.

        Those that all machines have only count if `anywhere`. The text may be a list of paths, separated by colons,
        which may contain spaces.
        """
        for path in dict.fromkeys(islice(_paths(text), _MOST)):
            counts = not self.relative(path) if anywhere else self.has(path)
            if counts and os.path.exists(path):
                yield path

    def has(self, path: str) -> bool:
        """Return whether an absolute path leads out of the environment, to something that not all machines have."""
        if not path.startswith("/") or not is_possible_path(path) or self.relative(path):
            return False
        normal, home = os.path.normpath(path), os.path.realpath(home_directory())
        return not (
            _ON_ALL_MACHINES.fullmatch(normal) or f"{home}/".startswith(f"{os.path.realpath(normal)}/")
        )

    def relative(self, path: str) -> str:
        """Return the path relative to the environment, "." for this itself; "" if it leads elsewhere."""
        for spelling in (os.path.abspath(path), os.path.realpath(path)):
            for top in self._tops:
                if f"{spelling}/".startswith(f"{top}/"):
                    return spelling[len(top) + 1 :] or "."
        return ""

    @cached_property
    def _tops(self) -> tuple[str, ...]:
        own = str(self.environment.path)
        return (os.path.abspath(own), os.path.realpath(own), *self.prefixes)


def _paths(text: str) -> Iterator[str]:
    for entry in text.split(":"):
        if is_possible_path(entry):
            is_path = entry.startswith("/") and os.path.exists(entry)
            yield from [entry] if is_path else _PATH.findall(entry)
