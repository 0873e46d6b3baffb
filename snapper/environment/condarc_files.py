"""Where conda, mamba, and micromamba look for their configuration.

This is SEARCH_PATH in conda/base/constants.py, and `compute_default_rc_sources` in libmamba's configuration.cpp.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from snapper.settings.directories import home_directory

_NAMES = (".condarc", "condarc", "condarc.d")
_MAMBA_NAMES = (".mambarc", "mambarc", "mambarc.d")
_SYSTEM = (Path("/etc/conda"), Path("/var/lib/conda"))
_YAML = (".yml", ".yaml")

#: The variables that name a file, or a directory of files.
_VARIABLES = ("CONDARC", "MAMBARC")

#: The most files that are read in a directory.
_MOST = 1000


def system_files() -> Iterator[Path]:
    """Yield the existing files of the system, that with the least precedence first."""
    return _existing(directory / name for directory in _SYSTEM for name in (*_NAMES, ".mambarc"))


def files_in_prefix(prefix: Path) -> Iterator[Path]:
    """Yield the existing files in a root prefix or the active environment, that with the least precedence first."""
    return _existing(prefix / name for name in (*_NAMES, ".mambarc"))


def user_files() -> Iterator[Path]:
    """Yield the existing files of the user, that with the least precedence first."""
    home = home_directory()
    configured = os.environ.get("XDG_CONFIG_HOME")
    config = [Path(configured)] if configured and os.path.isabs(configured) else []
    config.append(home / ".config")
    conda = [*(top / "conda" for top in config), home / ".conda"]
    mamba = [*(top / "mamba" for top in config), home / ".mamba"]
    return _existing(
        [
            *(directory / name for directory in conda for name in _NAMES),
            home / ".condarc",
            *(directory / name for directory in mamba for name in _MAMBA_NAMES),
            home / ".mambarc",
        ]
    )


def files_of_variables() -> Iterator[Path]:
    """Yield the existing files that variables name, that with the least precedence first."""
    named = [os.environ.get(variable) for variable in _VARIABLES]
    return _existing(Path(os.path.abspath(os.path.expanduser(name))) for name in named if name)


def _existing(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files among the paths, and those in directories among them, with names that conda accepts."""
    for path in paths:
        if os.path.isdir(path):
            yield from _files_in(path)
        elif os.path.isfile(path) and (path.name in (*_NAMES, *_MAMBA_NAMES) or path.suffix in _YAML):
            yield path


def _files_in(directory: Path) -> list[Path]:
    try:
        with os.scandir(directory) as entries:
            names = [entry.name for entry in islice(entries, _MOST)]
    except OSError:
        return []
    return [directory / name for name in sorted(names) if os.path.splitext(name)[1] in _YAML]
