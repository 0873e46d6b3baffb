"""Find file systems that are mounted below a directory: their contents are not the directory's own.

Tell what kind of file system a directory is on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

#: One line for each mount (proc(5)). The fifth field is where it is, with spaces and the like as `\040`.
_MOUNTS = Path("/proc/self/mountinfo")

#: What an open file is (proc_pid_fdinfo(5)), with the number of its mount, the first field of the line for that.
_OPEN_FILE = "/proc/self/fdinfo/{}"
_MOUNT_OF_FILE = re.compile(rb"^mnt_id:\s*(\d+)$", re.M)

#: File systems on which a file belongs to who has written it. Others can show files of everyone as those of one user:
#: EFS access points (nfs4), network shares, removable disks, and directories of the host of a virtual machine.
_WITH_OWNERS = frozenset(
    (
        *(b"bcachefs", b"beegfs", b"btrfs", b"ext2", b"ext3", b"ext4", b"f2fs", b"gpfs", b"jfs", b"lustre"),
        *(b"overlay", b"ramfs", b"reiserfs", b"tmpfs", b"xfs", b"zfs"),
    )
)

_ESCAPE = re.compile(rb"\\([0-7]{3})")


def mount_points_below(directory: str | Path | int) -> list[str]:
    """Return the paths below a directory, relative to it, at which something is mounted, sorted.

    It is given by its path or a descriptor. Return none where the system does not tell, as on macOS.
    """
    path = f"/proc/self/fd/{directory}" if isinstance(directory, int) else directory
    top = os.fsencode(os.path.realpath(path)).rstrip(b"/") + b"/"
    return sorted({os.fsdecode(point[len(top) :]) for point in _mount_points() if point.startswith(top)})


def is_mount_point(directory: str | Path) -> bool:
    """Return whether something is mounted at a directory, as far as the system tells."""
    real = os.path.realpath(directory)
    return os.path.ismount(real) or os.fsencode(real) in _mount_points()


def _mount_points() -> Iterator[bytes]:
    """Yield the paths at which something is mounted; none where the system does not tell."""
    with suppress(OSError):
        for line in _MOUNTS.read_bytes().splitlines():
            yield _ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), line.split(b" ", 5)[4])


def has_true_owners(directory: int) -> bool:
    """Return whether files on the file system of an open directory belong to those who have written them.

    It is false where the system does not tell, as on macOS, whose disks can ignore owners.
    """
    return _file_system(directory) in _WITH_OWNERS


def uncovers_when_moved(directory: int) -> bool:
    """Return whether moving something in an open directory can uncover what a lower layer has in its place.

    It does with a directory on fuse-overlayfs (1.10), while the kernel's overlayfs hides what is below.
    """
    return _file_system(directory) == b"fuse.fuse-overlayfs"


def _file_system(directory: int) -> bytes:
    """Return what kind of file system an open directory is on, as far as the system tells."""
    with suppress(OSError):
        mount = _MOUNT_OF_FILE.search(Path(_OPEN_FILE.format(directory)).read_bytes())
        for line in _MOUNTS.read_bytes().splitlines() if mount else ():
            if mount and line.startswith(mount[1] + b" "):
                return line.partition(b" - ")[2].split(b" ")[0]
    return b""
