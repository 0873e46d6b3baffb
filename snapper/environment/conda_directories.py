"""Where conda keeps environments on this machine: its root prefixes and its envs directories.

Variables and the `.condarc` of the user and the system are their own decision. What is found in other ways may belong
to other users: environments are found there, but they are only restored into directories that no other user controls.

A root prefix may be a managed environment, whose files may have come from a store: it is one if the user or the system
has conda there, and its `envs` directory counts, but nothing in it says where other root prefixes or envs directories
are.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from snapper.environment.condarc import EnvsDirs, merge, read_envs_dirs
from snapper.environment.condarc_files import files_in_prefix, files_of_variables, system_files, user_files
from snapper.environment.control import control_problem, owner_problem
from snapper.environment.managed import is_inside_managed, managed_environments
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


class EnvsDirectory(NamedTuple):
    """A directory that environments may be restored into; `is_chosen` if the user or the system's settings name it."""

    path: Path
    is_chosen: bool

    def problem_at(self, name: str) -> str:
        """Return how another user controls the environment of that name in this directory, "" if none does.

        Others may write to a directory that was chosen.
        """
        prefix = self.path / name
        return owner_problem(prefix) if self.is_chosen else control_problem(prefix)


class CondaCommands(NamedTuple):
    """The root prefix with conda's commands, and the directory of these if they may be in every environment's PATH.

    Both are empty if there is none.
    """

    root: str = ""
    condabin: str = ""


def envs_dirs() -> list[Path]:
    """Return the directories that conda finds environments in, in the order in which it chooses one."""
    return _unique([*configured_envs_dirs(), *_envs_dirs_of_roots(), user_envs_dir()])


def configured_envs_dirs() -> list[Path]:
    """Return the directories that variables and conda's settings name, in the order in which conda searches them."""
    return _chosen_envs_dirs(find_roots())


def envs_dirs_to_restore_into() -> list[EnvsDirectory]:
    """Return the directories that environments may be restored into, in the order in which conda chooses one.

    They may not exist, and this user may not be able to write to them.
    """
    chosen = _chosen_envs_dirs(trusted_roots())
    of_mamba = [root / "envs" for root in _mamba_root()]
    in_order = _unique([*chosen, *_envs_dirs_of_roots(), user_envs_dir()])
    return [EnvsDirectory(path, path in chosen or path in of_mamba) for path in in_order]


def user_envs_dir() -> Path:
    """Return the directory that conda uses if all others are read-only; it may not exist yet."""
    return home_directory() / ".conda" / "envs"


def find_roots() -> list[Path]:
    """Return the root prefixes of conda, mamba and micromamba on this machine, as far as they can be found."""
    existing = (path for path in usual_roots() if os.path.isdir(path))
    found = _unique([*_root_of_program(), *_root_in_use(), *_mamba_root(), *existing])
    return [root for root in found if not is_inside_managed(root)]


def trusted_roots() -> list[Path]:
    """Return the root prefixes that no other user controls."""
    return [root for root in find_roots() if not control_problem(root)]


def usual_roots() -> list[Path]:
    """Return where the root prefixes of conda installations usually are."""
    home, data = home_directory(), os.environ.get("XDG_DATA_HOME", "")
    return [*(home / path for path in _USUAL_ROOTS), *([Path(data, "mamba")] if os.path.isabs(data) else [])]


def conda_commands() -> CondaCommands:
    """Return where conda's commands are.

    Another user's installation only counts if it is the one that this user runs.
    """
    chosen = [*_root_of_program(), *_mamba_root()]
    for root in find_roots():
        directory = root / "condabin"
        if os.path.isdir(directory) and (root in chosen or not control_problem(directory)):
            return CondaCommands(str(root), "" if managed_environments(directory) else str(directory))
    return CondaCommands()


def _chosen_envs_dirs(roots: Iterable[Path]) -> list[Path]:
    """Return the directories that variables and the settings of the user, the system, and these root prefixes name.

    They are in conda's order. Files that another user controls do not count, except those in a root prefix of another
    user, and those that variables name; neither do files that may have come from a store.
    """
    files = [
        *_own(system_files()),
        *(file for root in reversed([*roots]) for file in files_in_prefix(root)),
        *_own(_files_in_prefix_of("CONDA_ROOT")),
        *_own(user_files()),
        *_own(_files_in_prefix_of("CONDA_PREFIX")),
        *files_of_variables(),
    ]
    configured = [read_envs_dirs(file) for file in _unique(files) if not managed_environments(file)]
    return _unique(map(_expand, merge([*configured, *_from_variables()])))


def _envs_dirs_of_roots() -> list[Path]:
    directories = [root / "envs" for root in find_roots()]
    return [directory for directory in directories if not managed_environments(directory)]


def _from_variables() -> Iterator[EnvsDirs]:
    for variable in ("CONDA_ENVS_PATH", "CONDA_ENVS_DIRS"):
        directories = map(str.strip, os.environ.get(variable, "").split(os.pathsep))
        yield EnvsDirs(tuple(filter(None, directories)))


def _files_in_prefix_of(variable: str) -> Iterator[Path]:
    prefix = os.environ.get(variable, "")
    return files_in_prefix(Path(prefix)) if os.path.isabs(prefix) else iter(())


def _own(files: Iterable[Path]) -> Iterator[Path]:
    return (file for file in files if not control_problem(file))


def _root_of_program() -> list[Path]:
    """Return the root prefix of the conda that this user runs, if any.

    If a managed environment has the program, or a link to it, it is the root prefix, unless it is in an envs directory.
    """
    found = os.environ.get("CONDA_EXE") or shutil.which("conda")
    if not found:
        return []
    program = Path(os.path.abspath(found))
    managed = [Path(prefix) for prefix in sorted(managed_environments(program))]
    if not managed:
        return [Path(os.path.realpath(program)).parent.parent]
    named = _chosen_envs_dirs([])
    return [prefix for prefix in managed if prefix.parent.name != "envs" and prefix.parent not in named]


def _root_in_use() -> list[Path]:
    """Return what must be the root prefix of the active environment, if any."""
    active = os.environ.get("CONDA_PREFIX")
    if not active:
        return []
    outer = Path(active).parent
    if outer.name == "envs":
        return [outer.parent]
    has_conda = os.path.isdir(Path(active, "condabin")) and not managed_environments(Path(active))
    return [Path(active)] if has_conda or os.environ.get("CONDA_DEFAULT_ENV") == "base" else []


def _mamba_root() -> list[Path]:
    """Return the root prefix that the user has chosen for mamba, if any."""
    chosen = os.environ.get("MAMBA_ROOT_PREFIX")
    return [_expand(chosen)] if chosen else []


def _expand(text: str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(os.path.expandvars(text))))


def _unique(paths: Iterable[Path]) -> list[Path]:
    return list(dict.fromkeys(paths))
