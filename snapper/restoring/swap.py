"""Stage an environment where it can be swapped in: next to its target, or inside of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from snapper.environment.staging_lock import INSIDE
from snapper.errors import PermissionDenied
from snapper.fs.errors import os_errors
from snapper.restoring.in_place import StagingInPlace, staging_in_place
from snapper.restoring.place import is_staged_inside
from snapper.restoring.staging import Staging, staging_directory

Staged = Staging | StagingInPlace


@contextmanager
def stage(target: Path) -> Iterator[Staged]:
    """Lock the target, an absolute path, and yield a directory to build the environment in, and swap it in.

    What an interrupted swap has left is completed or undone first. Raise TargetLocked, TargetOccupied,
    PermissionDenied, InsufficientSpace, FileOperationFailed.
    """
    with ExitStack() as resources:
        beside = None if is_staged_inside(target) else _stage_beside(target, resources)
        if beside is None:
            resources.close()
            yield resources.enter_context(staging_in_place(target))
            return
        if os.path.lexists(target / INSIDE):
            with staging_in_place(target):
                pass
        yield beside


def _stage_beside(target: Path, resources: ExitStack) -> Staging | None:
    """Return a staging directory next to the target, which ends with the resources; None if it cannot be swapped in."""
    try:
        staging = resources.enter_context(staging_directory(target))
    except PermissionDenied:
        if not target.is_dir():
            raise
        return None  # file systems on the network may refuse what they said was permitted
    with os_errors(target, "write to"):
        return staging if staging.can_replace() else None
