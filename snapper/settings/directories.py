"""The platform, snapper's own directories on it, and paths as users write them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from snapper.errors import UsageError
from snapper.fs.small_files import read_file

if TYPE_CHECKING:
    from platformdirs.api import PlatformDirsABC

_METADATA = Path("/opt/ml/metadata/resource-metadata.json")

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


def notebook_volume() -> Path | None:
    """Return the volume of a notebook instance, which persists while the rest of the home directory is lost."""
    volume = Path.home() / "SageMaker"
    return volume if os.path.isdir(volume) else None


def state_directory() -> Path:
    """Return where snapper keeps its state for this user: on the volume of a notebook instance, if there is one."""
    volume = notebook_volume()
    if volume:
        return volume / ".snapper" / "state"
    return existing_directory(_user_directories().user_state_path, "user_state_path")


def log_file() -> Path:
    """Return the log file of background work and unexpected errors."""
    return state_directory() / "snapper.log"


def default_store_directory() -> str:
    """Return the default of the setting `store`."""
    volume = notebook_volume()
    return str(volume / ".snapper" if volume else _user_directories().user_data_path)


def default_cache_directory() -> str | None:
    """Return the default of the setting `cache`, None for no cache."""
    volume = notebook_volume()
    if volume:
        return str(volume / ".snapper" / "cache")
    return str(state_directory() / "cache") if detect_platform() is Platform.STUDIO else None


def user_config_directories() -> Iterator[Path]:
    """Yield the directories in which the user's settings file may be, the first one first."""
    yield Path.home() / "SageMaker" / ".snapper"
    yield existing_directory(_user_directories().user_config_path, "user_config_path")


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

    Raise UsageError if there is no such user or current directory.
    """
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


def _user_directories() -> PlatformDirsABC:
    from platformdirs import PlatformDirs  # noqa: PLC0415 - a slow import

    return PlatformDirs("snapper", appauthor=False)


def _is_studio_space() -> bool:
    """Return whether SageMaker's metadata file says that this is a Studio space."""
    try:
        return "SpaceName" in json.loads(read_file(_METADATA))
    except (OSError, ValueError, TypeError, RecursionError):
        return False
