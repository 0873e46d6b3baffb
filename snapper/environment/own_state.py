"""Remember what snapper has written into the state directories of environments, for this user.

Others who may write to an environment can change what is in its state directory. Where they may create and rename, they
can also put another directory in its place that belongs to this user, such as one in a group store, with files of this
user. So neither the owner nor the content of a file says who has written it.

The file `own-state` in this user's state directory has a key for each file that was written, on a line of its own. The
key is for the inode of the environment, and for the name and the content of the file. Keys are added before the file is
written, and only appended, so commands that run at the same time lose none, and neither does a command that is killed:
the environment that is replaced and the one that replaces it are both known. The oldest are dropped in the end.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress

from snapper.errors import UsageError
from snapper.fs.directories import closing_descriptor
from snapper.fs.own_directory import own_directory
from snapper.settings.directories import state_directory

_FILE = "own-state"

#: Where the keys are once the file is larger than this, in bytes: those of about 2,000 restores.
_OLDER = f"{_FILE}.1"
_LARGEST = 256 * 1024

#: The length of a key, in hexadecimal digits.
_KEY_LENGTH = 32


def remember(environment: int, name: str, data: bytes) -> None:
    """Remember that a file with this name and content is written into the state directory of an open environment.

    Nothing happens if that cannot be recorded.
    """
    line = f"\n{_key(environment, name, data)}\n"  # also after one that was not written completely
    with (
        suppress(OSError, UsageError),
        own_directory(state_directory(), make=True) as directory,
        closing_descriptor(directory.open_to_append(_FILE, _LARGEST)) as descriptor,
    ):
        os.write(descriptor, line.encode())


def is_remembered(environment: int, name: str, data: bytes) -> bool:
    """Return whether a file with this name and content was written into the state directory of an open environment."""
    key = _key(environment, name, data).encode()
    # In this order: the first is renamed to the second when it is full.
    return any(key in _read(file) for file in (_FILE, _OLDER))


def _key(environment: int, name: str, data: bytes) -> str:
    """Return the key of a file. The number of the device is no part of it, as it can change at each mount."""
    digest = hashlib.sha256(f"{os.fstat(environment).st_ino} {name}\n".encode())
    digest.update(data)
    return digest.hexdigest()[:_KEY_LENGTH]


def _read(file: str) -> list[bytes]:
    try:
        with own_directory(state_directory()) as directory:
            return directory.read(file).splitlines()
    except (OSError, UsageError):
        return []
