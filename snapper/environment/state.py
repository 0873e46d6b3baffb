"""What snapper stores inside an environment, in `<prefix>/.snapper/`.

`state.json` names environment, snapshot and prefix; `snapshot` is the encoded snapshot; `index` is the index. Losing
any of them is harmless: the next pack or restore reads the files and writes them again.

They only count if the environment, the directory `.snapper` and the file itself belong to this user or root, and
nobody else may write to the last two: another user could claim that an environment is what it is not. For the same
reason, nothing is written elsewhere. If others may write to this user's environment, they decide what is in it anyway,
and it is never replaced. So all of this counts then, unless they can have moved another directory to its place.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from snapper.environment.contents import complete_exchange_at
from snapper.environment.control import is_in_shared_directory, others_may_write
from snapper.environment.index import Index, IndexHeader, InvalidIndex, decode, decode_header, encode
from snapper.errors import SnapperError
from snapper.format import canonical, manifest
from snapper.format.constraints import STATE_DIRECTORY, is_digest, is_valid_name, path_bytes
from snapper.format.manifest import EncodedSnapshot
from snapper.format.model import FORMAT, Relocation, Snapshot, sha256_hex
from snapper.format.placeholders import paths_for_loader
from snapper.fs import atomic
from snapper.fs.beneath import LISTING, open_own_path
from snapper.fs.directories import closing_descriptor
from snapper.fs.moves import Entry
from snapper.fs.ownership import is_of_this_user, is_own, others_can_write, owner_name
from snapper.fs.pinned import PinnedDirectory
from snapper.fs.small_files import read_own_entry, read_own_line

#: The file that says which environment it is.
STATE_FILE = "state.json"
_SNAPSHOT = "snapshot"
_INDEX = "index"

#: All files in the state directory.
FILES = (STATE_FILE, _SNAPSHOT, _INDEX)

#: The mode of the files, whatever the umask.
_MODE = 0o644

#: The largest files that are read, in bytes. A snapshot is a document and pages of the size of one, on separate lines.
#: An index of a million files with paths of 100 bytes has 140 MB.
_MAX_STATE = 64 * 1024
_MAX_SNAPSHOT = 3 * canonical.LARGEST_DOCUMENT
_MAX_INDEX = 1 << 30


@dataclass(frozen=True)
class EnvironmentState:
    """Which environment and snapshot the files at `prefix` were when snapper last packed or restored them.

    conda's clones have a copy of the file with their own prefix in it, but not with its digest, which `write` adds.
    0.1.0 did not write the digest.
    """

    format: int
    environment: str
    snapshot: str
    prefix: str
    prefix_digest: str = ""

    def __post_init__(self) -> None:
        if not is_valid_name(self.environment):
            raise ValueError(f"{self.environment!r} cannot be the name of an environment")
        if not is_digest(self.snapshot):
            raise ValueError(f"{self.snapshot!r} is not the id of a snapshot")


class PreviousSnapshot(NamedTuple):
    """The snapshot that an environment was last packed as or restored from, encoded and decoded."""

    encoded: EncodedSnapshot
    snapshot: Snapshot

    def placeholders(self) -> dict[str, str]:
        """Return the placeholders that the snapshot's files contain, by path."""
        return {path: group.placeholder for path, group in self._relocations() if group.mode != "link"}

    def kept_prefixes(self) -> dict[str, str]:
        """Return the prefixes that the snapshot's files contain and that could not be replaced, by path."""
        for_loader = {marked for layer in self.snapshot.layers for marked in paths_for_loader(layer)}
        return {
            path: group.placeholder
            for path, group in self._relocations()
            if group.mode == "link" and (path, group.placeholder) not in for_loader
        }

    def _relocations(self) -> Iterator[tuple[str, Relocation]]:
        for layer in self.snapshot.layers:
            for group in layer.relocations:
                for path in group.paths:
                    yield path, group


def read(prefix: Path | PinnedDirectory) -> EnvironmentState | None:
    """Return the environment's state, or None if there is none or it is for another prefix or format."""
    state = read_of_any_prefix(prefix)
    if state is None or os.path.realpath(state.prefix) != os.path.realpath(str(prefix)):
        return None
    return state


def read_of_any_prefix(prefix: Path | PinnedDirectory) -> EnvironmentState | None:
    """Return the environment's state, also if it has been moved or copied since, or None if there is none."""
    try:
        data = _read(prefix, STATE_FILE, _MAX_STATE)
        state = canonical.decode(EnvironmentState, canonical.parse(data))
    except (OSError, canonical.MalformedDocument):
        return None
    is_clone = state.prefix_digest not in ("", _digest(state.prefix))
    return state if state.format == FORMAT and not is_clone else None


def read_previous(prefix: Path | PinnedDirectory) -> PreviousSnapshot | None:
    """Return the environment's last snapshot, or None if it is missing or unreadable."""
    try:
        return _decode_previous(_read(prefix, _SNAPSHOT, _MAX_SNAPSHOT))
    except (OSError, canonical.MalformedDocument):
        return None


# As with the index, a restore that replaces an environment reads it three times.
@lru_cache(maxsize=1)
def _decode_previous(data: bytes) -> PreviousSnapshot:
    encoded = EncodedSnapshot.parse(data)
    return PreviousSnapshot(encoded, manifest.decode(encoded))


