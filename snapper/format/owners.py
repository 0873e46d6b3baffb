"""Order the files in a report by whose they are, and tell those that matter from caches."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import NamedTuple

from snapper.format.constraints import path_bytes
from snapper.format.model import Kind

#: The user's own files first, then those of pip, then those of conda packages.
_ORDER: Mapping[Kind, int] = {"files": 0, "pip": 1, "link": 2, "package": 2}

#: Directories of caches, which the programs that use them make again.
_CACHES = {".ipynb_checkpoints", ".pytest_cache", ".mypy_cache", ".ruff_cache"}


class OwnedPaths(NamedTuple):
    """Paths of files; the first `own` of them are in no conda package.

    `harmless` are further files that `is_harmless`.
    """

    paths: tuple[str, ...]
    own: int
    harmless: tuple[str, ...] = ()

    @property
    def with_harmless(self) -> tuple[str, ...]:
        """All paths, the harmless ones last."""
        return (*self.paths, *self.harmless)


NO_PATHS = OwnedPaths((), 0)


def order_by_owner(kinds: Mapping[str, Kind]) -> OwnedPaths:
    """Return the paths in the order of whose they are, given the kinds of the layers that hold them."""
    ordered = sorted(kinds, key=lambda path: (_ORDER[kinds[path]], path_bytes(path)))
    paths = tuple(path for path in ordered if not is_harmless(path))
    own = sum(kinds[path] in ("files", "pip") for path in paths)
    return OwnedPaths(paths, own, tuple(filter(is_harmless, ordered)))


def is_harmless(path: str) -> bool:
    """Return whether nobody notices another prefix in the file: only a linker reads it, or it is a cache.

    Of what is in `__pycache__`, that is true of numba's caches: compiled modules and libraries there are loaded.
    """
    directory, name = posixpath.split(path)
    return (
        is_static_library(path)
        or path.startswith("var/cache/")
        or (name.endswith((".nbi", ".nbc")) and posixpath.basename(directory) == "__pycache__")
        or not _CACHES.isdisjoint(directory.split("/"))
    )


def is_static_library(path: str) -> bool:
    """Return whether the file has the name of a static library."""
    name = posixpath.basename(path)
    return name.startswith("lib") and name.endswith(".a")
