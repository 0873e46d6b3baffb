"""Which kernelspecs the last pack by this user on this machine copied into an environment.

A restored environment has copies of kernelspecs that do not exist anywhere else. Only those that were outside of it can
have been removed there since. The file is in the state directory, so that it is lost if the home is.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from snapper.format import canonical
from snapper.format.model import sha256_hex
from snapper.fs.own_directory import own_directory
from snapper.settings.directories import state_directory

_FORMAT = 1


@dataclass(frozen=True)
class _Carried:
    """The contents of a file, which is named by a digest of the prefix."""

    format: int
    prefix: str
    names: tuple[str, ...]


def carried_before(prefix: Path) -> frozenset[str]:
    """Return the names of the kernelspecs that were copied into the environment."""
    try:
        with own_directory(_directory()) as directory:
            known = canonical.decode(_Carried, canonical.parse(directory.read(_name(prefix))))
    except (OSError, canonical.MalformedDocument):
        return frozenset()
    is_this = (known.format, known.prefix) == (_FORMAT, os.path.realpath(prefix))
    return frozenset(known.names if is_this else ())


def remember_carried(prefix: Path, names: Collection[str]) -> None:
    """Record the names of the kernelspecs that have been copied into the environment, if the file can be written."""
    if carried_before(prefix) == frozenset(names):
        return
    data = canonical.encode(_Carried(_FORMAT, os.path.realpath(prefix), tuple(sorted(names))))
    with suppress(OSError), own_directory(_directory(), make=True) as directory:
        directory.write(_name(prefix), data)


def _directory() -> Path:
    return state_directory() / "carried-kernels"


def _name(prefix: Path) -> str:
    return sha256_hex(os.fsencode(os.path.realpath(prefix)))
