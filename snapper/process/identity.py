"""Who does something, where and when, as histories and locks record it, and whether that process is still alive."""

from __future__ import annotations

import getpass
import os
import socket
import time
from datetime import datetime, timezone
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
