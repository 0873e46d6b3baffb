"""Check stored layers against what snapshots say about them: what a worker does that verifies a store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from snapper.errors import Corrupted, NotInStore, StoreRefused
from snapper.format.layer_reader import LayerReader, members_offset, read_members
from snapper.format.layout import Layout
from snapper.format.model import Layer
from snapper.repository.objects import DIGEST_MISMATCH, read_verified
from snapper.store import Store

MISSING = "it is missing"

#: How many offsets of their first member snapshots may claim for one layer: for each, all of it is parsed again.
_MAX_OFFSETS = 16

_reader = LayerReader()


class AuditJob(NamedTuple):
    """A layer to read, and how snapshots describe it."""

    digest: str
    descriptions: tuple[Layer, ...]


class FalseDescription(NamedTuple):
    """A description that does not match the layer, and why."""

    layer: Layer
    reason: str


class AuditResult(NamedTuple):
    """What is wrong with the layer's bytes (empty if nothing is), and which descriptions do not match them."""

    reason: str
    false: tuple[FalseDescription, ...] = ()


def audit_layer(store: Store, job: AuditJob) -> AuditResult:
    """Read the layer and check it; raise what the store raises."""
    try:
        data = read_verified(store, Layout.layer(job.digest), job.digest)
    except NotInStore:
        return AuditResult(MISSING)
    except Corrupted as error:
        return AuditResult(error.reason)
    except StoreRefused as error:
        if not error.unreadable:
            raise
        return AuditResult(error.reason)
    if data is None:
        return AuditResult(DIGEST_MISMATCH)
    return AuditResult("", tuple(_false_descriptions(job.descriptions, data)))


def _false_descriptions(descriptions: Iterable[Layer], data: bytes) -> Iterator[FalseDescription]:
    """Decompress the layer once, and compare it with its descriptions."""
    try:
        segment = _reader.decompress(data)
    except Corrupted as error:
        yield from (FalseDescription(layer, error.reason) for layer in descriptions)
        return
    diff_id, diff_size = hashlib.sha256(segment).hexdigest(), len(segment)
    counts: dict[int, int | str] = {}
    for layer in descriptions:
        if (layer.diff_id, layer.diff_size) != (diff_id, diff_size):
            yield FalseDescription(layer, "its uncompressed content does not match its checksum")
            continue
        offset = members_offset(layer.begins, len(segment))
        if offset not in counts:
            is_allowed = len(counts) < _MAX_OFFSETS
            counts[offset] = (
                _count_members(segment, offset) if is_allowed else "its snapshots describe it differently"
            )
        count = counts[offset]
        if isinstance(count, str):
            yield FalseDescription(layer, count)
        elif count != layer.members:
            yield FalseDescription(layer, f"it has {count} members instead of {layer.members}")


def _count_members(segment: memoryview, offset: int) -> int | str:
    """Return how many members begin from the offset on, or what is wrong with them."""
    try:
        return sum(1 for _ in read_members(segment, offset, "the layer"))
    except Corrupted as error:
        return error.reason
