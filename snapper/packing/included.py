"""Sources of editable installs that are packed as if they were in the environment, and the paths that refer to them."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from urllib.parse import quote

from snapper.environment.editable import OpenedSource
from snapper.environment.user_site import OpenedSite
from snapper.format.bytecode import replace_paths
from snapper.format.canonicalize import replace_directory
from snapper.format.constraints import path_bytes
from snapper.format.object_code import is_program, replace_in_debug_information, replace_loader_paths
from snapper.format.paths import contains_path, replace_path
from snapper.packing.files import FilePlace
from snapper.settings.directories import home_directory


@dataclass(frozen=True)
class IncludedSource:
    """A directory outside of the environment that is packed as `included_path`.

    `spellings` are the paths by which files refer to it. `directory` is None if it is merged with a directory of the
    environment, so that not all files below that path are in it.
    """

    directory: str | None
    included_path: str
    spellings: tuple[str, ...]


@dataclass(frozen=True)
class IncludedSources:
    """The sources that are packed with an environment, whose files contain `prefix`."""

    prefix: str = ""
    sources: tuple[IncludedSource, ...] = ()

    def place_of(self, path: str) -> FilePlace | None:
        """Return where the file at this path of the environment is if it is from a source."""
        for source in self.sources:
            if source.directory and path.startswith(source.included_path + "/"):
                return FilePlace(source.directory, path[len(source.included_path) + 1 :])
        return None

    def with_new_paths(self, data: bytes, path: str) -> bytes:
        """Return the file at `path` with the paths that the sources will have, where these can be changed.

        They are changed in texts, in compiled modules, and in what the dynamic loader reads of programs: there, they
        are relative to the program. In what only debuggers read, they become relative to the current directory.
        """
        for old, source in self._mentioned_in(data):
            before, after = path_bytes(old), path_bytes(f"{self.prefix}/{source.included_path}")
            if path.endswith(".pyc"):
                data = replace_paths(data, before, after, partial(replace_path, old=before, new=after))
            elif is_program(data):
                relative = posixpath.relpath(source.included_path, posixpath.dirname(path))
                data = replace_loader_paths(data, before, path_bytes(f"$ORIGIN/{relative}"))
                data = replace_in_debug_information(data, before, b".".ljust(len(before), b"/"))
            else:
                data = replace_directory(data, old, f"{self.prefix}/{source.included_path}")
        return data

    def are_mentioned_in(self, data: bytes) -> bool:
        """Return whether the data contains a path that a source has now."""
        is_binary = b"\0" in data
        return any(is_binary or contains_path(data, old) for old, _ in self._mentioned_in(data))

    @cached_property
    def longest_path(self) -> int:
        """The length of the longest path that refers to a source, in bytes."""
        return max((len(path_bytes(path)) for path, _ in self._paths), default=0)

    def _mentioned_in(self, data: bytes) -> list[tuple[str, IncludedSource]]:
        return [(path, source) for path, source in self._paths if path_bytes(path) in data]

    @cached_property
    def _paths(self) -> list[tuple[str, IncludedSource]]:
        """The paths by which files refer to the sources, also in URLs and with `~`, the longest first."""
        home = f"{home_directory()}/"
        paths = {
            text: source
            for source in self.sources
            for spelling in source.spellings
            for text in (spelling, quote(spelling, errors="surrogateescape"), _with_tilde(spelling, home))
        }
        return sorted(paths.items(), key=lambda pair: (-len(pair[0]), pair[0]))


def _with_tilde(path: str, home: str) -> str:
    return f"~/{path.removeprefix(home)}" if path.startswith(home) else path


def included_sources(
    prefix: str, sources: Iterable[OpenedSource], sites: Iterable[OpenedSite] = ()
) -> IncludedSources:
    """Return what workers need to know of the sources, and of the user sites, that are packed with an environment."""
    editables = [
        IncludedSource(str(opened.directory), opened.editable.included_path, opened.editable.spellings)
        for opened in sources
    ]
    merged = [IncludedSource(None, opened.included_path, opened.spellings) for opened in sites]
    return IncludedSources(prefix, (*editables, *merged))
