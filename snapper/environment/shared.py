"""Remember which directories in shared ones are environments of this user.

Where others may create and rename, they can move a directory there that belongs to this user and that they may write
to, such as one in a group store, and files of this user as well. So what such a directory contains says nothing about
it. The file `shared-environments` in the state directory has a key for each prefix in a shared directory at which this
user has packed or restored an environment, followed by one for the inode of that directory; the latest are last.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from snapper.environment.control import is_in_shared_directory
from snapper.errors import UsageError
from snapper.fs.own_directory import own_directory
from snapper.fs.ownership import others_can_write
from snapper.settings.directories import state_directory

_FILE = "shared-environments"
_KEY_SIZE = 16
_MOST = 1000


def may_be_of_others(status: os.stat_result, prefix: Path) -> bool:
    """Return whether others may have put a directory of this user there, and filled it, although this user owns it.

    `status` is that of the directory.
    """
    if not (others_can_write(status) and is_in_shared_directory(prefix)):
        return False
    return _read().get(_key(os.path.realpath(prefix))) != _key(status.st_ino)


def remember(status: os.stat_result, prefix: Path) -> None:
    """Remember that the directory is an environment of this user at the prefix, also if others may write to it later.

    Nothing happens if the file cannot be written.
    """
    if not is_in_shared_directory(prefix):
        return
    known = _read()
    path, inode = _key(os.path.realpath(prefix)), _key(status.st_ino)
    if known.pop(path, b"") != inode:
        latest = [*known.items(), (path, inode)][-_MOST:]
        with suppress(OSError, UsageError), own_directory(state_directory(), make=True) as directory:
            directory.write(_FILE, b"".join(key for keys in latest for key in keys))


def _key(value: str | int) -> bytes:
    """Return the key of a path or of an inode. The number of the device can change at each mount."""
    return hashlib.sha256(os.fsencode(str(value))).digest()[:_KEY_SIZE]


def _read() -> dict[bytes, bytes]:
    """Return the keys of inodes by those of paths."""
    try:
        with own_directory(state_directory()) as directory:
            data = directory.read(_FILE)
    except (OSError, UsageError):
        return {}
    keys = [data[start : start + _KEY_SIZE] for start in range(0, len(data), _KEY_SIZE)]
    return dict(zip(keys[::2], keys[1::2], strict=False))
