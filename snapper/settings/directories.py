"""The platform, snapper's own directories on it, and paths as users write them."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
from collections.abc import Iterator
from enum import Enum
from functools import cache
from pathlib import Path

from snapper.errors import UsageError, empty_value
from snapper.fs.ownership import UntrustedComponent, group_without_known_members, untrusted_component
from snapper.fs.small_files import read_file

logger = logging.getLogger(__name__)

_METADATA = Path("/opt/ml/metadata/resource-metadata.json")

#: Where the volume of a notebook instance is in the home, and the name of snapper's directory on it.
_VOLUME = "SageMaker"
_ON_VOLUME = ".snapper"

IS_MACOS = sys.platform == "darwin"


class Platform(Enum):
    """The kinds of machines that have different defaults."""

    NOTEBOOK_INSTANCE = "notebook instance"
    STUDIO = "Studio"
    GENERIC = "generic"


def detect_platform() -> Platform:
    """Return the kind of this machine."""
    if notebook_volume():
        return Platform.NOTEBOOK_INSTANCE
    if os.environ.get("SAGEMAKER_SPACE_NAME") or _is_studio_space():
        return Platform.STUDIO
    return Platform.GENERIC


def home_directory() -> Path:
    """Return this user's home directory; raise UsageError if there is none."""
    home = os.path.expanduser("~")
    if not home.startswith("/"):
        raise _no_home()
    return Path(home)


def notebook_volume() -> Path | None:
    """Return the volume of a notebook instance, which persists while the rest of the home directory is lost."""
    volume = home_directory() / _VOLUME
    return volume if os.path.isdir(volume) else None


def state_directory() -> Path:
    """Return where snapper keeps its state for this user: on the volume of a notebook instance, if there is one."""
    return _own_on_volume("state") or home_state_directory()


def home_state_directory() -> Path:
    """Return where snapper keeps what says something about this user's home directory, and is to be lost with it.

    If others control the usual directory, because a link leads to where several users work, it is another one in the
    home. Raise UsageError if there is no home, PermissionError if they control that as well.
    """
    usual = _user_directory("user_state_path")
    reason = _why_controlled(usual)
    if not reason:
        return usual
    instead = home_directory() / _ON_VOLUME / "state"
    if _why_controlled(instead):
        raise PermissionError(errno.EPERM, reason, str(usual))
    _warn_once(usual, reason, instead)
    return instead


def _why_controlled(directory: Path) -> str:
    try:
        found = control_by_others(directory)
    except OSError:
        return ""  # it cannot be used either
    return f"{found.path} {found.reason}" if found else ""


@cache
def _warn_once(directory: Path, reason: str, instead: Path) -> None:
    logger.warning(
        "what snapper has recorded in %s is ignored, because %s; it uses %s", directory, reason, instead
    )


def log_file() -> Path:
    """Return the log file of background work and unexpected errors."""
    return state_directory() / "snapper.log"


def default_store_directory() -> str:
    """Return the default of the setting `store`."""
    volume = notebook_volume()
    return str(volume / _ON_VOLUME if volume else _user_directory("user_data_path", renamed=False))


def default_cache_directory() -> str | None:
    """Return the default of the setting `cache`, None for no cache."""
    if detect_platform() is Platform.GENERIC:
        return None
    return str(_own_on_volume("cache") or state_directory() / "cache")


def user_config_directories() -> Iterator[Path]:
    """Yield the directories in which the user's settings file may be, the first one first."""
    yield home_directory() / _VOLUME / _ON_VOLUME
    yield _user_directory("user_config_path")


def control_by_others(path: Path) -> UntrustedComponent | None:
    """Return what another user controls on the way to a file or directory; see `trusted_group`. May raise OSError."""
    return untrusted_component(path, group_at=_group_at)


def trusted_group(path: Path) -> int | None:
    """Return the group whose members may write to an absolute path without counting as others; None if there is none.

    In the home, it is this process's group, unless others are known to be in it: with some umasks, it may write to
    everything there. What links in the home lead to elsewhere, and what is mounted there, such as the volume of a
    notebook instance, can be shared.
    """
    return _group_at(os.path.realpath(path))


def _group_at(path: str) -> int | None:
    """Do the same for a path without links."""
    try:
        home = os.path.realpath(home_directory())
        is_inside = home != "/" and f"{path}/".startswith(f"{home}/")
        if not is_inside or f"{path}/".startswith(f"{home}/{_VOLUME}/"):
            return None
        if os.path.lexists(path) and os.lstat(path).st_dev != os.stat(home).st_dev:
            return None
    except (OSError, UsageError):
        return None
    return group_without_known_members()


def existing_directory(directory: Path, name: str) -> Path:
    """Return the directory, or, on macOS, the one that snapper 0.1 used in its place if only that exists.

    `name` is the property of platformdirs that names the directory.
    """
    if not IS_MACOS or directory.exists():
        return directory
    from platformdirs.unix import Unix  # noqa: PLC0415 - used on macOS only

    previous: Path = getattr(Unix("snapper", appauthor=False), name)
    return previous if previous.exists() else directory


def absolute_directory(path: str | Path) -> Path:
    """Return the absolute path of what the user wrote, with `~` and `..` resolved.

    Raise UsageError if it is empty, or there is no such user or current directory.
    """
    if path == "":
        raise empty_value("the path")
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise UsageError(
            f"{str(path)!r}: no such user", "Write ./~ for a directory whose name starts with ~."
        )
    try:
        return Path(os.path.abspath(expanded))
    except FileNotFoundError:
        raise UsageError(
            "the current directory no longer exists", "Change to another directory first."
        ) from None


def _own_on_volume(name: str) -> Path | None:
    """Return a directory in snapper's on the volume of a notebook instance, None if another user controls it.

    The volume can be shared.
    """
    volume = notebook_volume()
    if volume is None:
        return None
    directory = volume / _ON_VOLUME / name
    try:
        return None if untrusted_component(directory) else directory
    except OSError:
        return None


def _user_directory(name: str, *, renamed: bool = True) -> Path:
    """Return the directory that a property of platformdirs names.

    If `renamed`, version 0.1 used another one on macOS. Raise UsageError if the user has no home directory.
    """
    from platformdirs import PlatformDirs  # noqa: PLC0415 - a slow import

    try:
        directory: Path = getattr(PlatformDirs("snapper", appauthor=False), name)
    except RuntimeError:
        raise _no_home() from None
    return existing_directory(directory, name) if renamed else directory


def _no_home() -> UsageError:
    return UsageError("this user has no home directory", "Set HOME to an absolute path.")


def _is_studio_space() -> bool:
    """Return whether SageMaker's metadata file says that this is a Studio space."""
    try:
        return "SpaceName" in json.loads(read_file(_METADATA))
    except (OSError, ValueError, TypeError, RecursionError):
        return False
