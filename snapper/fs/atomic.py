"""Write files atomically: under its name, a file is always complete.

Data is written to a locked temporary file beside the target, which is then renamed. The lock disappears with its
holder, so a temporary file that can be locked was left by a killed writer, and any process may remove it.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from snapper.fs.locks import is_open_file, lock, try_lock
from snapper.process.signals import defer_signals

_TEMPORARY = re.compile(r"\..{1,16}\.[0-9a-f]{16}\Z", re.S)


def atomic_write(
    target: Path,
    data: bytes | memoryview,
    move: Callable[[Path, Path], object] = Path.rename,
    *,
    durable: bool = True,
    mode: int = 0o666,
) -> None:
    """Write the file, and create its directory if necessary; leave no temporary file behind.

    `move` gives the temporary file its name. If `durable`, the data is on the disk before the file gets its name, and
    the name is on return. `mode` is that of the file, less the umask, also if it replaces another.
    """
    _make_directory(target.parent)
    remove_leftovers(target.parent)
    with defer_signals():
        temporary, descriptor = _create_temporary(target, mode)
        try:
            with open(descriptor, "wb", buffering=0) as file:
                view = memoryview(data)
                while view:
                    view = view[file.write(view) :]
                if durable:
                    os.fsync(descriptor)
                move(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    if durable:
        sync_directory(target.parent)


def remove_leftovers(directory: Path) -> int:
    """Remove the temporary files of killed writers from the directory; return how many there were."""
    with os.scandir(directory) as entries:
        names = [entry.name for entry in entries if _TEMPORARY.match(entry.name)]
    count = 0
    for name in names:
        with suppress(OSError):
            count += _remove_unlocked(directory / name)
    return count


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _create_temporary(target: Path, mode: int) -> tuple[Path, int]:
    """Return a new file beside the target, and a descriptor of it that holds a lock."""
    while True:
        temporary = target.parent / f".{target.name[:16]}.{secrets.token_hex(8)}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with suppress(OSError):  # without locks on this file system, leftovers are not removed either
            lock(descriptor)
        if is_open_file(descriptor, temporary):
            return temporary, descriptor
        os.close(descriptor)  # another process removed the file before it was locked


def _remove_unlocked(path: Path) -> bool:
    """Remove the file unless its writer is alive; return whether it was removed."""
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not try_lock(descriptor):
            return False
        path.unlink()
        return True
    finally:
        os.close(descriptor)


def _make_directory(directory: Path) -> None:
    """Create the directory and its parents; each is durable before anything is created in it."""
    if not directory.is_dir():
        _make_directory(directory.parent)
        directory.mkdir(exist_ok=True)
        sync_directory(directory.parent)
