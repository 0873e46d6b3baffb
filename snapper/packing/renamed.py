"""Carry over what the previous snapshot knows of files to the paths that these have now."""

from __future__ import annotations

from collections.abc import Mapping

from snapper.environment.installed import InstalledEnvironment
from snapper.format.times import clamped


def with_renamed(known: Mapping[str, str], installed: InstalledEnvironment) -> Mapping[str, str]:
    """Return what is known of files, by path, also for the new paths of those that were renamed since.

    A renamed file has the inode, size, and time that the index has for its former path.
    """
    previous, index = installed.previous, installed.index
    if not known or previous is None or index is None or index.header.snapshot != previous.encoded.digest:
        return known
    rows, device = index.rows, installed.directory.status.st_dev
    former_paths = {rows[path][4]: path for path in known if path in rows and rows[path][4]}
    renamed = {}
    for file in installed.tree.files:
        former = former_paths.get(file.inode)
        if former is None or (file.path in rows and rows[file.path][4] == file.inode):
            continue
        size, _, mtime, *_ = rows[former]
        if (file.device, file.size, clamped(file.mtime_ns)) == (device, size, mtime):
            renamed[file.path] = known[former]
    return {**known, **renamed}
