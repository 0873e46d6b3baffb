"""Which kernelspecs the last pack by this user on this machine copied into an environment, and from where.

A restored environment has copies of kernelspecs that do not exist anywhere else. Only those that were outside of it can
have been removed there since, if the directory they were in is still there. The file is in the home directory, so that
it is lost together with the user's kernelspecs.

What this user has ever written into copies is remembered where it is not lost: restores bring back earlier copies.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from snapper.format import canonical
from snapper.format.model import sha256_hex
from snapper.fs.own_directory import own_directory
from snapper.settings.directories import home_state_directory
from snapper.settings.key_files import KeyFile, key_of

_FORMAT = 1

#: The keys of about 2,000 files.
_WRITTEN = KeyFile("carried-files", 64 * 1024)


@dataclass(frozen=True)
class Original:
    """A kernelspec that was copied: its name, and the directory that it was in, with the inode of that.

    `files` are the digests of the files that were written, by their paths in the copy.
    """

    name: str
    directory: str
    inode: int
    files: dict[str, str]

    @classmethod
    def at(cls, path: Path, files: Mapping[str, bytes]) -> Original:
        """Return the original at a path whose copy has these files; may raise OSError."""
        digests = {name: sha256_hex(data) for name, data in files.items()}
        return cls(path.name, str(path.parent), os.stat(path.parent).st_ino, digests)

    def is_gone(self, searched: Collection[str]) -> bool:
        """Return whether it was removed from its directory, or has changed there.

        It is known that it was not found in the `searched` directories, whose paths are without links. Another
        directory can be in place of the one that it was in, for example if the home directory was lost.
        """
        try:
            if os.stat(self.directory).st_ino != self.inode:
                return False
            names = os.listdir(self.directory)
        except OSError:
            return False
        return self.name not in names or os.path.realpath(self.directory) in searched


@dataclass(frozen=True)
class _Carried:
    """The contents of a file, which is named by a digest of the prefix."""

    format: int
    prefix: str
    originals: tuple[Original, ...]


def carried_before(prefix: Path) -> tuple[Original, ...]:
    """Return the kernelspecs that were copied into the environment."""
    try:
        with own_directory(_directory()) as directory:
            known = canonical.decode(_Carried, canonical.parse(directory.read(_name(prefix))))
    except (OSError, canonical.MalformedDocument):
        return ()
    is_this = (known.format, known.prefix) == (_FORMAT, os.path.realpath(prefix))
    return known.originals if is_this else ()


def remember_carried(prefix: Path, originals: Collection[Original]) -> None:
    """Record the kernelspecs that have been copied into the environment, if the file can be written."""
    data = canonical.encode(_Carried(_FORMAT, os.path.realpath(prefix), tuple(originals)))
    with suppress(OSError), own_directory(_directory(), make=True) as directory:
        directory.write(_name(prefix), data)


def remember_written(name: str, digests: Mapping[str, str]) -> None:
    """Remember the digests of files that are written into a copy of a kernelspec, by their paths there."""
    _WRITTEN.add(_written_key(name, path, digest) for path, digest in digests.items())


def was_written(name: str, path: str, digest: str) -> bool:
    """Return whether this user has written a file with this digest to this path in a copy of such a kernelspec."""
    return bool(digest) and _WRITTEN.has(_written_key(name, path, digest))


def _written_key(name: str, path: str, digest: str) -> str:
    return key_of(f"{digest} {name}/{path}")


def _directory() -> Path:
    return home_state_directory() / "carried-kernels"


def _name(prefix: Path) -> str:
    return sha256_hex(os.fsencode(os.path.realpath(prefix)))
