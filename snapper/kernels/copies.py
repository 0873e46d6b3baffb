"""Copies of kernelspecs in an environment: read, replace, and remove their files, without following links."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Collection, Iterable, Mapping
from contextlib import closing, suppress

from snapper.format.model import sha256_hex
from snapper.fs.atomic import write_entry
from snapper.fs.directories import DirectoryTree
from snapper.fs.moves import Entry
from snapper.fs.pinned import PinnedDirectory
from snapper.fs.small_files import read_entry
from snapper.kernels.kernelspecs import ASSETS, CARRIED, KERNEL_JSON

#: The modes of kernelspecs, and of scripts: whoever may use the environment can start its kernels.
_READABLE, _EXECUTABLE = 0o644, 0o755

#: In place of the digest of what is not a small regular file.
_NO_DIGEST = ""


def copy_path(name: str) -> str:
    """Return the path of the copy of a kernelspec in an environment."""
    return f"{CARRIED}/{name}"


def read_digests(environment: PinnedDirectory, name: str, paths: Iterable[str]) -> dict[str, str]:
    """Return the digests of those of these files that the copy has; may raise OSError.

    They are empty for what is not a small regular file that can be read.
    """
    digests = {}
    with closing(DirectoryTree(environment, make=False)) as tree:
        for path in paths:
            directory, file = posixpath.split(f"{copy_path(name)}/{path}")
            with suppress(FileNotFoundError):
                digests[path] = _digest(Entry(tree[directory], file))
    return digests


def _digest(file: Entry) -> str:
    """Return the digest of a file in an open directory; raise FileNotFoundError."""
    try:
        return sha256_hex(read_entry(file))
    except FileNotFoundError:
        raise
    except OSError:
        return _NO_DIGEST


def write_copy(environment: PinnedDirectory, name: str, files: Mapping[str, bytes]) -> None:
    """Write files of the copy; may raise OSError."""
    with closing(DirectoryTree(environment)) as tree:
        for path, data in files.items():
            directory, file = posixpath.split(f"{copy_path(name)}/{path}")
            mode = _READABLE if file in (KERNEL_JSON, *ASSETS) else _EXECUTABLE
            write_entry(Entry(tree[directory], file), data, durable=False, mode=mode)


def remove_files(environment: PinnedDirectory, name: str, paths: Collection[str]) -> bool:
    """Remove files of the copy, and directories that are empty then; return whether nothing is left of it.

    May raise OSError.
    """
    top = copy_path(name)
    directories = {top}
    with closing(DirectoryTree(environment, make=False)) as tree:
        for path in paths:
            directory, file = posixpath.split(f"{top}/{path}")
            os.unlink(file, dir_fd=tree[directory])
            while directory != top:
                directories.add(directory)
                directory = posixpath.dirname(directory)
        for directory in sorted(directories, reverse=True):
            parent, last = posixpath.split(directory)
            with suppress(OSError):  # it is not empty
                os.rmdir(last, dir_fd=tree[parent])
        return not Entry(tree[CARRIED], name).exists()
