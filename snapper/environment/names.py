"""Names of environments that have a meaning of their own on a machine.

A store can have environments with any of them, because others or earlier versions may have written it.
"""

from __future__ import annotations

from snapper.environment.conda import META
from snapper.format.constraints import SHARED_DIRECTORIES

#: conda's names for the environment that it is installed in itself; snapshots of it have the first one.
ROOT_NAMES = ("base", "root")

#: An envs directory with something called `conda-meta` would be an environment. `envs` and `pkgs` are no part of the
#: environment around them. `root` names another environment than the one in the directory.
_RESERVED = frozenset({META, *SHARED_DIRECTORIES, "root"})


def can_be_in_envs_dir(name: str) -> bool:
    """Return whether an environment of that name can be beside others: conda finds it by the name of its directory."""
    return name not in ROOT_NAMES and not is_reserved(name)


def is_reserved(name: str) -> bool:
    """Return whether no environment must be packed by this name.

    Some file systems do not distinguish upper and lower case.
    """
    return name.casefold() in _RESERVED
