"""List the contents of layers, without writing them anywhere.

Manifests do not name every file, so the differences between two snapshots are found in the layers that only one of
them has.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from contextlib import closing
from typing import NamedTuple

from snapper.environment.conda import META
from snapper.environment.record_text import without_prefix_facts
from snapper.format.constraints import packed_mode
from snapper.format.layer_reader import LayerReader, OpenLayer
from snapper.format.member import Member, MemberType
from snapper.format.model import RECORD_MODES, Layer
from snapper.process.pool import WorkerPool
from snapper.process.progress import Progress
from snapper.repository.objects import read_layer
from snapper.store import Store


class Content(NamedTuple):
    """A member without its time; two members with equal contents are restored the same.

    `data` is the sha256 of its bytes as stored, or a link's target (see `list_contents` for hard links). Package
    records count without what they say of relocated files, and as not relocated. A piece of a file has its `offset`.
    """

    type: MemberType
    mode: int
    data: str
    relocation: tuple[str, str] | None  # mode, placeholder
    offset: int = 0


class ListedMember(NamedTuple):
    """A path, and what a layer holds of it."""

    path: str
    content: Content


_reader = LayerReader()


def list_contents(
    layers: Iterable[Layer], workers: WorkerPool[Store], progress: Progress
) -> dict[str, Content]:
    """Return what layers of the workers' store hold, by path. Raise Corrupted.

    Hard links have the contents of the files that they refer to, if one of the layers has these: each name of a file
    has its contents.
    """
    contents: dict[str, set[Content]] = defaultdict(set)
    sizes = {
        workers.submit(list_layer, layer, layer.diff_size, label=f"reading {layer.owner}"): layer.diff_size
        for layer in layers
    }
    with closing(workers.results()) as results:
        for number, members in results:
            for path, content in members:
                contents[path].add(content)
            progress.advance(sizes[number])
    joined = {path: _join(found) for path, found in contents.items()}
    return {
        path: joined.get(content.data, content) if content.type == "hardlink" else content
        for path, content in joined.items()
    }


def _join(pieces: set[Content]) -> Content:
    """Return the only content, or one that stands for all pieces of a file, which can have as many hard links."""
    if len(pieces) == 1:
        return next(iter(pieces))
    digest = hashlib.sha256("".join(sorted(map(repr, pieces))).encode()).hexdigest()
    return Content("file", 0, digest, None)


def list_layer(store: Store, layer: Layer) -> list[ListedMember]:
    """Return the members of the layer, and the piece that it begins with."""
    opened = _reader.open(layer, read_layer(store, layer), store.url)
    listed: list[ListedMember] = []
    piece = opened.continuation
    if piece is not None:
        relocation = _relocation_key(opened, piece.start.path)
        digest = hashlib.sha256(piece.data).hexdigest()
        listed.append(
            ListedMember(piece.start.path, Content("file", 0, digest, relocation, piece.start.offset))
        )
    for member, data in opened.members():
        relocation = _relocation_key(opened, member.path)
        mode = packed_mode(member.path, member.type, member.mode)
        content = Content(member.type, mode, _data(member, data), relocation)
        listed.append(ListedMember(member.path, content))
    return listed


def _relocation_key(layer: OpenLayer, path: str) -> tuple[str, str] | None:
    relocation = layer.relocations.get(path) or layer.links.get(path)
    if relocation is None or relocation.mode in RECORD_MODES:
        return None
    return relocation.mode, relocation.placeholder


def _data(member: Member, data: memoryview) -> str:
    if member.type in ("symlink", "hardlink"):
        return member.target
    if member.path.startswith(f"{META}/"):
        return hashlib.sha256(without_prefix_facts(bytes(data))).hexdigest()
    return hashlib.sha256(data).hexdigest()
