"""What snapper stores inside an environment, in `<prefix>/.snapper/`.

`state.json` names environment, snapshot and prefix; `snapshot` is the encoded snapshot; `index` is the index. Losing
any of them is harmless: the next pack or restore reads the files and writes them again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from snapper.environment.index import Index, IndexHeader, InvalidIndex, decode, encode
from snapper.format import canonical, manifest
from snapper.format.manifest import EncodedSnapshot
from snapper.format.model import FORMAT, STATE_DIRECTORY, Snapshot
from snapper.fs import atomic

_STATE = "state.json"
_SNAPSHOT = "snapshot"
_INDEX = "index"


@dataclass(frozen=True)
class EnvironmentState:
    """Which environment and snapshot the files at `prefix` were when snapper last packed or restored them."""

    format: int
    environment: str
    snapshot: str
    prefix: str


class PreviousSnapshot(NamedTuple):
    """The snapshot that an environment was last packed as or restored from, encoded and decoded."""

    encoded: EncodedSnapshot
    snapshot: Snapshot

    def placeholders(self) -> dict[str, str]:
        """Return the placeholders that the snapshot's files contain, by path."""
        return {
            path: relocation.placeholder
            for layer in self.snapshot.layers
            for relocation in layer.relocations
            for path in relocation.paths
        }


def read(prefix: Path) -> EnvironmentState | None:
    """Return the environment's state, or None if there is none or it is for another prefix or format."""
    try:
        data = (prefix / STATE_DIRECTORY / _STATE).read_bytes()
        state = canonical.decode(EnvironmentState, canonical.parse(data))
    except (OSError, canonical.MalformedDocument):
        return None
    if state.format != FORMAT or os.path.realpath(state.prefix) != os.path.realpath(prefix):
        return None
    return state


def read_previous(prefix: Path) -> PreviousSnapshot | None:
    """Return the environment's last snapshot, or None if it is missing or unreadable."""
    try:
        encoded = EncodedSnapshot.parse((prefix / STATE_DIRECTORY / _SNAPSHOT).read_bytes())
        return PreviousSnapshot(encoded, manifest.decode(encoded))
    except (OSError, canonical.MalformedDocument):
        return None


def read_index(prefix: Path) -> Index | None:
    """Return the environment's index, or None if it is missing or unusable."""
    try:
        return decode(index_file(prefix).read_bytes())
    except (OSError, InvalidIndex):
        return None


def write(
    top: Path,
    state: EnvironmentState,
    snapshot: EncodedSnapshot,
    header: IndexHeader,
    blocks: Iterable[bytes],
) -> None:
    """Write state, snapshot and index below `top`, which may be a staging directory; may raise OSError."""
    write_index(top, header, blocks)
    _replace(make_state_directory(top) / _SNAPSHOT, snapshot.joined())
    write_state(top, state)


def write_index(top: Path, header: IndexHeader, blocks: Iterable[bytes]) -> None:
    """Write the index only; may raise OSError."""
    make_state_directory(top)
    _replace(index_file(top), encode(header, blocks))


def write_state(top: Path, state: EnvironmentState) -> None:
    """Write `state.json` only; may raise OSError."""
    _replace(make_state_directory(top) / _STATE, canonical.encode(state))


def remove_leftovers(prefix: Path) -> None:
    """Remove temporary files that a killed process left in the state directory."""
    with suppress(OSError):
        atomic.remove_leftovers(prefix / STATE_DIRECTORY)


def index_file(prefix: Path) -> Path:
    return prefix / STATE_DIRECTORY / _INDEX


def make_state_directory(top: Path) -> Path:
    """Create the state directory if it does not exist, and return it; may raise OSError."""
    directory = top / STATE_DIRECTORY
    directory.mkdir(mode=0o755, exist_ok=True)
    return directory


def _replace(file: Path, data: bytes) -> None:
    """Write the file atomically. It is not synced: losing it is harmless."""
    atomic.atomic_write(file, data, durable=False)
