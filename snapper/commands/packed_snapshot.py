"""The snapshot that a pack results in, and whether it is the previous one because the environment has not changed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from snapper.environment.dependency import OtherEnvironment, OutsideLibrary
from snapper.format.constraints import directory_mode
from snapper.format.manifest import EncodedSnapshot
from snapper.format.model import Snapshot
from snapper.format.owners import OwnedPaths
from snapper.packing.reuse import PackedLayer, PreviousPack, load_previous_pack
from snapper.packing.source import PackSource
from snapper.repository.checked_layers import CheckedLayers, intact_layers
from snapper.repository.snapshots import has_encoded_snapshot
from snapper.store import Store


@dataclass(frozen=True)
class PackedSnapshot:
    """A snapshot whose layers are in the store.

    `prefixes` are those in the environment's files, the most frequent one first. `found_prefixes` are those to report.
    `added` maps the digests of layers that were added to the store to their sizes. `layers` is None if the
    environment is unchanged, so that its index remains valid. `libraries` are those outside of the environment that
    files in it are linked with, and `others` the environments at former prefixes that files name.
    """

    encoded: EncodedSnapshot
    snapshot: Snapshot
    prefixes: tuple[str, ...]
    unrelocated: OwnedPaths
    layers: tuple[PackedLayer, ...] | None = None
    added: Mapping[str, int] = field(default_factory=dict)
    credentials: tuple[str, ...] = ()
    found_prefixes: tuple[str, ...] = ()
    libraries: tuple[OutsideLibrary, ...] = ()
    others: tuple[OtherEnvironment, ...] = ()

    @classmethod
    def from_previous(cls, previous: PreviousPack, source: PackSource) -> PackedSnapshot:
        header, prefixes = previous.index.header, previous.prefixes
        return cls(
            previous.encoded,
            previous.snapshot,
            previous.prefixes,
            previous.unrelocated,
            found_prefixes=source.found_prefixes({*prefixes}) if len(prefixes) > 1 else (),
            libraries=header.libraries,
            others=header.other_environments,
        )


def load_previous(store: Store, source: PackSource, checked: CheckedLayers) -> PreviousPack | None:
    """Return the previous pack, whose layers can be reused; None if there is none, or if it is not all."""
    if source.previous is None or source.has_included:
        return None
    layers = source.previous.snapshot.layers
    return load_previous_pack(source.installed, intact_layers(store, layers, checked))


def is_unchanged(store: Store, source: PackSource, previous: PreviousPack) -> bool:
    """Return whether the environment is still its previous snapshot, and the store has all of that."""
    return (
        previous.prefix == str(source.prefix) == os.path.realpath(source.prefix)
        and directory_mode("", previous.snapshot.mode) == directory_mode("", source.directory.status.st_mode)
        and has_encoded_snapshot(store, previous.encoded)
        and previous.is_unchanged()
    )