def read_index(prefix: Path | PinnedDirectory) -> Index | None:
    """Return the environment's index, or None if it is missing or unusable."""
    try:
        return decode(_read(prefix, _INDEX, _MAX_INDEX))
    except (OSError, InvalidIndex):
        return None


def read_index_header(prefix: Path | PinnedDirectory) -> IndexHeader | None:
    """Return the header of the environment's index, or None if it is missing or unusable."""
    try:
        line = _read(prefix, _INDEX, _MAX_INDEX, lambda file: read_own_line(file, canonical.LARGEST_DOCUMENT))
        return decode_header(line.partition(b"\n")[0])
    except (OSError, InvalidIndex):
        return None


def write(
    top: Path | PinnedDirectory | int,
    state: EnvironmentState,
    snapshot: EncodedSnapshot,
    header: IndexHeader,
    blocks: Iterable[bytes],
) -> None:
    """Write state, snapshot and index into an environment or a staged tree, which may be open; may raise OSError."""
    with open_environment(top) as environment:
        with state_directory(environment, make=True) as directory:
            if others_can_write(os.fstat(directory), directory):
                with suppress(OSError):  # a file system without modes
                    os.fchmod(
                        directory, 0o755
                    )  # nothing that others have put there counts: all files are replaced
        _write(environment, _INDEX, encode(header, blocks))
        _write(environment, _SNAPSHOT, snapshot.joined())
        write_state(environment, state)


def write_index(top: Path | PinnedDirectory | int, header: IndexHeader, blocks: Iterable[bytes]) -> None:
    """Write the index only; may raise OSError."""
    _write(top, _INDEX, encode(header, blocks))


def write_state(top: Path | PinnedDirectory | int, state: EnvironmentState) -> None:
    """Write `state.json` only; may raise OSError."""
    written = replace(state, prefix_digest=_digest(state.prefix))
    _write(top, STATE_FILE, canonical.encode(written))


def _digest(prefix: str) -> str:
    return sha256_hex(path_bytes(prefix))


def remove_leftovers(prefix: Path | PinnedDirectory) -> None:
    """Remove temporary files that a killed process left in the state directory."""
    with suppress(OSError), state_directory(prefix) as directory:
        atomic.remove_leftovers(directory)


@contextmanager
def state_directory(top: Path | PinnedDirectory | int, *, make: bool = False) -> Iterator[int]:
    """Open the state directory of an environment; with `make`, create it if necessary.

    Raise OSError, with EPERM if the environment or its state directory does not belong to this user or root.
    """
    with open_environment(top) as environment:
        if make:
            with suppress(FileExistsError):
                os.mkdir(STATE_DIRECTORY, 0o755, dir_fd=environment)
        with closing_descriptor(os.open(STATE_DIRECTORY, LISTING, dir_fd=environment)) as directory:
            _check_own(os.fstat(directory), STATE_DIRECTORY)
            yield directory


@contextmanager
def open_environment(top: Path | PinnedDirectory | int) -> Iterator[int]:
    """Open an environment, or a staged tree, by its path or a descriptor.

    What a killed restore has not completed at a path is completed first. Raise OSError, with EBUSY if that is
    impossible, with EPERM if it, or a link on the path, does not belong to this user or root.
    """
    if isinstance(top, Path):
        try:
            complete_exchange_at(top)
        except SnapperError as error:
            raise OSError(errno.EBUSY, error.message, str(top)) from None
        descriptor = open_own_path(str(top), LISTING)
    else:
        descriptor = os.dup(top.descriptor if isinstance(top, PinnedDirectory) else top)
    with closing_descriptor(descriptor):
        _check_own(os.fstat(descriptor), str(top))
        yield descriptor


def _check_own(status: os.stat_result, path: str) -> None:
    """Raise OSError unless this is the status of something that belongs to this user or root."""
    if not is_own(status):
        raise OSError(errno.EPERM, f"it belongs to the user {owner_name(status)}", path)


def _read(
    prefix: Path | PinnedDirectory,
    name: str,
    limit: int,
    read_part: Callable[[Entry], bytes] | None = None,
) -> bytes:
    """Return the contents of a file in the state directory, or the part that is needed.

    Raise OSError, with EPERM if others may have written it.
    """
    with open_environment(prefix) as environment, state_directory(environment) as directory:
        file = Entry(directory, name)
        if _is_exposed(prefix.path if isinstance(prefix, PinnedDirectory) else prefix, environment, file):
            raise OSError(errno.EPERM, "others may have written it", name)
        return read_part(file) if read_part else read_own_entry(file, limit)


def _is_exposed(prefix: Path, environment: int, file: Entry) -> bool:
    """Return whether others can have written the file, or moved what is open as the environment to its prefix."""
    top = os.fstat(environment)
    if is_of_this_user(top) and others_may_write(prefix, top, environment):
        return is_in_shared_directory(prefix)
    return others_may_write(prefix, os.fstat(file.directory), file.directory) or others_may_write(
        prefix, os.lstat(file.name, dir_fd=file.directory), file
    )


def _write(top: Path | PinnedDirectory | int, name: str, data: bytes) -> None:
    """Write the file atomically. It is not synced: losing it is harmless."""
    with open_environment(top) as environment, state_directory(environment, make=True) as directory:
        atomic.write_entry(Entry(directory, name), data, durable=False, mode=_MODE)
