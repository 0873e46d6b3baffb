"""Who does something, where and when, as histories and locks have it."""

from __future__ import annotations

import getpass
import os
import socket
import time
from datetime import datetime, timezone


def user() -> str:
    """The user's name; the number where there is none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())


def host() -> str:
    return socket.gethostname()


def person() -> str:
    """`USER@HOST`."""
    return f"{user()}@{host()}"


def now() -> str:
    """The time in UTC, such as `2026-01-31T09:00:00Z`."""
    return time_of(time.time())


def time_of(seconds: float) -> str:
    """The same for a time in seconds since 1970."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
