"""Files in this user's state directory that remember keys, such as digests of what snapper has written.

Each key is on a line of its own. Keys are only appended, so commands that run at the same time lose none, and neither
does a command that is killed. The oldest are dropped in the end.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from snapper.errors import UsageError
from snapper.fs.directories import closing_descriptor
from snapper.fs.own_directory import own_directory
from snapper.settings.directories import state_directory

#: The length of a key, in hexadecimal digits.
_KEY_LENGTH = 32


@dataclass(frozen=True)
class KeyFile:
    """The file `name` in the state directory, which becomes `NAME.1` once it has more than `largest` bytes."""

    name: str
    largest: int

    def add(self, keys: Iterable[str]) -> None:
        """Remember keys. Nothing happens if they cannot be recorded."""
        lines = "".join(f"\n{key}\n" for key in keys)  # also after one that was not written completely
        if not lines:
            return
        with (
            suppress(OSError, UsageError),
            own_directory(state_directory(), make=True) as directory,
            closing_descriptor(directory.open_to_append(self.name, self.largest)) as descriptor,
        ):
            os.write(descriptor, lines.encode())

    def has(self, key: str) -> bool:
        """Return whether the key is remembered."""
        # In this order: the first is renamed to the second when it is full.
        return any(key.encode() in _read(name) for name in (self.name, f"{self.name}.1"))


def key_of(text: str, data: bytes = b"") -> str:
    """Return the key for a line of text and data."""
    digest = hashlib.sha256(os.fsencode(f"{text}\n"))
    digest.update(data)
    return digest.hexdigest()[:_KEY_LENGTH]


def _read(name: str) -> list[bytes]:
    try:
        with own_directory(state_directory()) as directory:
            return directory.read(name).splitlines()
    except (OSError, UsageError):
        return []
