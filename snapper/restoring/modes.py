"""Give the files and directories of an environment the permissions that its index has, where these were changed."""

from __future__ import annotations

import os
import stat
from contextlib import closing, suppress

from snapper.environment.index import Index
from snapper.environment.installed import InstalledEnvironment
from snapper.environment.scan import find_shared_directory
from snapper.format.constraints import USUAL_DIRECTORY_MODE
from snapper.fs.directories import DirectoryTree, closing_descriptor
from snapper.fs.ownership import is_of_this_user

#: Opens what may not be read, but only to identify it.
_IDENTIFY = getattr(os, "O_PATH", os.O_RDONLY | os.O_NONBLOCK) | os.O_NOFOLLOW | os.O_CLOEXEC

_PERMISSIONS = 0o777


def with_correct_modes(environment: InstalledEnvironment) -> InstalledEnvironment:
    """Correct the modes of this user's files and directories; return the environment as it is then.

    Where others may write to a directory of it, they may have moved files of this user there, so nothing happens. Raise
    what `environment.tree` does.
    """
    drift, index = environment.drift(), environment.recorded_index
    if drift is None or index is None or not drift.modes:
        return environment
    if find_shared_directory(environment.directory, environment.tree) is not None:
        return environment
    with closing(DirectoryTree(environment.directory, make=False)) as directories:
        for path in sorted(drift.modes, reverse=True):
            with suppress(OSError):
                _correct(directories, path, index)
    return InstalledEnvironment(environment.directory)


def _correct(directories: DirectoryTree, path: str, index: Index) -> None:
    """Set the mode of a file, or of a directory, whose path ends in `/`. May raise OSError."""
    mode = index.rows[path][1] if path in index.rows else USUAL_DIRECTORY_MODE
    parent, _, name = path.rstrip("/").rpartition("/")
    with closing_descriptor(os.open(name, _IDENTIFY, dir_fd=directories[parent])) as file:
        status = os.fstat(file)
        is_expected = stat.S_ISDIR if path.endswith("/") else stat.S_ISREG
        if is_expected(status.st_mode) and is_of_this_user(status) and mode == mode & _PERMISSIONS:
            if hasattr(os, "O_PATH"):
                os.chmod(f"/proc/self/fd/{file}", mode)
            else:
                os.fchmod(file, mode)
