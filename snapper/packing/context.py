"""What every packing worker knows from its start."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

from snapper.environment.tree import File
from snapper.format import object_code
from snapper.format.bytecode import probable_source_of
from snapper.format.model import LARGEST_LAYER, StoredLayer
from snapper.fs.small_files import read_beneath
from snapper.packing.files import FilePlace
from snapper.packing.included import IncludedSources
from snapper.repository.checked_layers import has_content
from snapper.repository.locks import Intent
from snapper.store import Store

#: How many prefixes of earlier snapshots are looked for in all files.
_MOST_FOREIGN = 8


@dataclass(frozen=True)
class PackContext:
    """What every packing worker knows from its start.

    `directory` is where the environment is, and `prefix` the one in its files; some may contain `other_prefixes`.
    `known` maps diff_ids to layers that the store has had, according to the snapshots in it; `checked` are the keys of
    layers that need not be read again. `placeholders` are those that files had in an earlier snapshot, by path, and
    `kept` the prefixes they contained.
    Files in `others` mean other environments by these prefixes, by path.
    `followed` are the paths that links in the environment lead to, whose files are packed in place of the links.
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
    included: IncludedSources = field(default_factory=IncludedSources)
    followed: Mapping[str, str] = field(default_factory=dict)
    other_prefixes: tuple[str, ...] = ()
    others: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def prefixes(self) -> tuple[str, ...]:
        """All prefixes that files may contain."""
        return (self.prefix, *self.other_prefixes)

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

    @cached_property
    def foreign_prefixes(self) -> tuple[str, ...]:
        """The most frequent prefixes that any file kept in an earlier snapshot, if the environment is not there now.

        Copies of these files contain them, too.
        """
        counts = Counter(
            kept for kept in self.kept.values() if not any(map(partial(_overlap, kept), self.prefixes))
        )
        return tuple(prefix for prefix, _ in counts.most_common(_MOST_FOREIGN))

    def kept_in(self, file: File, data: bytes) -> tuple[str, ...]:
        """Return the prefixes that the file may keep: its earlier one, or foreign ones if it is no text."""
        kept = self.kept_prefixes(file)
        if kept or b"\0" not in data:
            return kept
        return tuple(prefix for prefix in self.foreign_prefixes if object_code.mentions(data, prefix))

    def without(self, prefixes: tuple[str, ...]) -> PackContext:
        """Return what is known about files in which the prefixes are not the environment's."""
        view = self._views.get(prefixes)
        if view is None:
            first, *rest = (prefix for prefix in self.prefixes if prefix not in prefixes)
            view = self._views[prefixes] = replace(self, prefix=first, other_prefixes=tuple(rest))
        return view

    @cached_property
    def _views(self) -> dict[tuple[str, ...], PackContext]:
        return {}

    def is_copy(self, other: str, path: str, data: bytes) -> bool:
        """Return whether the environment at another path has the same file: this one was copied from there.

        What Python has compiled is a copy if its source is one.
        """
        source = probable_source_of(path)
        with suppress(OSError):
            if source is not None:
                path, data = source, read_beneath(Path(self.directory), source, LARGEST_LAYER)
        with suppress(OSError):
            return read_beneath(Path(other), path, len(data)) == data
        return False

    @staticmethod
    def is_copy_of_link(other: str, link: File) -> bool:
        """Return whether the environment at another path has the same link."""
        with suppress(OSError):
            return os.readlink(f"{other}/{link.path}") == link.target
        return False

    def place_of(self, file: File) -> FilePlace:
        """Return where to read the file from."""
        if file.path in self.followed:
            return FilePlace(*posixpath.split(self.followed[file.path]))
        return self.included.place_of(file.path) or FilePlace(self.directory, file.path)


def _overlap(first: str, second: str) -> bool:
    """Return whether two paths are the same, or one is below the other."""
    return f"{first}/".startswith(f"{second}/") or f"{second}/".startswith(f"{first}/")
