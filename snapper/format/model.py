"""The types of the store format (docs/format.md) and their constraints."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, NamedTuple

from snapper.format.constraints import (
    LONGEST_PREFIX,
    check_digest,
    check_mode,
    check_path,
    is_foreign,
    is_placeholder,
    is_valid_name,
    path_bytes,
)

FORMAT = 1

#: How much data a writer puts into one layer, in bytes before compression.
LAYER_SIZE = 32 * 1024 * 1024

#: The maximum size of a segment, in bytes: data, and at most 3 blocks of headers and padding for each member.
LARGEST_LAYER = 4 * LAYER_SIZE

#: The maximum size of an object in a store, in bytes: zstd adds little to data that cannot be compressed.
LARGEST_OBJECT = LARGEST_LAYER + LARGEST_LAYER // 128

#: The size of a member's header in a segment, in bytes.
_BLOCK = 512

#: How a member depends on the prefix. It contains the prefix: as `text`, in NUL-terminated strings of a `binary`, in
#: strings of a compiled module (`pyc`), or in the target of a symbolic `link`. Or it contains checksums of such
#: members: as a conda `record`, or with their sizes as a `sized-record`.
Mode = Literal["text", "binary", "pyc", "link", "record", "sized-record"]
RECORD_MODES = ("record", "sized-record")

Kind = Literal["package", "link", "pip", "files"]

_LARGEST_COUNT = 2**63 - 1

#: More than any snapshot can have, in bytes: its pages describe at most 150,000 layers, of 128 MiB each.
_LARGEST_SNAPSHOT = 1 << 45


def _check_counts(*counts: int) -> None:
    if not all(0 <= count <= _LARGEST_COUNT for count in counts):
        raise ValueError("a size or count is negative or too large")


@dataclass(frozen=True)
class Relocation:
    """Members of a layer that depend on the prefix. `placeholder` replaces it in them; it is empty for records."""

    mode: Mode
    placeholder: str
    paths: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.placeholder if self.mode in RECORD_MODES else not is_placeholder(self.placeholder):
            raise ValueError(f"{self.placeholder!r} is not a valid placeholder for mode {self.mode}")
        for path in self.paths:
            check_path(path)


@dataclass(frozen=True)
class Continuation:
    """Where a layer begins that continues the data of an earlier layer's last member.

    `offset` is in bytes of the member as stored, `size` the size of the whole member. `replaced` is the number of text
    placeholders before the offset: in the relocated file, the data begins at
    offset + replaced * (len(prefix) - len(placeholder)).
    """

    path: str
    offset: int
    size: int
    replaced: int

    def __post_init__(self) -> None:
        check_path(self.path)
        if is_foreign(self.path):
            raise ValueError(f"{self.path!r} is not part of an environment")
        _check_counts(self.offset, self.size, self.replaced)
        if self.offset > self.size or self.replaced > self.offset:
            raise ValueError(f"a layer starts outside {self.path!r}")


@dataclass(frozen=True)
class Layer:
    """A zstd-compressed tar segment.

    `digest` and `size` are the sha256 and size in bytes as stored, `diff_id` and `diff_size` those before compression.
    """

    digest: str
    size: int
    diff_id: str
    diff_size: int
    kind: Kind
    owner: str
    members: int
    relocations: tuple[Relocation, ...]
    begins: Continuation | None = None

    @property
    def owner_group(self) -> tuple[Kind, str]:
        """Return what groups layers by their owner; a package's layers include what its installation created."""
        return "package" if self.kind == "link" else self.kind, self.owner

    def __post_init__(self) -> None:
        check_digest(self.digest)
        check_digest(self.diff_id)
        _check_counts(self.size, self.diff_size, self.members)
        if self.diff_size > LARGEST_LAYER:
            raise ValueError(f"a layer of {self.diff_size:,} bytes is larger than {LARGEST_LAYER:,}")
        if self.members > self.diff_size // _BLOCK:
            raise ValueError(f"a layer of {self.diff_size:,} bytes cannot have {self.members:,} members")
        if self.size > (largest := min(_largest_frame(self.diff_size), LARGEST_OBJECT)):
            raise ValueError(f"an object of {self.size:,} bytes is larger than {largest:,}")


def _largest_frame(size: int) -> int:
    """Return how many bytes zstd needs at most for a frame with that many (ZSTD_compressBound, with some to spare)."""
    return size + size // 256 + 1024


