"""What snapper keeps inside an environment, in `<prefix>/.snapper/`: which snapshot it is, and how files looked.

`state.json` names environment, snapshot and prefix; `snapshot.json` is the snapshot; `index.jsonl` has lines
that are each a list of `[path, size, mode, mtime_ns, ctime_ns, inode]`, directories left out. All can be lost
without harm: what they say is then found out again.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from snapper import canonical
from snapper.model import FORMAT, STATE_DIRECTORY, Snapshot
from snapper.tree import Tree

_STATE = "state.json"
_SNAPSHOT = "snapshot.json"
_INDEX = "index.jsonl"


@dataclass(frozen=True)
class State:
    """What the environment at `prefix` was when snapper last packed or restored it."""

    format: int
    environment: str
    snapshot: str
    prefix: str


def read(prefix: Path) -> State | None:
    """The environment's state; None where it has none, or one that belongs to another place or format."""
    try:
        data = (prefix / STATE_DIRECTORY / _STATE).read_bytes()
        found = canonical.decode(State, canonical.parse(data))
    except (OSError, canonical.Malformed):
        return None
    return (
        found
        if found.format == FORMAT and os.path.realpath(found.prefix) == os.path.realpath(prefix)
        else None
    )


def read_snapshot(prefix: Path) -> Snapshot | None:
    """The snapshot that the environment was last packed as or restored from, if it is kept there."""
    try:
        data = (prefix / STATE_DIRECTORY / _SNAPSHOT).read_bytes()
        return canonical.decode(Snapshot, canonical.parse(data))
    except (OSError, canonical.Malformed):
        return None


def write(top: Path, state: State, snapshot: bytes, index: Iterable[str]) -> None:
    """Keeps the state of the environment at `top`, which need not be the state's prefix yet; may raise OSError."""
    directory = top / STATE_DIRECTORY
    directory.mkdir(mode=0o755, exist_ok=True)
    _replace(directory / _INDEX, "\n".join(index).encode())
    _replace(directory / _SNAPSHOT, snapshot)
    _replace(directory / _STATE, canonical.encode(state))


def index_of(tree: Tree) -> str:
    """The line of an index for what a walk has just seen."""
    return json.dumps(
        [
            (file.path, file.size, file.mode, file.mtime_ns, file.ctime_ns, file.inode)
            for file in tree.files
            if file.type != "directory"
        ]
    )


@dataclass(frozen=True)
class Drift:
    """The paths that are not as the index has them, each in order; compiled modules are left out."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]

    @property
    def paths(self) -> list[str]:
        return sorted((*self.added, *self.removed, *self.changed))


def drift(prefix: Path, tree: Tree) -> list[str] | None:
    """The paths that are not as the index has them, compiled modules aside; None where there is no index."""
    found = drifted(prefix, tree)
    return found.paths if found else None


def drifted(prefix: Path, tree: Tree) -> Drift | None:
    """In which way the environment is not as the index has it; None where there is no index."""
    try:
        lines = (prefix / STATE_DIRECTORY / _INDEX).read_text().splitlines()
        known = {str(path): stats for line in lines for path, *stats in json.loads(line)}
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    there = {
        file.path: [file.size, file.mode, file.mtime_ns] for file in tree.files if file.type != "directory"
    }
    changed = [path for path, stats in there.items() if path in known and known[path][:3] != stats]
    return Drift(
        _named(path for path in there if path not in known),
        _named(path for path in known if path not in there),
        _named(changed),
    )


def _named(paths: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(path for path in paths if not path.endswith(".pyc")))


def _replace(file: Path, data: bytes) -> None:
    aside = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        aside.write_bytes(data)
        aside.rename(file)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
