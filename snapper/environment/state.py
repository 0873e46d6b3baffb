"""What snapper keeps inside an environment, in `<prefix>/.snapper/`: which snapshot it is, and how files looked.

`state.json` names environment, snapshot and prefix; `snapshot` is the snapshot; `index` is the index. All can
be lost without harm: what they say is then found out again.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from snapper.environment import conda
from snapper.environment.index import Index, IndexHeader, InvalidIndex, decode, encode
from snapper.environment.tree import Tree
from snapper.format import bytecode, canonical, manifest
from snapper.format.manifest import EncodedSnapshot
from snapper.format.model import FORMAT, STATE_DIRECTORY, Snapshot
from snapper.fs.atomic import atomic_write, remove_leftovers

_STATE = "state.json"
_SNAPSHOT = "snapshot"
_INDEX = "index"

#: How long to wait at most until the file system's clock has gone on, in seconds.
_LONGEST_TICK = 0.05


@dataclass(frozen=True)
class EnvironmentState:
    """What the environment at `prefix` was when snapper last packed or restored it."""

    format: int
    environment: str
    snapshot: str
    prefix: str


def read(prefix: Path) -> EnvironmentState | None:
    """The environment's state; None where it has none, or one that belongs to another place or format."""
    try:
        data = (prefix / STATE_DIRECTORY / _STATE).read_bytes()
        found = canonical.decode(EnvironmentState, canonical.parse(data))
    except (OSError, canonical.MalformedDocument):
        return None
    return (
        found
        if found.format == FORMAT and os.path.realpath(found.prefix) == os.path.realpath(prefix)
        else None
    )


def read_snapshot(prefix: Path) -> Snapshot | None:
    """The snapshot that the environment was last packed as or restored from, if it is kept there."""
    last = read_last(prefix)
    return last[1] if last else None


def read_last(prefix: Path) -> tuple[EncodedSnapshot, Snapshot] | None:
    """The same with its bytes."""
    try:
        found = EncodedSnapshot.parse((prefix / STATE_DIRECTORY / _SNAPSHOT).read_bytes())
        return found, manifest.decode(found)
    except (OSError, canonical.MalformedDocument):
        return None


def read_index(prefix: Path) -> Index | None:
    """The environment's index; None where it has none that can be used."""
    try:
        return decode((prefix / STATE_DIRECTORY / _INDEX).read_bytes())
    except (OSError, InvalidIndex):
        return None


def write(
    top: Path,
    state: EnvironmentState,
    snapshot: EncodedSnapshot,
    moment: IndexHeader,
    blocks: Iterable[bytes],
) -> None:
    """Keeps the state of the environment at `top`, which need not be the state's prefix yet; may raise OSError."""
    directory = _directory(top)
    write_index(top, moment, blocks)
    _replace(directory / _SNAPSHOT, snapshot.joined())
    _replace(directory / _STATE, canonical.encode(state))


def write_index(top: Path, moment: IndexHeader, blocks: Iterable[bytes]) -> None:
    """Keeps another index of the same snapshot; may raise OSError."""
    _replace(_directory(top) / _INDEX, encode(moment, blocks))


def rename(prefix: Path, state: EnvironmentState) -> None:
    """Keeps another state of the same snapshot; may raise OSError."""
    _replace(prefix / STATE_DIRECTORY / _STATE, canonical.encode(state))


def sweep(prefix: Path) -> None:
    """Clears away what a killed process was about to keep."""
    with suppress(OSError):
        remove_leftovers(prefix / STATE_DIRECTORY)


def now(top: Path) -> int:
    """The time by the clock that files at `top` get theirs from, in nanoseconds; may raise OSError."""
    return _tick(top, -1)


def later(top: Path) -> int:
    """The same when that clock has gone on, but for slow ones: later than what has just been written."""
    return _tick(top, now(top))


def _tick(top: Path, after: int) -> int:
    directory = _directory(top)
    remove_leftovers(directory)
    probe = directory / f".now.{secrets.token_hex(8)}"
    began = time.monotonic()
    try:
        while True:
            probe.touch()
            found = probe.stat().st_ctime_ns
            probe.unlink()
            if found > after or time.monotonic() - began > _LONGEST_TICK:
                return found
            time.sleep(0.001)
    finally:
        with suppress(OSError):
            probe.parent.rmdir()  # unless anything is kept there


def is_touched(prefix: Path) -> bool:
    """Whether names have come or gone in the directories that every package has some in, since the index was taken.

    True also where that is not known. It takes no time, where `drift` goes through all files.
    """
    try:
        with (prefix / STATE_DIRECTORY / _INDEX).open("rb") as file:
            taken = json.loads(file.readline())["taken"]
        places = [
            *(prefix / name for name in (conda.META, "bin", "lib", "include", "share", "etc")),
            *prefix.glob("lib/python*/site-packages"),
        ]
        return any(place.stat().st_mtime_ns >= taken for place in places if place.exists())
    except (OSError, ValueError, TypeError, KeyError):
        return True


@dataclass(frozen=True)
class Drift:
    """The paths that are not as the index has them, each in order; modules that Python compiled of others are left
    out.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]

    @property
    def paths(self) -> list[str]:
        return sorted((*self.added, *self.removed, *self.changed))


def drift(prefix: Path, tree: Tree) -> list[str] | None:
    """The paths that are not as the index has them, as `drifted` has it; None where there is no index."""
    found = drifted(prefix, tree)
    return found.paths if found else None


def drifted(prefix: Path, tree: Tree) -> Drift | None:
    """In which way the environment is not as the index has it; None where there is none of its snapshot."""
    index, found = read_index(prefix), read(prefix)
    if index is None or found is None or index.moment.snapshot != found.snapshot:
        return None
    added: list[str] = []
    changed: list[str] = []
    there: set[str] = set()
    for file in tree.files:
        if file.type != "directory":
            there.add(file.path)
            entry = index.entries.get(file.path)
            if entry is None:
                added.append(file.path)
            elif entry[:3] != (file.size, file.mode, file.mtime_ns):
                changed.append(file.path)
    removed = (path for path in index.entries if path not in there and not path.endswith("/"))

    def named(paths: Iterable[str]) -> tuple[str, ...]:
        sources = ((path, bytecode.cached_for(path)) for path in paths)
        return tuple(
            sorted(path for path, source in sources if not (source in there or source in index.entries))
        )

    return Drift(named(added), named(removed), named(changed))


def _directory(top: Path) -> Path:
    directory = top / STATE_DIRECTORY
    directory.mkdir(mode=0o755, exist_ok=True)
    return directory


def _replace(file: Path, data: bytes) -> None:
    """In one step. It need not be durable: what is lost is found out again."""
    atomic_write(file, data, durable=False)
