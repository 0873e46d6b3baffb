"""What is packed together, and what packing it results in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from snapper.environment.conda import FileFacts, PathEntry
from snapper.environment.tree import File
from snapper.format.model import Kind, Layer


class PackItem(NamedTuple):
    """A file to pack.

    `entry` is its package's, if it has one. `linked` is the path, packed before, that it is a hard link to.
    `made_at_link` says that it was created when its package was installed, and `source_mtime` is the time of the
    source that it was compiled from, in seconds, if that gets LINK_TIME. What is `prebuilt` was compiled on another
    machine. A cache depends on the `exact_time`.
    """

    file: File
    entry: PathEntry | None = None
    linked: str = ""
    made_at_link: bool = False
    source_mtime: int | None = None
    prebuilt: bool = False
    exact_time: bool = False


class RelocatedFacts(NamedTuple):
    """Checksum and size of a relocated file on disk and as it is stored."""

    disk: FileFacts
    stored: FileFacts


@dataclass
class FoundPrefixes:
    """What files contain besides the usual prefix: `own`, other prefixes, and the paths of `others`, by file.

    These are other environments at former prefixes, which the files mean.
    """

    own: set[str] = field(default_factory=set)
    others: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def update(self, more: FoundPrefixes) -> None:
        self.own |= more.own
        self.others |= more.others


@dataclass(frozen=True)
class FileGroup:
    """Files to pack into layers of one kind and owner.

    `records` are the paths of conda records among them, and `facts` is what is known of files that these describe.
    """

    kind: Kind
    owner: str
    number: int
    items: tuple[PackItem, ...]
    records: frozenset[str] = frozenset()
    facts: Mapping[str, RelocatedFacts] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return sum(item.file.size for item in self.items)


@dataclass(frozen=True)
class CollectedGroup:
    """The layers of a group, and the identities of those that were written to the store, "" for the others.

    `unproved` are files that differ from what their package installed, `facts` describes relocated files, and
    `unrelocated` are paths with a prefix that cannot be relocated. `rewritten` are paths of files and links that
    restores write otherwise than they are, or report, even at the same prefix. `prefixes` says what files contain
    besides the usual prefix.
    """

    layers: tuple[Layer, ...]
    written: tuple[str, ...]
    unproved: tuple[PackItem, ...] = ()
    facts: Mapping[str, RelocatedFacts] = field(default_factory=dict)
    unrelocated: tuple[str, ...] = ()
    rewritten: tuple[str, ...] = ()
    prefixes: FoundPrefixes = field(default_factory=FoundPrefixes)
