"""Shorten lists of paths without hiding any of the user's files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from snapper.cli.render.text import plural
from snapper.format.owners import is_static_library

#: How many lines a list has before the files of a directory share one, and that of files of conda packages.
_MOST = 50
_MOST_PACKAGED = 10


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
    """Return lines for files; the first `own` of them are in no conda package."""
    return [*path_lines(paths[:own]), *path_lines(paths[own:], _MOST_PACKAGED)]


def count_harmless(paths: Sequence[str]) -> str:
    """Return how many static libraries and caches these harmless files are."""
    libraries = sum(map(is_static_library, paths))
    caches = len(paths) - libraries
    counts = [
        f"{libraries:,} static {'library' if libraries == 1 else 'libraries'}" if libraries else "",
        f"{plural(caches, 'file')} in caches" if caches else "",
    ]
    return " and ".join(filter(None, counts))


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
