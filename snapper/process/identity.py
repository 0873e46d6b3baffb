"""Who does something, where and when, as histories and locks record it, and whether that process is still alive."""

from __future__ import annotations

import getpass
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import NamedTuple


def current_user() -> str:
    """Return the user's name, or the numeric user id if it has no name."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())


def hostname() -> str:
    """Return the name of this host."""
    return socket.gethostname()


@cache
def boot_id() -> str:
    """Identify the boot and the process namespace that this process runs in; empty if the system has no such ids."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def user_at_host() -> str:
    """Return `USER@HOST`."""
    return f"{current_user()}@{hostname()}"


def process_start_time(pid: int) -> str:
    """Return when the process was started, in clock ticks since boot, or an empty string if that is unknown.

    It distinguishes the process from later ones with the same PID.
    """
    process = _read_process(pid)
    return process.start_time if process else ""


def is_process_alive(pid: int, start_time: str) -> bool:
    """Return whether the process that was started at `start_time` is alive, also if there is no way to know.

    Some systems show nothing of other users' processes.
    """
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # it exists, and belongs to another user
    process = _read_process(pid)
    return process is None or (process.state not in "ZX" and start_time in ("", process.start_time))


@contextmanager
def marked(name: str) -> Iterator[None]:
    """Mark this process for others of the same user, until the block or the process ends, where the system can.

    The mark is an open file in memory, whose name `/proc` shows. Other users cannot put one on this user's processes.
    """
    descriptor = None
    if sys.platform == "linux":
        with suppress(OSError):
            descriptor = os.memfd_create(name)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def is_marked(pid: int, name: str) -> bool:
    """Return whether a process of this user has the mark, as far as that can be known."""
    directory = Path(f"/proc/{pid}/fd")
    try:
        if directory.stat().st_uid != os.getuid():
            return False
        descriptors = list(directory.iterdir())
    except OSError:
        return False
    return any(_has_name(descriptor, name) for descriptor in descriptors)


def _has_name(descriptor: Path, name: str) -> bool:
    """Return whether a descriptor, as `/proc` shows it, is that of a file in memory of this name."""
    try:
        return os.readlink(descriptor) == f"/memfd:{name} (deleted)"
    except OSError:  # it has been closed
        return False


class _Process(NamedTuple):
    state: str
    start_time: str


def _read_process(pid: int) -> _Process | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return _Process(fields[0], fields[19])


def utc_now() -> str:
    """Return the current time in UTC, such as `2026-01-31T09:00:00Z`."""
    return format_utc(time.time())


def format_utc(seconds: float) -> str:
    """Return a time, in seconds since 1970, in the format of `utc_now`."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
