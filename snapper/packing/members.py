"""Decide which files of an environment become members of layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from snapper.environment.tree import File, Tree
from snapper.format.constraints import USUAL_DIRECTORY_MODE, directory_mode


def members(tree: Tree) -> Iterator[File]:
    """Yield the files that become members of layers: all but directories that are created as members need them."""
    non_empty = tree.parents
    return (
        file
        for file in tree.files
        if file.type != "directory"
        or directory_mode(file.path, file.mode) != USUAL_DIRECTORY_MODE
        or file.path not in non_empty
    )


def cached_sources(paths: Iterable[str]) -> frozenset[str]:
    """Return the modules of which numba has cached functions: it compares their times to the nanosecond.

    It names its caches `__pycache__/MODULE.FUNCTION-LINE.VERSION.nbi`.
    """
    caches = [path.rpartition("__pycache__/") for path in paths if path.endswith(".nbi")]
    return frozenset(f"{directory}{name.partition('.')[0]}.py" for directory, _, name in caches)
