"""Unpack untrusted squashfs images with unsquashfs, which can neither read nor write more than is checked before.

An image says what it contains in a listing: a file, a directory, or a link on each line. Only these are unpacked, if
there is space for them. unsquashfs itself is limited in memory and time, because an image can be made to confuse it.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from snapper.environment.managed import find_program
from snapper.errors import InsufficientSpace, InvalidArchive, ProgramNotFound
from snapper.fs.directories import opened_directory
from snapper.fs.private import path_by_descriptor
from snapper.fs.space import free_space

_ADVICE = "Install squashfs-tools (as a system package, or with conda), or use another format."

#: A line of a listing: type and permissions, owner, size or device number, date. Names may contain line breaks.
_LINE = re.compile(rb"([-a-z])[-a-zA-Z]{9} \d+/\d+ +(\d{1,19})(,?)")
_UNPACKED_TYPES = (b"-", b"d", b"l")
_LONGEST_LINE = 64 << 10

#: How long unsquashfs may take, in seconds, besides the time for what it reads and writes, in bytes per second.
_PATIENCE = 60.0
_SLOWEST = 1 << 20

#: How much memory unsquashfs may use, in bytes: it uses 0.5 GB, and a stack and an arena for each of its threads.
_MOST_MEMORY = 4 << 30
_THREADS = "4"


class _Contents(NamedTuple):
    """The number of files, directories, and links in an image, and the size of the files in bytes."""

    members: int
    size: int


def squashfs_program(name: str) -> str:
    """Return the path of a program of squashfs-tools; raise ProgramNotFound."""
    path = find_program(name)
    if path is None:
        raise ProgramNotFound(name, "the squashfs format", _ADVICE)
    return path


def unpack(file: Path, top: Path) -> None:
    """Unpack an image to a directory that does not exist yet, in a private one.

    Extended attributes are not unpacked. Raise InvalidArchive, InsufficientSpace, ProgramNotFound.
    """
    contents = _list(file, top.parent)
    free = free_space(top.parent)
    if 2 * contents.size > free.size:  # the files are copied from there
        raise InsufficientSpace(str(top.parent), 2 * contents.size, free.size)
    if free.inodes is not None and 2 * contents.members > free.inodes:
        raise InsufficientSpace(str(top.parent), 2 * contents.members, free.inodes, "inodes")
    seconds = _PATIENCE + (contents.size + contents.members * 4096) / _SLOWEST
    with opened_directory(top.parent) as parent:
        options = ["-no-progress", "-no-xattrs", "-processors", _THREADS]
        options += ["-d", str(path_by_descriptor(parent, top.parent) / top.name)]
        with _output(file, options, top.parent, seconds, contents.size) as output:
            while output.read(_LONGEST_LINE):
                pass


def _list(file: Path, scratch: Path) -> _Contents:
    """Return what an image says it contains; raise InvalidArchive for anything but files, directories, and links."""
    members = size = 0
    most = free_space(scratch)
    with _output(file, ["-lln"], scratch, _PATIENCE + file.stat().st_size / _SLOWEST, most.size) as output:
        for line in iter(lambda: output.readline(_LONGEST_LINE), b""):
            match = _LINE.match(line)
            if match is None:
                continue
            if match[1] not in _UNPACKED_TYPES or match[3]:
                raise InvalidArchive(str(file), "it contains a device, a pipe, or a socket")
            members += 1
            size += int(match[2])
            if size > most.size:
                raise InsufficientSpace(str(scratch), size, most.size)
    return _Contents(members, size)


@contextmanager
def _output(file: Path, options: list[str], scratch: Path, seconds: float, size: int) -> Iterator[IO[bytes]]:
    """Run unsquashfs and yield its output; it may write files of `size` bytes, and is killed after so many seconds.

    Raise InvalidArchive and InsufficientSpace if it fails.
    """
    command = [squashfs_program("unsquashfs"), *options, str(file)]
    with (scratch / "errors").open("w+b") as errors:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors)
        assert process.stdout
        _limit(process.pid, max(size, _LONGEST_LINE))
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        try:
            yield process.stdout
            status = process.wait()
        finally:
            timed_out = not timer.is_alive()
            timer.cancel()
            process.kill()
            process.stdout.close()
            process.wait()
        if status:
            reason = (
                f"unsquashfs did not end within {seconds:.0f} seconds" if timed_out else _last_line(errors)
            )
            if os.strerror(errno.ENOSPC) in reason:
                raise InsufficientSpace(str(scratch))
            raise InvalidArchive(str(file), f"it is corrupted ({reason})")


def _limit(process: int, size: int) -> None:
    """Limit the memory of a process, and the size of the files that it writes, where the system can."""
    if sys.platform == "linux":
        import resource  # noqa: PLC0415 - missing on Windows

        resource.prlimit(process, resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
        resource.prlimit(process, resource.RLIMIT_FSIZE, (size, size))
        resource.prlimit(process, resource.RLIMIT_CORE, (0, 0))


def _last_line(errors: IO[bytes]) -> str:
    errors.seek(-min(errors.seek(0, os.SEEK_END), _LONGEST_LINE), os.SEEK_END)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "unsquashfs failed"
