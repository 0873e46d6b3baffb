"""The home directory that a command uses: of the user who runs it, whatever HOME names."""

from __future__ import annotations

import os
import stat
import sys
from enum import Enum


class _Problem(Enum):
    """Why a home directory is not used. If the user's account has none, only the first one counts, and for root all."""

    NOT_USABLE = "cannot be used as a directory"
    OF_ANOTHER = "belongs to another user"
    MISSING = "does not exist"


def set_home() -> None:
    """Set HOME to the home of the user's account if it cannot be used, and to `/` if there is none, like login(1).

    It cannot be used if it is empty or relative, if it is no directory that the user can enter or create, or if it
    belongs to another user (sudo without -H): snapper could not write there, and what is in it, such as AWS's settings,
    says which programs are run. But users without a home of their own use that of another one: in containers, users may
    have any id.
    """
    home = os.environ.get("HOME", "")
    account = _account_home()
    if not home.startswith("/"):
        os.environ["HOME"] = account or "/"
        return
    problem = _find_problem(home)
    if not problem or home == account:
        return
    is_root = os.geteuid() == 0
    if problem is _Problem.NOT_USABLE or is_root or (account and _is_own(account)):
        os.environ["HOME"] = account or "/"
        who = "root" if is_root else "snapper"
        sys.stderr.write(
            f"snapper: warning: {home!r} (HOME) {problem.value}; {who} uses {os.environ['HOME']}\n"
        )


def _account_home() -> str:
    """Return the home directory in the user database, an empty text if there is none."""
    try:
        import pwd  # there is none on Windows

        home = pwd.getpwuid(os.geteuid()).pw_dir
    except (ImportError, KeyError):
        return ""
    return home if home.startswith("/") else ""


def _find_problem(home: str) -> _Problem | None:
    try:
        status = os.stat(home)
    except FileNotFoundError:
        return None if _can_be_created(home) else _Problem.MISSING
    except OSError:
        return _Problem.NOT_USABLE
    if not stat.S_ISDIR(status.st_mode) or not os.access(home, os.X_OK):
        return _Problem.NOT_USABLE
    is_shared = status.st_uid == 0 and os.access(home, os.W_OK)  # such as /tmp
    return None if _is_own(home) or is_shared else _Problem.OF_ANOTHER


def _can_be_created(directory: str) -> bool:
    parent = os.path.dirname(directory)
    while not os.path.exists(parent):
        parent = os.path.dirname(parent)
    return os.access(parent, os.W_OK)


def _is_own(directory: str) -> bool:
    try:
        return os.stat(directory).st_uid == os.geteuid()
    except OSError:
        return False
