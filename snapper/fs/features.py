"""Find out by trying what a file system cannot do that environments or snapper need."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping
from enum import Enum

from snapper.fs.directories import closing_descriptor
from snapper.fs.moves import Entry

#: What operations fail with that a file system does not have; a full disk, for instance, says nothing about it.
_MISSING = (
    errno.EPERM,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.EINVAL,
    errno.EPROTO,
    errno.EMLINK,
)

_FILE, _OTHER = "Probe", "other"
_MODE = 0o500
_LONGEST_NAME = 255


class Feature(Enum):
    """What a file system may lack, and what that means."""

    SYMLINKS = "symbolic links: no environment can be restored there"
    HARD_LINKS = (
        "hard links: files with several names are copied, and so are files that an update could share"
    )
    PERMISSIONS = "permissions: files keep those that it gives them"
    CASE = "names that differ only in case: an environment that has such names cannot be restored there"
    LONG_NAMES = (
        f"names of {_LONGEST_NAME} bytes: an environment that has such names cannot be restored there"
    )


def missing_features(directory: int) -> tuple[Feature, ...]:
    """Return what the file system of an open directory lacks. The directory must be private and empty.

    Nothing is left in it, unless this process is killed. May raise OSError.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with closing_descriptor(os.open(_FILE, flags, 0o600, dir_fd=directory)) as file:
        try:
            return tuple(
                feature for feature, attempt in _ATTEMPTS.items() if not _succeeds(attempt, directory, file)
            )
        finally:
            for name in os.listdir(directory):
                os.unlink(name, dir_fd=directory)


def _succeeds(attempt: Callable[[int, int], bool], directory: int, file: int) -> bool:
    try:
        return attempt(directory, file)
    except OSError as error:
        return error.errno not in (*_MISSING, errno.ENAMETOOLONG)


def _symlink(directory: int, _: int) -> bool:
    os.symlink(_FILE, _OTHER, dir_fd=directory)
    os.unlink(_OTHER, dir_fd=directory)
    return True


def _link(directory: int, _: int) -> bool:
    os.link(_FILE, _OTHER, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
    os.unlink(_OTHER, dir_fd=directory)
    return True


def _set_permissions(_: int, file: int) -> bool:
    os.fchmod(file, _MODE)
    return stat.S_IMODE(os.fstat(file).st_mode) == _MODE


def _distinguish_case(directory: int, _: int) -> bool:
    return not Entry(directory, _FILE.swapcase()).exists()


def _use_long_name(directory: int, _: int) -> bool:
    os.rename(_FILE, "n" * _LONGEST_NAME, src_dir_fd=directory, dst_dir_fd=directory)
    return True


#: The last one renames the file.
_ATTEMPTS: Mapping[Feature, Callable[[int, int], bool]] = {
    Feature.SYMLINKS: _symlink,
    Feature.HARD_LINKS: _link,
    Feature.PERMISSIONS: _set_permissions,
    Feature.CASE: _distinguish_case,
    Feature.LONG_NAMES: _use_long_name,
}
