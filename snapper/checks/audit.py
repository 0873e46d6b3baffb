"""Layers as they are stored, read whole: what a worker does that verifies a store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from snapper.errors import Corrupted, NotInStore
from snapper.format.layer import LayerUnpacker
from snapper.format.layout import Layout
from snapper.format.model import Layer, check_path, sha256_hex
from snapper.format.segment import iter_members, split_continuation
from snapper.store import Store

MISSING = "it is missing"

#: In how many ways snapshots may say that one segment begins inside a file: each is another way to read all of it.
_MOST_BEGINNINGS = 16

_unpacker = LayerUnpacker()


class AuditJob(NamedTuple):
    """A layer to read, and what snapshots say of it."""

    store: Store
    digest: str
    described: tuple[Layer, ...]


class AuditResult(NamedTuple):
    """What is wrong with the layer's bytes, empty if nothing is; and of those descriptions that are not so, why."""

    reason: str
    untrue: tuple[tuple[Layer, str], ...] = ()


def audit_layer(_: object, job: AuditJob) -> AuditResult:
    """Reads the layer; raises what the store raises."""
    try:
        data = job.store.read(Layout.layer(job.digest))
    except NotInStore:
        return AuditResult(MISSING)
    except Corrupted as error:
        return AuditResult(error.reason)
    if sha256_hex(data) != job.digest:
        return AuditResult("its content does not match its checksum")
    return AuditResult("", tuple(_untrue(job.described, data)))


def _untrue(described: Iterable[Layer], data: bytes) -> Iterator[tuple[Layer, str]]:
    """The descriptions that do not fit the layer of these bytes, and why. It is unpacked once."""
    try:
        segment = _unpacker.whole(data)
    except Corrupted as error:
        yield from ((layer, error.reason) for layer in described)
        return
    is_so = hashlib.sha256(segment).hexdigest(), len(segment)
    counted: dict[int, int | str] = {}
    for layer in described:
        if (layer.diff_id, layer.diff_size) != is_so:
            yield layer, "its uncompressed content does not match its checksum"
            continue
        start = split_continuation(layer.begins, len(segment))[1] if layer.begins else 0
        if start not in counted:
            counted[start] = (
                _count(segment[start:])
                if len(counted) < _MOST_BEGINNINGS
                else "its snapshots disagree about it"
            )
        count = counted[start]
        if isinstance(count, str):
            yield layer, count
        elif count != layer.members:
            yield layer, f"it has {count} members instead of {layer.members}"


def _count(segment: memoryview) -> int | str:
    """How many members there are, or what is wrong with them."""
    count = 0
    try:
        for member, _ in iter_members(segment):
            check_path(member.path)
            if member.type == "hardlink":
                check_path(member.target)
            count += 1
    except ValueError as error:
        return str(error)
    return count
