"""Layers as they are stored, read whole: what a worker does that verifies a store."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from snapper.catalog import layer_key
from snapper.errors import Damaged, NotInStore
from snapper.format.layer import Unpacker
from snapper.format.model import Layer, check_path, name_of
from snapper.format.segment import members
from snapper.store import Store

_unpacker = Unpacker()


class Audit(NamedTuple):
    """A layer to read, and what snapshots say of it."""

    store: Store
    digest: str
    described: tuple[Layer, ...]


def audit(_: object, job: Audit) -> str:
    """What is wrong with the layer; empty if nothing is. Raises what the store raises."""
    try:
        data = job.store.read(layer_key(job.digest))
    except NotInStore:
        return "it is missing"
    if name_of(data) != job.digest:
        return "its bytes are not those that its name stands for"
    return next((reason for layer in job.described if (reason := fault(layer, data))), "")


def fault(layer: Layer, data: bytes) -> str:
    """What is wrong with the layer of these bytes, which have its digest; empty if nothing is."""
    try:
        segment = _unpacker.segment(layer, data)
        if hashlib.sha256(segment).hexdigest() != layer.diff_id:
            return "it does not unpack to what its snapshot says"
        start = 0
        if layer.begins:
            rest = layer.begins.size - layer.begins.offset
            start = (
                len(segment) if len(segment) < rest else min(len(segment), rest + -layer.begins.size % 512)
            )
        count = 0
        for member, _ in members(segment, start):
            check_path(member.path)
            if member.type == "hardlink":
                check_path(member.target)
            count += 1
    except Damaged as error:
        return error.reason
    except ValueError as error:
        return str(error)
    return "" if count == layer.members else f"it has {count} members, and its snapshot says {layer.members}"