class StoredLayer(NamedTuple):
    """A layer as an object in a store: the sha256 and the size in bytes of its compressed data."""

    digest: str
    size: int


@dataclass(frozen=True)
class Package:
    """A conda package of the environment, according to its record in conda-meta."""

    name: str
    version: str
    build: str
    subdir: str
    channel: str
    url: str
    md5: str = ""
    sha256: str = ""

    @property
    def dist(self) -> str:
        """The name of the package's archive and record, without suffix."""
        return f"{self.name}-{self.version}-{self.build}"


@dataclass(frozen=True)
class PipPackage:
    """A Python distribution of the environment that no conda package owns."""

    name: str
    version: str


@dataclass(frozen=True)
class Kernel:
    """A Jupyter kernel that the environment contains, in share/jupyter/kernels."""

    name: str
    display_name: str
    language: str


@dataclass(frozen=True)
class Deviation:
    """Files of a conda package that have been changed, or deleted, since it was installed."""

    package: str
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Page:
    """Part of a snapshot's list of packages or layers; `digest` and `size` are those of its canonical JSON."""

    digest: str
    size: int

    def __post_init__(self) -> None:
        check_digest(self.digest)
        _check_counts(self.size)


@dataclass(frozen=True)
class Snapshot:
    """The complete description of an environment. Its id is the sha256 of its manifest (see `manifest`).

    `mode` is the permissions of the prefix directory.
    """

    format: int
    platform: str
    mode: int
    packages: tuple[Package, ...]
    pip: tuple[PipPackage, ...]
    kernels: tuple[Kernel, ...]
    altered: tuple[Deviation, ...]
    missing: tuple[Deviation, ...]
    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        check_mode(self.mode)
        before = 0
        for layer in self.layers:
            if layer.begins and layer.begins.offset > before:
                raise ValueError(f"layer {layer.digest[:12]} starts after the end of the preceding layers")
            before += layer.diff_size

    @property
    def size(self) -> int:
        """The size of all layers before compression, in bytes."""
        return sum(layer.diff_size for layer in self.layers)

    @property
    def stored_size(self) -> int:
        """The size of all distinct layers in a store, in bytes."""
        return sum({layer.digest: layer.size for layer in self.layers}.values())

    @property
    def altered_paths(self) -> frozenset[str]:
        """The paths of files that have been changed since their packages were installed."""
        return frozenset(path for deviation in self.altered for path in deviation.paths)

    @property
    def files(self) -> int:
        """The number of files, links and directories."""
        return sum(layer.members for layer in self.layers)


@dataclass(frozen=True)
class HistoryEntry:
    """One entry of an environment's history: its current snapshot became this one."""

    snapshot: str
    action: str
    time: str
    user: str
    host: str
    prefix: str
    message: str
    packages: int
    size: int
    stored_size: int
    added_size: int

    def __post_init__(self) -> None:
        check_digest(self.snapshot)
        _check_counts(self.packages, self.size, self.stored_size, self.added_size)
        if max(self.packages, self.size, self.stored_size, self.added_size) > _LARGEST_SNAPSHOT:
            raise ValueError("a size in a history entry is larger than that of any snapshot")
        prefix = path_bytes(self.prefix)
        if b"\0" in prefix or len(prefix) > LONGEST_PREFIX:
            raise ValueError("the prefix in a history entry is not a path")


@dataclass(frozen=True)
class Ref:
    """The one mutable object of an environment in a store: its current snapshot, its history, and its tags."""

    format: int
    name: str
    current: str
    history: tuple[HistoryEntry, ...]
    tags: dict[str, str]

    def __post_init__(self) -> None:
        if not is_valid_name(self.name):
            raise ValueError(f"{self.name!r} is not a valid environment name")
        check_digest(self.current)
        for tag, digest in self.tags.items():
            if not is_valid_name(tag):
                raise ValueError(f"{tag!r} is not a valid tag")
            check_digest(digest)
        if not self.history or self.history[-1].snapshot != self.current:
            raise ValueError("the history does not end at the current snapshot")

    @property
    def latest(self) -> HistoryEntry:
        """The history entry of the current snapshot."""
        return self.history[-1]


@dataclass(frozen=True)
class StoreMarker:
    """The contents of `snapper.json`, which marks a directory or prefix as a store."""

    format: int


def sha256_hex(data: bytes) -> str:
    """Return the sha256 in lower-case hexadecimal, which is the name of an immutable object."""
    return hashlib.sha256(data).hexdigest()
