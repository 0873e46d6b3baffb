"""Where settings come from: options, environment variables, and defaults made for the place."""

from __future__ import annotations

import os
from pathlib import Path

from snapper.errors import Usage

STORE_VARIABLE = "SNAPPER_STORE"
ENVS_DIR_VARIABLE = "SNAPPER_ENVS_DIR"


def store_url(option: str | None) -> str:
    """The store to use: the option, SNAPPER_STORE, a notebook instance's EBS volume, or the user's data."""
    given = option or os.environ.get(STORE_VARIABLE)
    if given:
        return given
    volume = Path.home() / "SageMaker"
    if os.path.isdir(volume):
        return str(volume / ".snapper")
    from platformdirs import user_data_path  # noqa: PLC0415 - a slow import for what is seldom needed

    return str(user_data_path("snapper", appauthor=False))


def envs_dir(option: Path | None) -> Path | None:
    """Where restored environments go, if anything says so."""
    variable = os.environ.get(ENVS_DIR_VARIABLE)
    if option is None and variable:
        option = Path(variable)
    return option and directory(option)


def directory(path: str | Path) -> Path:
    """The absolute path of what the user wrote, `~` and `..` resolved; raises Usage where that makes no sense."""
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise Usage(
            f"{str(path)!r}: there is no such user", "Write ./~ for a directory whose name begins so."
        )
    try:
        return Path(os.path.abspath(expanded))
    except FileNotFoundError:
        raise Usage("the current directory does not exist any more", "Change to another one: cd.") from None
