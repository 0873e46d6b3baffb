"""Find credentials in the files that are packed: whoever can read the snapshot can use them.

The usual places are always searched. Of other files, only those that no package has are read, if they are small texts
and have changed since they were last packed. This finds what users and their tools write, such as the settings of git
in a source, without reading the many files of packages. The smallest are read first, up to a limit.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing

from snapper.environment.conda import Record
from snapper.environment.credential_forms import contains_token
from snapper.environment.credentials import find_in_usual_places
from snapper.environment.tree import File
from snapper.fs.directories import DirectoryTree, RecentTrees
from snapper.fs.moves import Entry
from snapper.fs.pinned import PinnedDirectory
from snapper.fs.small_files import read_entry
from snapper.packing.files import FilePlace
from snapper.packing.plan import PackPlan

#: The largest file that is searched, in bytes.
_LARGEST = 64 << 10

#: How many files are searched, and how many bytes of them: this takes some tenths of a second.
_MOST_FILES = 10_000
_MOST_SEARCHED = 32 << 20

#: How the names of compiled files end.
_COMPILED = (".pyc", ".so", ".a", ".o", ".nbi", ".nbc")


def find_credentials(
    directory: PinnedDirectory,
    records: Sequence[Record],
    plan: PackPlan,
    unchanged: Collection[str],
    place_of: Callable[[File], FilePlace],
) -> tuple[str, ...]:
    """Return the paths of files with credentials, sorted.

    Those of `unchanged` paths are only read at usual places. Files that cannot be read are skipped.
    """

    def open_tree(top: str) -> DirectoryTree:
        return DirectoryTree(directory if top == str(directory) else os.path.realpath(top), make=False)

    paths = set(find_in_usual_places(directory, records))
    files = (file for file in _texts_without_package(plan) if file.path not in unchanged)
    with closing(RecentTrees(open_tree)) as trees:
        remaining = _MOST_SEARCHED
        for file in heapq.nsmallest(_MOST_FILES, files, key=lambda file: file.size):
            remaining -= file.size
            if remaining >= 0 and contains_token(_read(trees, place_of(file))):
                paths.add(file.path)
    return tuple(sorted(paths))


def _texts_without_package(plan: PackPlan) -> Iterator[File]:
    """Yield the small files that no package has, and those that say from where pip has installed packages."""
    for owner_files in plan.others:
        for file, *_ in owner_files.items:
            is_wanted = not owner_files.owner or file.path.endswith(".dist-info/direct_url.json")
            if (
                is_wanted
                and file.type == "file"
                and file.size <= _LARGEST
                and not file.path.endswith(_COMPILED)
            ):
                yield file


def _read(trees: RecentTrees[str], place: FilePlace) -> bytes:
    parent, _, name = place.path.rpartition("/")
    try:
        return read_entry(Entry(trees[place.top][parent], name), _LARGEST)
    except OSError:
        return b""
