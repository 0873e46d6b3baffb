"""Files of packages that are links into a package cache, as conda's `always_softlink` and uv's symlink mode make them.

Such a link counts as the file that it leads to if that is in a package cache of this user and has the size and the
checksum which the package's record, or pip's RECORD, has. Others may have made the link and the record. Nothing else is
read, because many records together could tell what a short file contains, and each target is read only once.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace

from snapper.environment import pip
from snapper.environment.conda import FileFacts, Record
from snapper.environment.lookup import Lookup
from snapper.environment.outside_links import FollowedLinks
from snapper.environment.package_caches import PackageCaches
from snapper.environment.tree import File, Tree
from snapper.fs.beneath import FILE, open_own_path
from snapper.fs.directories import closing_descriptor
from snapper.fs.pinned import PinnedDirectory

_CHUNK = 1 << 20

#: The work of looking up where one link leads, on average. Those whose turn comes later than that are not followed.
_WORK = 100


def follow(
    environment: PinnedDirectory, tree: Tree, links: Iterable[File], records: Iterable[Record]
) -> FollowedLinks:
    """Replace links of packages that lead out of the environment by the files that they lead to.

    May raise OSError.
    """
    outside = {file.path: file for file in links}
    recorded = _recorded(environment, tree, outside, records)
    caches, lookup = PackageCaches(), Lookup(_WORK * len(recorded))
    files: dict[str, File] = {}
    paths: dict[str, str] = {}
    for path, facts in recorded.items():
        target = lookup.real(
            os.path.join(os.path.abspath(environment.path), posixpath.dirname(path), outside[path].target)
        )
        if target and target not in paths and caches.contain(target):
            paths[target] = path
            with suppress(OSError):
                found = _read(target, path, facts)
                if found is not None:
                    files[path] = found
    targets = {path: target for target, path in paths.items() if path in files}
    unproved = tuple(outside[path] for path in sorted(recorded.keys() - files.keys()))
    followed = tuple(files.get(file.path, file) for file in tree.files)
    return FollowedLinks(replace(tree, files=followed), targets, unproved)


def _recorded(
    environment: PinnedDirectory, tree: Tree, links: Mapping[str, File], records: Iterable[Record]
) -> dict[str, FileFacts]:
    """Return the checksums and sizes of those of the links that were installed as files."""
    of_conda = {
        entry.path: FileFacts(entry.sha256, -1 if entry.size is None else entry.size)
        for record in records
        for entry in record.entries
        if entry.path in links and entry.type != "softlink"
    }
    of_pip = pip.recorded_files(environment, {file.path for file in tree.files})
    return {**{path: facts for path, facts in of_pip.items() if path in links}, **of_conda}


def _read(target: str, path: str, facts: FileFacts) -> File | None:
    """Return the file at `target`, as one at `path`, if it is what was recorded. May raise OSError."""
    with closing_descriptor(open_own_path(target, FILE)) as file:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_size != facts.size:
            return None
        digest, remaining = hashlib.sha256(), facts.size
        while remaining and (chunk := os.read(file, min(remaining, _CHUNK))):
            digest.update(chunk)
            remaining -= len(chunk)
    if digest.hexdigest() != facts.sha256:
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
