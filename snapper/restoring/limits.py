"""Look, before anything is unpacked, whether the file system of a target has what environments need."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from snapper.environment.staging_lock import TREE
from snapper.errors import FileOperationFailed
from snapper.fs.directories import closing_descriptor
from snapper.fs.features import Feature, missing_features
from snapper.fs.private import create_private_directory

logger = logging.getLogger(__name__)

#: What is restored otherwise than it was packed, and is therefore reported.
_REPORTED = (Feature.HARD_LINKS, Feature.PERMISSIONS)

#: The devices of file systems that have been reported.
_reported: set[int] = set()


def missing_in(staging: int) -> tuple[Feature, ...]:
    """Return what the file system of an open staging directory lacks. May raise OSError."""
    name, descriptor = create_private_directory(TREE, staging)
    with closing_descriptor(descriptor) as directory:
        missing = missing_features(directory)
    os.rmdir(name, dir_fd=staging)
    return missing


def check_file_system(staging: int, target: Path) -> None:
    """Raise FileOperationFailed if the file system has no symlinks; say once for each what else it lacks.

    `staging` is the open staging directory of the target. May raise OSError.
    """
    missing = missing_in(staging)
    if Feature.SYMLINKS in missing:
        reason = "its file system has no symbolic links, which environments need"
        advice = "Restore it to another file system with --prefix or --envs-dir."
        raise FileOperationFailed(str(target), reason, advice)
    device = os.fstat(staging).st_dev
    lacking = [feature for feature in _REPORTED if feature in missing]
    if lacking and device not in _reported:
        _reported.add(device)
        for feature in lacking:
            logger.warning("the file system of %s does not have %s", target.parent, feature.value)
