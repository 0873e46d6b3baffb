"""The directories that this user has packed environments from, or restored them to with --prefix.

The file `locations/NAME` in the state directory has those of the environment NAME, the latest last. Unlike a store,
which may state any directory for an environment, it only has what the user decided on this machine, or on another one
with the same state directory.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from snapper.format import canonical
from snapper.fs.own_directory import own_directory
from snapper.settings.directories import state_directory

FORMAT = 1

#: How many directories of one environment are kept.
_MOST = 32


@dataclass(frozen=True)
class _Locations:
    """The contents of a file. It has the name because some file systems do not distinguish upper and lower case."""

    format: int
    environment: str
    prefixes: tuple[str, ...]


def own_locations(environment: str) -> tuple[str, ...]:
    """Return the prefixes that this user has chosen for the environment, the latest last."""
    try:
        with own_directory(_directory()) as directory:
            known = canonical.decode(_Locations, canonical.parse(directory.read(environment)))
    except (OSError, canonical.MalformedDocument):
        return ()
    return known.prefixes if (known.format, known.environment) == (FORMAT, environment) else ()


def remember_location(environment: str, prefix: Path) -> None:
    """Add a prefix that this user has chosen for the environment, if the file can be written."""
    before = own_locations(environment)
    if before[-1:] == (str(prefix),):
        return
    prefixes = (*(other for other in before if other != str(prefix)), str(prefix))[-_MOST:]
    data = canonical.encode(_Locations(FORMAT, environment, prefixes))
    with suppress(OSError), own_directory(_directory(), make=True) as directory:
        directory.write(environment, data)


def _directory() -> Path:
    return state_directory() / "locations"
