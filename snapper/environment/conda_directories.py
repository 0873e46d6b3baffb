"""Where conda keeps environments on this machine: its root prefixes and its envs directories.

Variables and the `.condarc` of the user and the system are their own decision. What is found in other ways may belong
to other users, and a root prefix may have come from a store: environments are found there, but they are only restored
into directories that no other user controls, and the `.condarc` of a root prefix that snapper manages has no say.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from snapper.environment.condarc import configured_envs_dirs
from snapper.environment.control import control_problem_in_home, owner_problem
from snapper.format.model import STATE_DIRECTORY
from snapper.settings.directories import home_directory

#: Where the root prefixes of installations usually are, below the home or absolute.
_USUAL_ROOTS = (
    "anaconda3",
    "miniconda3",
    "miniforge3",
    "mambaforge",
    "micromamba",
    ".local/share/mamba",
    "/opt/conda",
    "/opt/miniconda3",
    "/opt/miniforge3",
)
_CONDARC_FILES = ("~/.condarc", "~/.conda/.condarc", "~/.mambarc", "/etc/conda/.condarc")


class EnvsDirectory(NamedTuple):
    """A directory that environments may be restored into; `is_chosen` if the user or the system's settings name it."""

    path: Path
    is_chosen: bool

    def problem_at(self, name: str) -> str:
        """Return how another user controls the environment of that name in this directory, "" if none does.

        Others may write to a directory that was chosen.
        """
        prefix = self.path / name
        return owner_problem(prefix) if self.is_chosen else control_problem_in_home(prefix)


def envs_dirs() -> list[Path]:
    """Return the directories that conda finds environments in, in the order in which it chooses one."""
    roots = find_roots()
    by_roots = (directory for root in roots for directory in _from_condarc(root / ".condarc"))
    return _unique([*_chosen_envs_dirs(), *by_roots, *(root / "envs" for root in roots), user_envs_dir()])


def envs_dirs_to_restore_into() -> list[EnvsDirectory]:
    """Return the directories that environments may be restored into, in the order in which conda chooses one.

    They may not exist, and this user may not be able to write to them.
    """
    roots = trusted_roots()
    chosen = _chosen_envs_dirs()
    for root in roots:
        if not _is_managed(root):
            chosen += _from_condarc(root / ".condarc")
    of_mamba = [root / "envs" for root in _mamba_root()]
    of_roots = (root / "envs" for root in find_roots() if not _leads_elsewhere(root))
    in_order = _unique([*chosen, *of_roots, user_envs_dir()])
    return [EnvsDirectory(path, path in chosen or path in of_mamba) for path in in_order]


def user_envs_dir() -> Path:
    """Return the directory that conda uses if all others are read-only; it may not exist yet."""
    return home_directory() / ".conda" / "envs"


def find_roots() -> list[Path]:
    """Return the root prefixes of conda, mamba and micromamba on this machine, as far as they can be found."""
    existing = (path for path in usual_roots() if os.path.isdir(path))
    return _unique([*_root_of_program(), *_root_in_use(), *_mamba_root(), *existing])


def trusted_roots() -> list[Path]:
    """Return the root prefixes that no other user controls."""
    return [root for root in find_roots() if not control_problem_in_home(root)]


def usual_roots() -> list[Path]:
    """Return where the root prefixes of conda installations usually are."""
    home = home_directory()
    return [home / path for path in _USUAL_ROOTS]


def condabin() -> str:
    """Return the directory with conda's commands, "" if there is none.

    Another user's installation only counts if it is the one that this user runs.
    """
    chosen = [*_root_of_program(), *_mamba_root()]
    for root in find_roots():
        directory = root / "condabin"
        if os.path.isdir(directory) and (root in chosen or not control_problem_in_home(directory)):
            return str(directory)
    return ""


def _chosen_envs_dirs() -> list[Path]:
    """Return the directories that variables, the user's settings, and the system's settings of conda name."""
    directories = [*_from_variables()]
    if os.environ.get("CONDARC"):
        directories += _from_condarc(_expand(os.environ["CONDARC"]))
    for file in map(_expand, _CONDARC_FILES):
        if not control_problem_in_home(file):
            directories += _from_condarc(file)
    return directories


def _from_variables() -> Iterator[Path]:
    for variable in ("CONDA_ENVS_DIRS", "CONDA_ENVS_PATH"):
        for directory in os.environ.get(variable, "").split(os.pathsep):
            if directory:
                yield _expand(directory)


def _from_condarc(file: Path) -> list[Path]:
    return [_expand(text) for text in configured_envs_dirs(file)]


def _root_of_program() -> list[Path]:
    """Return the root prefix of the conda that this user runs, if any."""
    executable = os.environ.get("CONDA_EXE") or shutil.which("conda")
    return [Path(os.path.realpath(executable)).parent.parent] if executable else []


def _root_in_use() -> list[Path]:
    """Return what must be the root prefix of the active environment, if any."""
    active = os.environ.get("CONDA_PREFIX")
    if not active:
        return []
    outer = Path(active).parent
    if outer.name == "envs":
        return [outer.parent]
    has_conda = os.path.isdir(Path(active, "condabin")) and not _is_managed(Path(active))
    return [Path(active)] if has_conda or os.environ.get("CONDA_DEFAULT_ENV") == "base" else []


def _mamba_root() -> list[Path]:
    """Return the root prefix that the user has chosen for mamba, if any."""
    chosen = os.environ.get("MAMBA_ROOT_PREFIX")
    return [_expand(chosen)] if chosen else []


def _is_managed(prefix: Path) -> bool:
    """Return whether snapper has packed or restored the environment, so that its files may be from a store."""
    return os.path.lexists(prefix / STATE_DIRECTORY)


def _leads_elsewhere(root: Path) -> bool:
    """Return whether the envs directory of a root prefix is a link that may be from a store."""
    return _is_managed(root) and os.path.islink(root / "envs")


def _expand(text: str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(os.path.expandvars(text))))


def _unique(paths: Iterable[Path]) -> list[Path]:
    return list(dict.fromkeys(paths))
