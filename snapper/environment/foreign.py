"""What is in the directory of an environment without being part of it, and survives its replacement.

These are other environments and the package cache of a base environment, what a restore has kept of an earlier
environment where it can put nothing beside the directory, and what file systems have in their top directory. See
`constraints.is_foreign` for snapshots.
"""

from __future__ import annotations

import os

from snapper.format.constraints import is_foreign_name, kept_of

#: Why directories of these names are skipped.
_REASONS = {
    "envs": "other environments are in the directory of this name",
    "pkgs": "conda keeps its package cache in the directory of this name",
}
_KEPT = "a restore has kept this of an earlier environment"


def why_foreign(path: str) -> str | None:
    """Return why what is at the path is not part of the environment, "" if that goes without saying; None if it is."""
    if "/" in path:
        return None
    reason = _REASONS.get(path.casefold())
    if reason is None and is_foreign_name(path):
        return "" if kept_of(path) is None else _KEPT
    return reason


def is_foreign(path: str) -> bool:
    """Return whether what is at the path survives the replacement of the environment."""
    return why_foreign(path) is not None


def foreign_names(directory: int) -> list[str]:
    """List the names in an open environment that are not part of it and must survive its replacement.

    There can also be links of these names. May raise OSError.
    """
    return sorted(name for name in os.listdir(directory) if is_foreign(name))
