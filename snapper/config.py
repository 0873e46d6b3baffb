"""Where settings come from: options, environment variables, and defaults made for the place."""

from __future__ import annotations

import os
from pathlib import Path

STORE_VARIABLE = "SNAPPER_STORE"
ENVS_DIR_VARIABLE = "SNAPPER_ENVS_DIR"


def store_url(option: str | None) -> str:
    """The store to use: the option, SNAPPER_STORE, a notebook instance's EBS volume, or the user's data."""
    given = option or os.environ.get(STORE_VARIABLE)
    if given:
        return given
    volume = Path.home() / "SageMaker"
    if volume.is_dir():
        return str(volume / ".snapper")
    from platformdirs import user_data_path  # noqa: PLC0415 - a slow import for what is seldom needed

    return str(user_data_path("snapper", appauthor=False))


def envs_dir(option: Path | None) -> Path | None:
    """Where restored environments go, if anything says so."""
    variable = os.environ.get(ENVS_DIR_VARIABLE)
    if option is None and variable:
        return Path(variable).expanduser()
    return option
