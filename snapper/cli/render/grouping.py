"""Shorten lists of paths without hiding any of the user's files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from snapper.cli.render.text import plural

#: How many lines a list has before the files of a directory share one, and that of files of conda packages.
_MOST = 50
_MOST_PACKAGED = 10

_CACHES = {"__pycache__", ".ipynb_checkpoints", ".pytest_cache", ".mypy_cache", ".ruff_cache"}


def path_lines(paths: Sequence[str], most: int = _MOST) -> list[str]:
    """Return a line for each path; of more than `most`, for each directory of the lowest level that has no more lines.

    If even the topmost directories are more, each has a line.
    """
    lines = list(paths)
    level = max((path.count("/") for path in paths), default=0)
    while len(lines) > most and level:
        lines = _directory_lines(paths, level)
        level -= 1
    return lines


def lines_by_owner(paths: Sequence[str], own: int) -> list[str]:
    """Return lines for files with another prefix. The first `own` paths are those of files in no conda package.

    These come first. Files in which nobody notices it come last, in one line.
    """
    harmful, harmful_packaged = (
        [path for path in part if not _is_harmless(path)] for part in (paths[:own], paths[own:])
    )
    harmless = [path for path in paths if _is_harmless(path)]
    return [*path_lines(harmful), *path_lines(harmful_packaged, _MOST_PACKAGED), *_harmless_lines(harmless)]


def _is_harmless(path: str) -> bool:
    """Return whether nobody notices another prefix in the file: only a linker reads it, or it is a cache."""
    return (
        path.endswith(".a") or path.startswith("var/cache/") or not _CACHES.isdisjoint(path.split("/")[:-1])
    )


def _harmless_lines(paths: Sequence[str]) -> list[str]:
    libraries = sum(path.endswith(".a") for path in paths)
    caches = len(paths) - libraries
    counts = [
        f"{libraries:,} static {'library' if libraries == 1 else 'libraries'}" if libraries else "",
        f"{plural(caches, 'file')} in caches" if caches else "",
    ]
    return (
        [f"and {' and '.join(filter(None, counts))}, where it does no harm (--json lists all)"]
        if paths
        else []
    )


def _directory_lines(paths: Sequence[str], level: int) -> list[str]:
    """Return a line for each directory at this level or above that has several files, and for each other file."""
    groups: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        directories = path.split("/")[:-1]
        groups["/".join(directories[:level])].append(path)
    lines: list[str] = []
    for directory, files in groups.items():
        lines += (
            files if len(files) == 1 or not directory else [f"{directory}/: {plural(len(files), 'file')}"]
        )
    return lines
