"""Files of packages that are links into a package cache, as conda's `always_softlink` and uv's symlink mode make them.

Such a link counts as the file that it leads to if that has the checksum which the package's record, or pip's RECORD,
has. Whoever wrote the environment knew the contents then, so a link to a file with secrets reveals nothing.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from snapper.environment import pip
from snapper.environment.conda import Record
from snapper.environment.tree import File, Tree
from snapper.fs.beneath import FILE, is_possible_path
from snapper.fs.directories import closing_descriptor, opened_directory
from snapper.fs.pinned import PinnedDirectory

_CHUNK = 1 << 20


@dataclass(frozen=True)
class FollowedLinks:
    """A tree in which links into a package cache are the files that these lead to.

    `targets` are their absolute paths, by the path in the environment. `unproved` are links of packages that lead out
    of the environment to something else, or nothing.
    """

    tree: Tree
    targets: Mapping[str, str] = field(default_factory=dict)
    unproved: tuple[File, ...] = ()


def leads_outside(file: File, environment: PinnedDirectory) -> bool:
    """Return whether the file is a link that leads out of the environment; a link on the way is not followed."""
    if file.type != "symlink":
        return False
    if file.target.startswith("/"):
        tops = (os.path.abspath(environment.path), os.path.realpath(environment.path))
        return not any(f"{file.target}/".startswith(f"{top}/") for top in tops)
    target = posixpath.normpath(posixpath.join(posixpath.dirname(file.path), file.target))
    return target == ".." or target.startswith("../")


def follow(
    environment: PinnedDirectory, tree: Tree, links: Iterable[File], records: Iterable[Record]
) -> FollowedLinks:
    """Replace links of packages that lead out of the environment by the files that they lead to.

    May raise OSError.
    """
    outside = {file.path: file for file in links}
    checksums = _checksums(environment, tree, outside, records)
    files: dict[str, File] = {}
    targets: dict[str, str] = {}
    for path, sha256 in checksums.items():
        target = os.path.realpath(
            os.path.join(environment.path, posixpath.dirname(path), outside[path].target)
        )
        with suppress(OSError):
            found = _read(target, path, sha256)
            if found is not None:
                files[path], targets[path] = found, target
    unproved = tuple(outside[path] for path in sorted(checksums.keys() - files.keys()))
    followed = tuple(files.get(file.path, file) for file in tree.files)
    return FollowedLinks(replace(tree, files=followed), targets, unproved)


def _checksums(
    environment: PinnedDirectory, tree: Tree, links: Mapping[str, File], records: Iterable[Record]
) -> dict[str, str]:
    """Return the checksums of those of the links that were installed as files."""
    checksums = {
        entry.path: entry.sha256
        for record in records
        for entry in record.entries
        if entry.path in links and entry.type != "softlink"
    }
    listed = pip.checksums(environment, {file.path for file in tree.files})
    return {**{path: sha256 for path, sha256 in listed.items() if path in links}, **checksums}


def _read(target: str, path: str, sha256: str) -> File | None:
    """Return the file at `target`, as one at `path`, if it is a regular one with this checksum. May raise OSError."""
    directory, name = posixpath.split(target)
    if not is_possible_path(target):
        return None
    with (
        opened_directory(directory) as parent,
        closing_descriptor(os.open(name, FILE, dir_fd=parent)) as file,
    ):
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            return None
        digest = hashlib.sha256()
        while chunk := os.read(file, _CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != sha256:
        return None
    return File(
        path,
        "file",
        status.st_size,
        stat.S_IMODE(status.st_mode),
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_ino,
        status.st_dev,
        status.st_nlink,
    )
