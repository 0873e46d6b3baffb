"""Who does something, where and when, as histories and locks have it; and whether they are still at it."""

from __future__ import annotations

import getpass
import os
import socket
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple


def current_user() -> str:
    """The user's name; the number where there is none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())


def hostname() -> str:
    return socket.gethostname()


def user_at_host() -> str:
    """`USER@HOST`."""
    return f"{current_user()}@{hostname()}"


def process_start_time(process: int) -> str:
    """When the process was started, in ticks since the machine was, which tells it from others that have its number
    later; empty where there is no telling.
    """
    found = _process(process)
    return found.started if found else ""


def is_process_alive(process: int, since: str) -> bool:
    """Whether the process that was `started` then is still there, which also counts as so where there is no telling:
    of other users' processes, some systems show nothing.
    """
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # it is there, and another user's
    found = _process(process)
    return found is None or (found.state not in "ZX" and since in ("", found.started))


class _Process(NamedTuple):
    state: str
    started: str


def _process(number: int) -> _Process | None:
    try:
        fields = Path(f"/proc/{number}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return _Process(fields[0], fields[19])


def utc_now() -> str:
    """The time in UTC, such as `2026-01-31T09:00:00Z`."""
    return format_utc(time.time())


def format_utc(seconds: float) -> str:
    """The same for a time in seconds since 1970."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
