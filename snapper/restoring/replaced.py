"""Remove a directory that has been at a target, except for what has been written to it since it was checked.

Programs that work in an environment while it is replaced may still write to the old directory: by paths relative to
their working directory, or to a file that they have open. So nothing is removed whose status has changed since the
moment before the swap, unless it is as the check has seen it: removing one of several links to a file changes its
status, too. Files that are linked into the new tree are not looked at: what is written to them is there as well. What
is left gets a name of its own next to the target, and is named in a warning.

The name of the directory in the staging directory has the time, so that the next process can go on after a kill.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import cache, lru_cache
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from snapper.environment import state
from snapper.environment.drift import find_drift
from snapper.environment.index import FOLLOWED
from snapper.environment.installed import InstalledEnvironment
from snapper.environment.kept import environments_in, kept_name
from snapper.environment.scan import find_shared_directory
from snapper.environment.staging_lock import time_in_name
from snapper.environment.tree import WITHOUT_DATA, Tree, walk
from snapper.errors import SnapperError
from snapper.format import bytecode
from snapper.format.constraints import STATE_DIRECTORY, TRASH_DIRECTORY
from snapper.format.times import clamped
from snapper.fs.atomic import remove_leftovers
from snapper.fs.beneath import LISTING
from snapper.fs.directories import DirectoryTree, closing_descriptor, open_if_directory
from snapper.fs.handles import DirectoryHandle, directory_handle
from snapper.fs.mounts import mount_points_below
from snapper.fs.moves import Entry, move
from snapper.fs.pinned import PinnedDirectory
from snapper.fs.removal import LONG_AGO, IsKnown, check_no_mounts, remove_older

if TYPE_CHECKING:
    from snapper.process.pool import WorkerPool
    from snapper.store import Store

logger = logging.getLogger(__name__)

#: The depth at which most directories of an environment are (`lib/python3.12/site-packages/NAME`).
_DEPTH = 4

#: How many jobs of workers those directories are divided into: each is sent the inodes of all shared files.
_JOBS = 8

#: How long to wait at most for the clock of the file system to advance, in seconds.
_LONGEST_TICK = 0.05

#: What is not part of an environment, and not compared with its index: snapper's state, and conda's trash.
_UNSEEN = (STATE_DIRECTORY, TRASH_DIRECTORY)

#: What NFS renames files to that are removed while they are open.
_OPEN_ON_NFS = re.compile(r"\.nfs[0-9a-f]+\Z")


class Seen(NamedTuple):
    """What the check has seen in a directory, and the inodes of the files that the new tree had before the swap, too.

    Without a `tree`, the index in the directory tells what was there. `kept` is why nothing may be removed, if so.
    """

    tree: Tree | None = None
    shared: frozenset[int] = frozenset()
    kept: str = ""


class Kept(NamedTuple):
    """What a check returns if all of a directory is to be kept: the reason."""

    reason: str


#: Inspects an open directory that is replaced, and returns what it has seen.
Check = Callable[[int], Tree | Kept | None]


def seen_by(checked: Tree | Kept | None, shared: frozenset[int]) -> Seen:
    """Return what a check has seen in a directory that shares files of these inodes with the new one."""
    return Seen(None, shared, checked.reason) if isinstance(checked, Kept) else Seen(checked, shared)


class KeepingPlace(NamedTuple):
    """The open directory in which is kept what would be lost with an environment, and its path."""

    directory: int
    path: Path


def next_tick(directory: int) -> int:
    """Wait until the clock of a file system has advanced; return its time in nanoseconds.

    The open directory is on it, and gets the time as its mtime. The result is later than the ctime of everything
    written before, except on file systems whose clock takes longer than that. May raise OSError.
    """
    started = time.monotonic()
    first = _touch(directory)
    while True:
        is_last = (
            time.monotonic() - started >= _LONGEST_TICK
        )  # before the touch, after which this process may be interrupted
        now = _touch(directory)
        if now != first or is_last:
            return now
        time.sleep(0.001)


def _touch(directory: int) -> int:
    os.utime(directory)
    return os.fstat(directory).st_mtime_ns


def remove_unchanged(name: str, directory: int, place: KeepingPlace, target: Path, seen: Seen) -> None:
    """Remove what has a `replaced_name` in an open staging directory; keep what was written to it since.

    May raise OSError.
    """
    since = time_in_name(name)
    tree = open_if_directory(name, directory)
    if tree is None or since is None:
        return
    with closing_descriptor(tree):
        check_no_mounts(tree)
        now = _touch(directory)
        is_known = _known(tree, target, since, now, seen.tree)
        since = since if since <= now else LONG_AGO  # the clock may have been set back
        reason = ""
        try:
            remove_older(tree, since, is_known, _UNSEEN, seen.shared)
            _remove_unseen(tree)
        except PermissionError as error:
            reason = f"files of other users could not be removed (such as {error.filename!r})"
        try:
            os.rmdir(name, dir_fd=directory)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if not reason:
                left = files_left(tree, target)
                if not left:
                    raise
                count = "a file" if len(left) == 1 else f"{len(left)} files"
                reason = f"programs wrote to what was to be removed ({count}, such as {left[0]!r})"
            keep(Entry(directory, name), place, target, reason)


def _remove_unseen(tree: int) -> None:
    """Remove what no check looks at if it is what snapper has written, or has no data: others may have moved it there.

    May raise OSError.
    """
    for name in _UNSEEN:
        with suppress(OSError), closing_descriptor(os.open(name, LISTING, dir_fd=tree)) as directory:
            if name == STATE_DIRECTORY:
                remove_leftovers(directory)
                for file in state.FILES:
                    with suppress(OSError):
                        os.unlink(file, dir_fd=directory)
            remove_older(directory, LONG_AGO, lambda _, status: not _has_data(status.st_mode))
        with suppress(OSError):
            os.rmdir(name, dir_fd=tree)


def _has_data(mode: int) -> bool:
    """Return whether this can be the mode of something with data: not of a socket, a pipe, or a device."""
    return stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISDIR(mode)


def is_as_written(directory: int, target: Path) -> bool:
    """Return whether an open directory is an environment that has not changed since it was packed or restored here.

    If others may write to it, that cannot be known.
    """
    try:
        environment = InstalledEnvironment(PinnedDirectory(target, os.dup(directory)))
        drift = environment.drift()
        is_own_only = find_shared_directory(environment.directory, environment.tree) is None
    except (SnapperError, OSError):
        return False
    return is_own_only and drift is not None and not drift.paths


def is_rest_as_written(directory: int, target: Path) -> bool:
    """Return whether all that is left of an environment in an open directory is as it was packed or restored.

    If others may write to it, that cannot be known.
    """
    opened = PinnedDirectory(target, os.dup(directory))
    index = state.read_index(opened)
    if index is None:
        return False
    try:
        tree = walk(opened, lambda path: "" if path in _UNSEEN else None)
        drift = find_drift(tree, index, opened.stat)
        is_own_only = find_shared_directory(opened, tree) is None
    except (SnapperError, OSError):
        return False
    added = [path for path in drift.added if not any(row.startswith(path) for row in index.rows)]
    return is_own_only and not (added or drift.changed or drift.modified)


def keep(aside: Entry, place: KeepingPlace, target: Path, reason: str) -> None:
    """Move a directory to a name of its own in that place, and say so. May raise OSError."""
    name = kept_name(target.name)
    move(aside, Entry(place.directory, name))
    path = place.path / name
    environments = environments_in(path)
    what = f"It contains the environment {environments[0]}. " if environments else ""
    logger.warning(
        "while %s was being replaced, %s: what would be lost is kept in %s. %sCompare the two, then remove it.",
        target,
        reason,
        path,
        what,
    )


def _known(tree: int, target: Path, since: int, now: int, seen: Tree | None) -> IsKnown:
    """Return a function that tells whether something in the open directory is as it was seen, or of no value."""

    @cache
    def known() -> IsKnown:
        return _seen_in_tree(seen, since, now) if seen is not None else _seen_in_index(tree, target)

    def is_known(path: str, status: os.stat_result) -> bool:
        return not _has_data(status.st_mode) or known()(path, status)

    return is_known


def _seen_in_tree(tree: Tree, since: int, now: int) -> IsKnown:
    """Return whether something was seen that was there at the time; what was written later was not to be discarded.

    What was written in the future was there: the clock ran ahead when the environment was restored.
    """
    files = {
        file.path: file
        for file in tree.files
        if file.type == "directory" or not since <= file.ctime_ns <= now
    }

    def is_known(path: str, status: os.stat_result) -> bool:
        if _is_compiled(path, files.__contains__):
            return True
        file = files.get(path)
        if file is None or file.inode != status.st_ino:
            return False
        return file.type == "directory" or (file.size, file.mtime_ns) == (status.st_size, status.st_mtime_ns)

    return is_known


def _seen_in_index(tree: int, target: Path) -> IsKnown:
    index = state.read_index(PinnedDirectory(target, os.dup(tree)))
    rows = index.rows if index else {}
    directories = {str(parent) for path in rows for parent in PurePosixPath(path.rstrip("/")).parents}

    def is_known(path: str, status: os.stat_result) -> bool:
        if stat.S_ISDIR(status.st_mode):
            return path in directories or _is_compiled(path, rows.__contains__)
        row, is_same = rows.get(path), False
        if row is not None:
            size = status.st_size if row[1] & FOLLOWED else row[0]
            is_same = (size, row[2], row[4]) == (status.st_size, clamped(status.st_mtime_ns), status.st_ino)
        return is_same or _is_compiled(path, rows.__contains__)

    return is_known


def _is_compiled(path: str, is_seen: Callable[[str], bool]) -> bool:
    """Return whether Python compiles this from a file that was seen, or has its directory for that."""
    source = bytecode.probable_source_of(path)
    return path.endswith("__pycache__") if source is None else is_seen(source)


def files_left(tree: int, target: Path) -> list[str]:
    """Return the paths in an open directory that may have data: not those of files that are only open, on NFS."""
    found = walk(PinnedDirectory(target, os.dup(tree)))
    files = (file.path for file in found.files if file.type != "directory")
    others = (path for path, reason in found.skipped if reason != WITHOUT_DATA)
    return [path for path in (*files, *others) if not _OPEN_ON_NFS.match(path.rpartition("/")[2])]


# --- by workers -------------------------------------------------------------------------------------------


class _Job(NamedTuple):
    """Directories to empty, by their paths below `top`, of what is older than `since` or has one of the inodes."""

    top: DirectoryHandle
    since: int
    paths: list[str]
    shared: bytes


def remove_with_workers(entry: Entry, path: Path, seen: Seen, workers: WorkerPool[Store]) -> None:
    """Remove most of a directory with a `replaced_name`, which is at `path`, with the workers, which must be idle.

    They remove nothing that has changed since, and no directories: the ctime of those above would change.
    """
    since, tree = time_in_name(entry.name), open_if_directory(entry.name, entry.directory)
    if since is None or tree is None:
        return
    with closing_descriptor(tree):
        top = directory_handle(tree, path)
        paths = list(_old_directories(top, _DEPTH, since))
        shared = array("Q", seen.shared).tobytes()
        for first in range(min(_JOBS, len(paths))):
            workers.submit(_empty_directories, _Job(top, since, paths[first::_JOBS], shared), 1)
        with suppress(SnapperError), closing(workers.results()) as results:
            for _ in results:
                pass


def _empty_directories(_: object, job: _Job) -> None:
    """Empty the directories as far as that is possible, if nothing is mounted below them."""
    shared = _inodes(job.shared)
    with suppress(OSError), closing(DirectoryTree(job.top.pin(), make=False)) as directories:
        if mount_points_below(directories[""]):
            return
        for path in job.paths:
            with suppress(OSError):
                # One of those above may have been renamed in since they were listed.
                above = accumulate(path.split("/"), os.path.join)
                statuses = [os.fstat(directories[parent]) for parent in above]
                if all(_is_old(status, job.since, job.top.device) for status in statuses):
                    remove_older(directories[path], job.since, shared=shared)


def _is_old(status: os.stat_result, since: int, device: int) -> bool:
    return status.st_ctime_ns < since and status.st_dev == device


@lru_cache(maxsize=1)
def _inodes(data: bytes) -> frozenset[int]:
    """Return the inodes in an array of a job: all jobs of a removal have the same."""
    inodes = array("Q")
    inodes.frombytes(data)
    return frozenset(inodes)


def _old_directories(top: DirectoryHandle, depth: int, since: int) -> Iterator[str]:
    """Yield the paths of the directories that many levels below `top` that have not changed, nor those above them."""
    paths = [""]
    with suppress(OSError), closing(DirectoryTree(top.pin(), make=False)) as directories:
        for _ in range(depth):
            parents, paths = paths, []
            for parent in parents:
                with suppress(OSError), os.scandir(directories[parent]) as entries:
                    paths += [
                        os.path.join(parent, entry.name)
                        for entry in entries
                        if entry.is_dir(follow_symlinks=False)
                        and entry.stat(follow_symlinks=False).st_ctime_ns < since
                    ]
        yield from paths
