"""Private temporary directories that outlive no command: the next one removes what a killed command left.

A temporary directory is inside of one that only this user can enter, and its name is random. Others cannot get at it,
even if they may write to the directory for temporary files: see `private`.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from snapper.fs.directories import closing_descriptor, opened_directory
from snapper.fs.locks import is_locked, wait_for_lock
from snapper.fs.moves import Entry
from snapper.fs.private import create_private_directory, is_made_by_snapper, open_private_directory, sign
from snapper.fs.removal import remove_contents
from snapper.process.signals import defer_signals

_PREFIX = "snapper-scratch-"
_LOCK = "lock"

#: A directory younger than this may not have its lock, or a signature in it, yet, in seconds.
_LOCK_GRACE = 60


@contextmanager
def temporary_directory() -> Iterator[Path]:
    """Yield an empty directory below that for temporary files (`TMPDIR`); remove it at the end. May raise OSError."""
    path = Path(tempfile.gettempdir())
    with opened_directory(path) as top:
        _remove_leftovers(top)
        name, descriptor = create_private_directory(_PREFIX, top)
        with closing_descriptor(descriptor) as holder, _locked(holder):
            try:
                directory, opened = create_private_directory("", holder)
                os.close(opened)
                yield path / name / directory
            finally:
                with defer_signals():
                    remove_contents(holder)
                    os.rmdir(name, dir_fd=top)


@contextmanager
def _locked(holder: int) -> Iterator[None]:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    held = wait_for_lock(Entry(holder, _LOCK), os.open(_LOCK, flags, 0o600, dir_fd=holder))
    try:
        sign(held.descriptor)
        yield
    finally:
        held.release()


def _remove_leftovers(top: int) -> None:
    """Remove this user's directories whose commands have ended."""
    for name in os.listdir(top):
        if name.startswith(_PREFIX):
            with suppress(OSError), closing_descriptor(open_private_directory(name, top)) as holder:
                if _is_leftover(holder):
                    remove_contents(holder)
                    os.rmdir(name, dir_fd=top)


def _is_leftover(holder: int) -> bool:
    if not is_made_by_snapper(holder, _LOCK):
        return False
    with suppress(FileNotFoundError):
        if is_locked(_LOCK, holder):
            return False
    has_been_locked = len(os.listdir(holder)) > 1
    return has_been_locked or time.time() - os.fstat(holder).st_mtime > _LOCK_GRACE
