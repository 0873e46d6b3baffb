"""Who may control the directory in which a kernel starts. Its launcher refuses what others put there later."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Literal, NamedTuple

from snapper.environment.control import is_in_shared_directory
from snapper.fs.ownership import private_groups, trusted_users
from snapper.fs.pinned import PinnedDirectory

#: In place of groups: it does not matter who may write to the directory.
ANYONE: Literal["all"] = "all"


class Access(NamedTuple):
    """Who may control an environment: what a kernel starts in must belong to one of the users `owners`.

    Except for its owner, only members of the groups `writers` may write to it, unless its inode is `inode`. In a shared
    directory, others can otherwise move a directory to its path that they may write to, whoever owns that.
    """

    owners: tuple[int, ...]
    writers: tuple[int | Literal["all"], ...] = (ANYONE,)
    inode: int | None = None


def access_to(environment: PinnedDirectory) -> Access:
    """Return who controls an environment now."""
    status = environment.status
    owners = (*trusted_users(), status.st_uid)
    if status.st_mode & stat.S_IWOTH or not is_in_shared_directory(environment.path):
        return Access(owners)
    groups = (status.st_gid,) if status.st_mode & stat.S_IWGRP else ()
    return Access(owners, (*private_groups(), *groups), status.st_ino)


def access_to_new(prefix: Path) -> Access:
    """Return who may control an environment of this user that does not exist yet."""
    return Access(trusted_users(), private_groups() if is_in_shared_directory(prefix) else (ANYONE,))
