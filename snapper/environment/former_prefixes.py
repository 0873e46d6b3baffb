"""Other environments at paths at which an environment was earlier, and which of its files mean those.

After a copy, the original may still be there; after a move, there may be a new environment. Both are named by the same
path as this one was when its older files were written.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from snapper.environment.conda import META, is_environment
from snapper.environment.dependency import OtherEnvironment
from snapper.environment.index import Index
from snapper.environment.tree import File
from snapper.format.times import clamped
from snapper.fs.birth_times import birth_time_ns
from snapper.fs.pinned import PinnedDirectory

#: Later than all times of files.
_NEVER = sys.maxsize


@dataclass(frozen=True)
class OtherEnvironments:
    """The paths of other environments, each with the time from which files can mean it, in nanoseconds.

    The `index` has the files that meant them when it was written. Those that have not changed since mean the same.
    """

    since: Mapping[str, int] = field(default_factory=dict)
    index: Index | None = None

    def named_by(self, file: File) -> tuple[str, ...]:
        """Return the other environments that a file of the user means if it contains their paths."""
        row = self.index.rows.get(file.path) if self.index else None
        is_known = row is not None and (row[0], row[2]) == (file.size, clamped(file.mtime_ns))
        return tuple(
            path
            for path, since in self.since.items()
            if (path in self._known.get(file.path, ()) if is_known else file.mtime_ns >= since)
        )

    @cached_property
    def _known(self) -> Mapping[str, tuple[str, ...]]:
        """The environments that each file meant when the index was written."""
        return by_file(self.index.header.other_environments) if self.index else {}


def by_file(environments: Iterable[OtherEnvironment]) -> dict[str, tuple[str, ...]]:
    """Return the paths of the environments that each file means."""
    named: dict[str, list[str]] = defaultdict(list)
    for each in environments:
        for file in each.files:
            named[file].append(each.prefix)
    return {file: tuple(prefixes) for file, prefixes in named.items()}


def by_environment(named: Mapping[str, Iterable[str]]) -> tuple[OtherEnvironment, ...]:
    """Return the environments that files mean, and these files, from the paths of those that each file means."""
    files: dict[str, list[str]] = defaultdict(list)
    for file in sorted(named):
        for prefix in named[file]:
            files[prefix].append(file)
    return tuple(OtherEnvironment(prefix, tuple(files[prefix])) for prefix in sorted(files))


def is_other_environment(path: str, directory: PinnedDirectory) -> bool:
    """Return whether there is an environment at the path that is not the one in the directory."""
    try:
        is_same = os.path.samestat(os.stat(path), directory.status)
    except OSError:
        return False
    return not is_same and is_environment(Path(path))


def find_other_environments(
    directory: PinnedDirectory, prefixes: Iterable[str], index: Index | None
) -> OtherEnvironments:
    """Find the other environments that are at prefixes in files, or that files meant when the index was written."""
    known = [each.prefix for each in index.header.other_environments] if index else []
    since = dict.fromkeys(known, 0)
    since |= {
        path: max(_begin(str(directory.path)), _begin(path))
        if is_other_environment(path, directory)
        else _NEVER
        for path in prefixes
    }
    return OtherEnvironments(
        {path: time for path, time in since.items() if time < _NEVER or path in known}, index
    )


def _begin(prefix: str) -> int:
    """Return when an environment was created, or copied, as far as its records tell: moving does not count."""
    times = [_NEVER]
    with suppress(OSError), os.scandir(f"{prefix}/{META}") as entries:
        times += [birth_time_ns(entry.path) for entry in entries]
    return min(times)
