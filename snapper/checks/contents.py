"""What layers hold, member by member, without writing it anywhere.

Manifests do not name every file, so what differs between two snapshots is found in the layers that only one of
them has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import closing
from typing import NamedTuple

from snapper.environment.conda import META, without_prefix_facts
from snapper.errors import Corrupted
from snapper.format.layer import LayerUnpacker
from snapper.format.model import RECORD_MODES, Layer, check_path
from snapper.format.segment import Member, Type, iter_members, split_continuation
from snapper.process.pool import WorkerPool
from snapper.process.progress import Progress
from snapper.repository.snapshots import read_layer
from snapper.restoring.errors import unpack_errors
from snapper.store import Store


class Content(NamedTuple):
    """A member but for its time: `data` is the sha256 of its bytes as stored, or a link's target; `relocation` mode
    and placeholder. conda's records count without what they say of relocated files, and not as relocated. What a
    layer holds of a file that is cut has the piece's `offset`.
    """

    type: Type
    mode: int
    data: str
    relocation: tuple[str, str] | None
    offset: int = 0


_unpacker = LayerUnpacker()


def contents(
    store: Store, layers: Iterable[Layer], workers: WorkerPool[None], progress: Progress
) -> dict[str, frozenset[Content]]:
    """What the layers hold of each path: one content, but for files that are cut; raises Corrupted."""
    found: dict[str, set[Content]] = {}
    sizes = {workers.submit(_list, (store, layer), layer.diff_size): layer.diff_size for layer in layers}
    with closing(workers.results()) as results:
        for number, part in results:
            for path, content in part:
                found.setdefault(path, set()).add(content)
            progress.advance(sizes[number])
    return {path: frozenset(each) for path, each in found.items()}


def _list(_: object, job: tuple[Store, Layer]) -> list[tuple[str, Content]]:
    store, layer = job
    what = f"layer {layer.digest[:12]} in {store.url}"
    segment = _unpacker.segment(layer, read_layer(store, layer))
    how = {
        path: (each.mode, each.placeholder)
        for each in layer.relocations
        for path in each.paths
        if each.mode not in RECORD_MODES
    }
    found: list[tuple[str, Content]] = []
    start = 0
    with unpack_errors(what, store.url):
        if layer.begins:
            begins = layer.begins
            size, start = split_continuation(begins, len(segment))
            piece = hashlib.sha256(segment[:size]).hexdigest()
            found.append((begins.path, Content("file", 0, piece, how.get(begins.path), begins.offset)))
        for member, data in iter_members(segment, start):
            content = Content(member.type, member.mode & 0o777, _data(member, data), how.get(member.path))
            found.append((check_path(member.path), content))
        if len(found) - bool(layer.begins) != layer.members:
            raise Corrupted(what, "its number of members differs from its snapshot")
    return found


def _data(member: Member, data: memoryview) -> str:
    if member.type in ("symlink", "hardlink"):
        return member.target
    if member.path.startswith(f"{META}/"):
        return hashlib.sha256(without_prefix_facts(bytes(data))).hexdigest()
    return hashlib.sha256(data).hexdigest()
