"""What has changed in an environment since its index was written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from snapper.environment import conda
from snapper.environment.index import Index
from snapper.environment.state import read_index_header
from snapper.environment.tree import Tree
from snapper.format import bytecode
from snapper.format.times import clamped


@dataclass(frozen=True)
class Drift:
    """The paths that differ from the index, sorted, without modules that Python compiled from other files."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]

    @property
    def paths(self) -> list[str]:
        return sorted((*self.added, *self.removed, *self.changed))


def find_drift(tree: Tree, index: Index) -> Drift:
    """Compare the files on disk with the index: paths, sizes, modes, and mtimes."""
    added: list[str] = []
    changed: list[str] = []
    present: set[str] = set()
    rows = index.rows
    for file in tree.files:
        if file.type != "directory":
            present.add(file.path)
            row = rows.get(file.path)
            if row is None:
                added.append(file.path)
            elif row[:3] != (file.size, file.mode, clamped(file.mtime_ns)):
                changed.append(file.path)
    removed = (path for path in rows if path not in present and not path.endswith("/"))

    def without_compiled(paths: Iterable[str]) -> tuple[str, ...]:
        sources = ((path, bytecode.probable_source_of(path)) for path in paths)
        return tuple(sorted(path for path, source in sources if not (source in present or source in rows)))

    return Drift(without_compiled(added), without_compiled(removed), without_compiled(changed))


def is_touched(prefix: Path) -> bool:
    """Return whether entries were added to or removed from common directories since the index was written.

    These are directories that installing or removing a package changes. Return True also if that is unknown. This
    takes a few stat calls, where `find_drift` needs the whole tree.
    """
    header = read_index_header(prefix)
    if header is None:
        return True
    try:
        directories = [
            *(prefix / name for name in (conda.META, "bin", "lib", "include", "share", "etc")),
            *prefix.glob("lib/python*/site-packages"),
        ]
        return any(
            directory.stat().st_mtime_ns >= header.taken for directory in directories if directory.exists()
        )
    except OSError:
        return True
