"""What every packing worker knows from its start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import quote

from snapper.environment.tree import File
from snapper.format.canonicalize import replace_directory
from snapper.format.model import StoredLayer
from snapper.format.paths import contains_path
from snapper.packing.files import FilePlace
from snapper.repository.checked_layers import has_content
from snapper.repository.locks import Intent
from snapper.store import Store


@dataclass(frozen=True)
class IncludedSource:
    """A directory outside of the environment that is packed as `path`.

    `spellings` are the paths by which files refer to it.
    """

    directory: str
    path: str
    spellings: tuple[str, ...]


@dataclass(frozen=True)
class PackContext:
    """What every packing worker knows from its start.

    `directory` is where the environment is, and `prefix` the one in its files. `known` maps diff_ids to layers that
    the store has had, according to the snapshots in it; `checked` are the keys of layers that need not be read again.
    `placeholders` are those that files had in an earlier snapshot, by path, and `kept` the prefixes they contained.
    """

    directory: str
    prefix: str
    store: Store
    intent: Intent
    level: int
    known: Mapping[str, StoredLayer]
    checked: frozenset[bytes]
    placeholders: Mapping[str, str]
    kept: Mapping[str, str] = field(default_factory=dict)
    included: tuple[IncludedSource, ...] = ()

    def find_stored(self, diff_id: str, size: int) -> StoredLayer | None:
        """Return the stored layer with this content of `size` bytes, if one is known and still in the store."""
        stored = self.known.get(diff_id)
        if stored is None or not has_content(self.store, stored, diff_id, size, self.checked):
            return None
        return stored

    def earlier_placeholders(self, file: File) -> tuple[str, ...]:
        """Return the placeholder that the file had in an earlier snapshot, if any, to be tried before others."""
        placeholder = self.placeholders.get(file.path)
        return (placeholder,) if placeholder else ()

    def kept_prefixes(self, file: File) -> tuple[str, ...]:
        """Return the prefix that the file kept in an earlier snapshot, because it could not be replaced, if any."""
        kept = self.kept.get(file.path)
        return (kept,) if kept else ()

    def place_of(self, file: File) -> FilePlace:
        """Return where to read the file from."""
        for source in self.included:
            if file.path.startswith(source.path + "/"):
                return FilePlace(source.directory, file.path[len(source.path) + 1 :])
        return FilePlace(self.directory, file.path)

    @cached_property
    def included_paths(self) -> tuple[tuple[str, str], ...]:
        """The paths by which files refer to included sources, also in URLs, and what replaces them."""
        paths = {}
        for source in self.included:
            for spelling in source.spellings:
                for text in (spelling, quote(spelling, errors="surrogateescape")):
                    paths[text] = f"{self.prefix}/{source.path}"
        return tuple(sorted(paths.items(), key=lambda pair: (-len(pair[0]), pair[0])))

    def with_included_paths(self, data: bytes) -> bytes:
        """Return a text with the paths that included sources will have; other files unchanged."""
        for old, new in self.included_paths:
            data = replace_directory(data, old, new)
        return data

    def has_included_paths(self, data: bytes) -> bool:
        """Return whether the data refers to an included source by the path that this has now."""
        return any(contains_path(data, old) for old, _ in self.included_paths)
