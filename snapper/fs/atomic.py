"""Files that are written aside: what has its name is whole, and on the disk if that is wanted.

A file that is being written is locked, and the lock dies with its writer. So what stands aside and can be locked
was left by one that was killed, and is removed by whoever comes by. NFS shares such locks between machines.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from snapper.process.signals import defer_signals

_ASIDE = re.compile(r"\..{1,16}\.[0-9a-f]{16}\Z", re.S)


def atomic_write(
    target: Path,
    data: bytes | memoryview,
    place: Callable[[Path, Path], object] = Path.rename,
    *,
    durable: bool = True,
) -> None:
    """Writes aside and renames by `place`; leaves nothing aside. Where it is to be `durable`, the bytes are before
    they have their name, and the name is at the end.
    """
    _make_directory(target.parent)
    remove_leftovers(target.parent)
    with defer_signals():
        aside, descriptor = _new(target)
        try:
            with open(descriptor, "wb", buffering=0) as file:
                view = memoryview(data)
                while view:
                    view = view[file.write(view) :]
                if durable:
                    os.fsync(descriptor)
                place(aside, target)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
    if durable:
        sync_directory(target.parent)


def remove_leftovers(directory: Path) -> int:
    """Removes what killed writers left in the directory; how many files that were."""
    count = 0
    with os.scandir(directory) as entries:
        found = [each.name for each in entries if _ASIDE.match(each.name)]
    for name in found:
        with suppress(OSError):
            count += _swept(directory / name)
    return count


def sync_directory(directory: Path) -> None:
    """Makes the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _new(target: Path) -> tuple[Path, int]:
    """A new file beside the target, and its descriptor, which holds its lock."""
    while True:
        aside = target.parent / f".{target.name[:16]}.{secrets.token_hex(8)}"
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with suppress(OSError):  # a file system without locks: then nothing can be swept either
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):  # swept between the two
            if os.path.samestat(os.fstat(descriptor), aside.lstat()):
                return aside, descriptor
        os.close(descriptor)


def _swept(path: Path) -> bool:
    """Removes the file; raises OSError where it cannot be locked, because somebody writes it."""
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
        return True
    finally:
        os.close(descriptor)


def _make_directory(directory: Path) -> None:
    """Makes the directory and those above it, each durable before anything is in it."""
    if not directory.is_dir():
        _make_directory(directory.parent)
        directory.mkdir(exist_ok=True)
        sync_directory(directory.parent)
