"""The modes of restored files: those that were packed, with less write permission.

A snapshot decides neither that everyone may write to a file, nor that its group may: the former is never restored, and
the latter only if the umask of the user who restores allows it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

_PERMISSIONS = stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def limit_umask() -> int:
    """Have files be created with the modes that are asked for, as far as restored files may have them.

    Return the bits that they may have. Calling this again changes nothing.
    """
    withheld = os.umask(0) & stat.S_IWGRP | stat.S_IWOTH
    os.umask(withheld)
    return _PERMISSIONS & ~withheld


@contextmanager
def limited_umask() -> Iterator[int]:
    """Do the same as `limit_umask` until the context ends; yield the bits that restored files may have."""
    before = os.umask(0)
    os.umask(before)
    try:
        yield limit_umask()
    finally:
        os.umask(before)


def is_restored_mode(mode: int, packed: int) -> bool:
    """Return whether a file that was packed with one mode can have the other one after it was restored."""
    return mode | packed & _WRITABLE_BY_OTHERS == packed
