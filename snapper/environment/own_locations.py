"""What this user has decided about environments on this machine, or another one with the same state directory.

The file `locations/NAME` in the state directory has the directories that the user has packed the environment NAME from,
or restored it to with --prefix, and the names of kernelspecs outside of the environment that were packed with it; the
latest last. A store may state any directory, and contain kernels with any names.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from snapper.format import canonical
from snapper.fs.own_directory import own_directory
from snapper.settings.directories import state_directory

FORMAT = 1

#: How many directories of one environment are kept, and how many names.
_MOST = 32
_MOST_KERNELS = 256


@dataclass(frozen=True)
class _Locations:
    """The contents of a file. It has the name because some file systems do not distinguish upper and lower case."""

    format: int
    environment: str
    prefixes: tuple[str, ...]
    kernels: tuple[str, ...] = ()


def own_locations(environment: str) -> tuple[str, ...]:
    """Return the prefixes that this user has chosen for the environment, the latest last."""
    return _read(environment).prefixes


def locations_of_others(own: Collection[str]) -> set[str]:
    """Return the prefixes, also without links, that this user has chosen for environments other than that at `own`."""
    try:
        with own_directory(_directory()) as directory:
            names = directory.names()
    except OSError:
        return set()
    chosen = [own_locations(name) for name in names]
    others = {prefix for prefixes in chosen if not set(own) & {*prefixes} for prefix in prefixes}
    return others | {os.path.realpath(prefix) for prefix in others}


def own_kernel_names(environment: str) -> tuple[str, ...]:
    """Return the names, in lower case, of this user's kernelspecs that were packed with the environment."""
    return _read(environment).kernels


def remember_location(environment: str, prefix: Path, kernels: Iterable[str] = ()) -> None:
    """Add a prefix that this user has chosen for the environment, and names of kernelspecs that were packed with it.

    Nothing happens if the file cannot be written.
    """
    before = _read(environment)
    after = replace(
        before,
        prefixes=_with_latest(before.prefixes, [str(prefix)])[-_MOST:],
        kernels=_with_latest(before.kernels, [name.lower() for name in kernels])[-_MOST_KERNELS:],
    )
    if after != before:
        with suppress(OSError), own_directory(_directory(), make=True) as directory:
            directory.write(environment, canonical.encode(after))


def _read(environment: str) -> _Locations:
    """Return what is known of the environment, nothing if the file is missing or damaged."""
    nothing = _Locations(FORMAT, environment, ())
    try:
        with own_directory(_directory()) as directory:
            known = canonical.decode(_Locations, canonical.parse(directory.read(environment)))
    except (OSError, canonical.MalformedDocument):
        return nothing
    return known if (known.format, known.environment) == (FORMAT, environment) else nothing


def _with_latest(known: Iterable[str], latest: Sequence[str]) -> tuple[str, ...]:
    return (*(each for each in known if each not in latest), *latest)


def _directory() -> Path:
    return state_directory() / "locations"
