"""Find out what the file system of a directory lacks, by trying it in a directory that is removed again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from snapper.checks.findings import Finding, Level
from snapper.environment.staging_lock import lock_staging, staging_path
from snapper.errors import SnapperError
from snapper.format.layout import Layout
from snapper.fs.beneath import LISTING
from snapper.fs.directories import closing_descriptor
from snapper.fs.features import Feature
from snapper.fs.locks import is_without_locks, try_lock
from snapper.restoring.limits import missing_in

_TITLE = "File system"
_NO_LOCKS = "locks (flock): lock files are used, which expire later if a machine is switched off"

_WRITING = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

#: The name of what is not restored: its staging directory is that of the trial.
_TRIAL = "doctor"


def check_locks(store: Path) -> Iterator[Finding]:
    """Report whether the store in a directory has to do without locks, unless this user may only read it."""
    with suppress(OSError), closing_descriptor(os.open(store, LISTING & ~os.O_NOFOLLOW)) as directory:
        marker = os.open(Layout.MARKER, _WRITING, dir_fd=directory)
        with closing_descriptor(marker):
            try:
                try_lock(marker)
            except OSError as error:
                if is_without_locks(error):
                    yield Finding("note", _TITLE, f"{store} has no {_NO_LOCKS}")


def check_file_system(directory: Path) -> Iterator[Finding]:
    """Report what environments that are restored into the directory have to do without. May raise OSError."""
    if not os.access(directory, os.W_OK | os.X_OK):
        return
    target = directory / _TRIAL
    with closing_descriptor(os.open(directory, LISTING & ~os.O_NOFOLLOW)) as parent:
        try:
            staging = lock_staging(parent, staging_path(target), target)
        except SnapperError as error:
            yield Finding("warning", _TITLE, error.message, error.hint)
            return
        try:
            missing = missing_in(staging.directory)
        finally:
            staging.release()
    for feature in missing:
        level: Level = "problem" if feature is Feature.SYMLINKS else "note"
        yield Finding(level, _TITLE, f"{directory} has no {feature.value}")
    if staging.lock.lease:
        yield Finding("note", _TITLE, f"{directory} has no {_NO_LOCKS}")
