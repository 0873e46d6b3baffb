"""Exchange what is in the directory of an environment where the directory itself cannot be exchanged.

That is so where a file system is mounted at the directory, where it is part of a container image, and where nothing can
be created or renamed next to it. The new environment is built in a staging directory inside (`.swap.snapper`). Then
each entry of the old one is moved to `old` there, and each of the new one to its place. How far this is can be told
from the name of the directory that the new one was built in:

| name | state |
|---|---|
| `tree…` | the old environment is in place |
| `leaving_TIME` | entries of the old one are moved to `old` |
| `entering_TIME` | all of these are in `old`, and entries of the new one are moved to their place |

Once it has begun, any command that looks at the environment completes what a killed process has left (`complete`). If
something cannot be moved, everything is moved back. TIME is the time of the file system before the old environment was
checked: what has not changed since may be removed.

Directories that are part of a container image cannot be moved either, and those that cover one on fuse-overlayfs must
not be. What may be removed of them is removed at once,
and the rest is moved. From then on, nothing can be moved back, but the new environment is complete.

Nothing is synced: like that of other restores, the result depends on the file system after a power failure.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from snapper.environment.foreign import is_foreign
from snapper.environment.staging_lock import (
    CREATED,
    ENTERING,
    INSIDE,
    LEAVING,
    OLD,
    lock_staging,
    replaced_name,
)
from snapper.errors import FileOperationFailed
from snapper.format.constraints import CONDA_META, STATE_DIRECTORY, TRASH_DIRECTORY
from snapper.fs.beneath import LISTING, open_own_path
from snapper.fs.directories import closing_descriptor, open_if_directory, set_mode
from snapper.fs.mounts import uncovers_when_moved
from snapper.fs.moves import Entry, move
from snapper.fs.ownership import is_own
from snapper.fs.placement import move_anyway, put_in_place, set_aside, writable
from snapper.fs.private import open_private_directory
from snapper.fs.removal import remove_older
from snapper.process.signals import defer_signals

logger = logging.getLogger(__name__)

_PHASE = re.compile(rf"({LEAVING}|{ENTERING})_([0-9]+)\Z")

#: What no check looks at, so that nothing tells whether it may be removed.
_UNSEEN = (STATE_DIRECTORY, TRASH_DIRECTORY)


_ADVICE = "Make sure that there is space, and that you may move everything in it, then run this again."


class _Phase(NamedTuple):
    """What the name of the new tree says of an exchange."""

    name: str
    is_leaving: bool
    since: int


def exchange_contents(environment: int, staging: int, tree: str, since: int) -> str:
    """Exchange what is in an open environment with the tree of that name in its open staging directory.

    Return the name that the old one has there now. If it fails, everything is moved back if possible; else a later
    `complete` goes on. May raise OSError.
    """
    with closing_descriptor(os.open(tree, LISTING, dir_fd=staging)) as new:
        inodes = {name: os.lstat(name, dir_fd=new).st_ino for name in os.listdir(new)}
    with defer_signals():
        exchange, mode = _Exchange(environment, staging), stat.S_IMODE(os.fstat(environment).st_mode)
        os.mkdir(OLD, 0o700, dir_fd=staging)  # while nothing has happened: the disk may be full
        try:
            move(Entry(staging, tree), Entry(staging, f"{LEAVING}_{since}"))
            return exchange.complete()
        except OSError:
            with suppress(OSError):
                exchange.undo(inodes, tree)
                set_mode(environment, mode)
            with suppress(OSError):
                os.rmdir(OLD, dir_fd=staging)
            raise


def complete(environment: int, staging: int) -> None:
    """Complete the exchange that a killed process has begun in an open environment, if one has. May raise OSError."""
    with defer_signals():
        _Exchange(environment, staging).complete()


def unfinished(staging: int) -> tuple[str, ...]:
    """Return the names in an open staging directory that are needed to complete an exchange. May raise OSError."""
    phase = _find_phase(staging)
    return (phase.name, OLD) if phase else ()


def is_unfinished(path: Path) -> bool:
    """Return whether the staging directory at a path is needed to complete an exchange."""
    with suppress(OSError):
        return any(map(_PHASE.match, os.listdir(path)))
    return False


def complete_exchange_at(prefix: Path) -> None:
    """Complete the exchange that a killed process has begun in the environment at a prefix, if it is of this user.

    Raise TargetLocked if a process is at it, and FileOperationFailed if it cannot be completed.
    """
    path = prefix / INSIDE
    if not os.path.lexists(path):
        return
    try:
        environment = open_own_path(str(prefix), LISTING)
    except OSError:
        return
    with closing_descriptor(environment):
        if not _has_begun(environment):
            return
        staging = lock_staging(environment, path, prefix)
        try:
            complete(environment, staging.directory)
            logger.info("completed the interrupted restore to %s", prefix)
        except OSError as error:
            reason = f"an interrupted restore to it cannot be completed: {error.strerror}"
            raise FileOperationFailed(str(prefix), reason, _ADVICE) from None
        finally:
            staging.release()


def _has_begun(environment: int) -> bool:
    """Return whether an exchange by this user has begun in an open environment."""
    try:
        with closing_descriptor(open_private_directory(INSIDE, environment)) as staging:
            return is_own(os.fstat(environment)) and _find_phase(staging) is not None
    except OSError:
        return False


def _find_phase(staging: int) -> _Phase | None:
    """Return how far an exchange is; None if there is none."""
    for match in filter(None, map(_PHASE.match, os.listdir(staging))):
        return _Phase(match[0], match[1] == LEAVING, int(match[2]))
    return None


class _Exchange:
    """An exchange in an open environment, with its open staging directory."""

    def __init__(self, environment: int, staging: int) -> None:
        self._environment = environment
        self._staging = staging
        self._aside = Entry(staging, CREATED)
        self._is_final = False
        self._uncovers = uncovers_when_moved(environment)

    def complete(self) -> str:
        """Move what is still to be moved; return the name of the old environment in the staging directory."""
        phase = _find_phase(self._staging)
        if phase is None:
            return ""
        with suppress(FileExistsError):  # it is missing only if `undo` was killed
            os.mkdir(OLD, 0o700, dir_fd=self._staging)
        with self._opened(
            phase.name
        ) as new:  # others cannot create anything any more, unless the directory is root's
            set_mode(self._environment, stat.S_IMODE(os.fstat(new).st_mode))
        if phase.is_leaving:
            self._take_out(phase.since)
            phase = self._enter(phase, ENTERING)
        with self._opened(phase.name) as new:
            for name in sorted(os.listdir(new), key=lambda name: name != CONDA_META):
                put_in_place(Entry(new, name), Entry(self._environment, name), self._aside)
        replaced = replaced_name(phase.since)
        move(Entry(self._staging, OLD), Entry(self._staging, replaced))
        os.rmdir(phase.name, dir_fd=self._staging)
        return replaced

    def undo(self, inodes: dict[str, int], tree: str) -> None:
        """Move everything back, unless something has been removed; `inodes` are those of what is in the tree.

        May raise OSError.
        """
        phase = _find_phase(self._staging)
        if phase is None or self._is_final:
            return
        if not phase.is_leaving:
            tree = replaced_name(phase.since)  # programs may have written to what was in place
            with self._opened(phase.name) as new:
                for name, inode in inodes.items():
                    with suppress(FileNotFoundError):
                        if os.lstat(name, dir_fd=self._environment).st_ino == inode:
                            move_anyway(Entry(self._environment, name), Entry(new, name))
            phase = self._enter(phase, LEAVING)
        with self._opened(OLD) as old:
            for name in os.listdir(old):
                put_in_place(Entry(old, name), Entry(self._environment, name), self._aside)
        os.rmdir(OLD, dir_fd=self._staging)
        move(Entry(self._staging, phase.name), Entry(self._staging, tree))

    def _enter(self, phase: _Phase, name: str) -> _Phase:
        """Enter another phase."""
        entered = _Phase(f"{name}_{phase.since}", name == LEAVING, phase.since)
        move(Entry(self._staging, phase.name), Entry(self._staging, entered.name))
        return entered

    @contextmanager
    def _opened(self, name: str) -> Iterator[int]:
        with closing_descriptor(os.open(name, LISTING, dir_fd=self._staging)) as directory:
            yield directory

    # --- what was there ---------------------------------------------------------------------------------------

    def _take_out(self, since: int) -> None:
        """Move what is part of the environment to `old`; what makes it one comes last."""
        names = [name for name in os.listdir(self._environment) if name != INSIDE and not is_foreign(name)]
        with self._opened(OLD) as old:
            for name in sorted(names, key=lambda name: name == CONDA_META):
                source, destination = Entry(self._environment, name), Entry(old, name)
                try:
                    self._move_out(source, destination)
                except FileNotFoundError:  # programs remove files at any time
                    continue
                except OSError as error:
                    if error.errno == errno.EXDEV and name not in _UNSEEN:
                        self._remove_in_image(source, since)
                    self._take(source, destination)

    def _move_out(self, source: Entry, destination: Entry) -> None:
        """Move an entry; raise OSError (EXDEV) for a directory if that would show what an image has in its place."""
        if self._uncovers and stat.S_ISDIR(os.lstat(source.name, dir_fd=source.directory).st_mode):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), source.name)
        move_anyway(source, destination)

    def _remove_in_image(self, entry: Entry, since: int) -> None:
        """Remove what has not changed since that time in a directory of a container image."""
        directory = open_if_directory(entry.name, entry.directory)
        if directory is not None:
            with closing_descriptor(directory):
                self._is_final = True
                remove_older(directory, since)

    def _take(self, source: Entry, destination: Entry) -> None:
        """Move an entry, or what is in it if that is impossible; what has no free name is set aside."""
        try:
            self._move_out(source, destination)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EEXIST):
                raise
            if not self._merge(source, destination):
                set_aside(source, self._aside)

    def _merge(self, source: Entry, destination: Entry) -> bool:
        """Move what is in a directory to another one, which may exist; return False if one of them is none."""
        inner = open_if_directory(source.name, source.directory)
        if inner is None:
            return False
        with closing_descriptor(inner):
            with suppress(FileExistsError):
                os.mkdir(destination.name, 0o700, dir_fd=destination.directory)
            outer = open_if_directory(destination.name, destination.directory)
            if outer is None:
                return False
            with closing_descriptor(outer):
                for name in os.listdir(inner):
                    self._take(Entry(inner, name), Entry(outer, name))
                with writable(source.directory):
                    os.rmdir(source.name, dir_fd=source.directory)
        return True
