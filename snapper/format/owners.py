"""Order the files in a report by whose they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from snapper.format.model import Kind, path_bytes

#: The user's own files first, then those of pip, then those of conda packages.
_ORDER: Mapping[Kind, int] = {"files": 0, "pip": 1, "link": 2, "package": 2}


class OwnedPaths(NamedTuple):
    """Paths of files; the first `own` of them are in no conda package."""

    paths: tuple[str, ...]
    own: int


NO_PATHS = OwnedPaths((), 0)


def order_by_owner(kinds: Mapping[str, Kind]) -> OwnedPaths:
    """Return the paths in the order of whose they are, given the kinds of the layers that hold them."""
    ordered = sorted(kinds, key=lambda path: (_ORDER[kinds[path]], path_bytes(path)))
    return OwnedPaths(tuple(ordered), sum(kind in ("files", "pip") for kind in kinds.values()))
