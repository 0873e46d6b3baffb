"""Read and write snapshots and layers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from snapper.errors import Corrupted, LayersPruned, LeaseExpired, NotInStore, SnapperError
from snapper.format import canonical, manifest
from snapper.format.layout import Layout
from snapper.format.manifest import EncodedSnapshot, Manifest, SnapshotDecoder
from snapper.format.model import Layer, Page, Snapshot, sha256_hex
from snapper.repository.decoding import decode_checked, decoding
from snapper.repository.objects import (
    intact_objects,
    iter_pages,
    read_pages,
    read_verified,
)
from snapper.store import Store


class LayerPage(NamedTuple):
    """A page with the layers on it, without relocations, or the error with which reading it failed."""

    page: Page
    layers: tuple[Layer, ...] | SnapperError


def read_snapshot(store: Store, snapshot_id: str, decoder: SnapshotDecoder | None = None) -> Snapshot:
    """Read a snapshot and check it and its pages against their digests. Pages that the decoder knows are not read.

    Raise NotInStore, Corrupted, UnsupportedFormat.
    """
    decoder = decoder or SnapshotDecoder()
    document = read_manifest(store, snapshot_id)
    pages = read_pages(store, decoder.unknown(document))
    with decoding(_describe(store, snapshot_id)):
        return decoder.decode(document, pages)


def read_manifest(store: Store, snapshot_id: str, limit: int = canonical.LARGEST_DOCUMENT) -> Manifest:
    """Read a snapshot's manifest, of at most `limit` bytes, and check it against the id.

    Raise NotInStore, Corrupted, UnsupportedFormat, ObjectTooLarge.
    """
    return decode_manifest(store, snapshot_id, _read_manifest_bytes(store, snapshot_id, limit))


def read_encoded_snapshot(store: Store, snapshot_id: str) -> EncodedSnapshot:
    """Read the bytes of a snapshot and its pages, and check them against their digests.

    Raise NotInStore, Corrupted, UnsupportedFormat.
    """
    data = _read_manifest_bytes(store, snapshot_id)
    return EncodedSnapshot(
        snapshot_id, data, read_pages(store, decode_manifest(store, snapshot_id, data).pages)
    )


def decode_snapshot(store: Store, snapshot: EncodedSnapshot) -> Snapshot:
    """Decode a snapshot that was read from the store; raise Corrupted."""
    with decoding(_describe(store, snapshot.digest)):
        return manifest.decode(snapshot)


def decode_manifest(store: Store, snapshot_id: str, data: bytes) -> Manifest:
    """Decode a manifest and check it against the snapshot's id; raise Corrupted, UnsupportedFormat."""
    what = _describe(store, snapshot_id)
    if sha256_hex(data) != snapshot_id:
        raise Corrupted(what, "its content does not match its checksum")
    with decoding(what):
        return decode_checked(Manifest, data, what)


def _read_manifest_bytes(store: Store, snapshot_id: str, limit: int = canonical.LARGEST_DOCUMENT) -> bytes:
    try:
        return read_verified(store, Layout.snapshot(snapshot_id), snapshot_id, limit) or b""
    except NotInStore:
        raise NotInStore(f"snapshot {snapshot_id[:12]}", store.url) from None


def _describe(store: Store, snapshot_id: str) -> str:
    return f"snapshot {snapshot_id[:12]} in {store.url}"


def iter_layer_pages(store: Store, pages: Iterable[Page]) -> Iterator[LayerPage]:
    """Yield these pages of layers, each once, without relocations, which are not checked."""
    for page, data in iter_pages(store, pages):
        if isinstance(data, SnapperError):
            yield LayerPage(page, data)
            continue
        try:
            yield LayerPage(page, manifest.decode_layers_only(page, data))
        except canonical.MalformedDocument as error:
            yield LayerPage(page, Corrupted(f"page {page.digest[:12]} in {store.url}", str(error)))


def has_snapshot(store: Store, snapshot_id: str) -> bool:
    """Return whether the store has the snapshot's manifest."""
    return store.size(Layout.snapshot(snapshot_id)) is not None


def has_encoded_snapshot(store: Store, snapshot: EncodedSnapshot) -> bool:
    """Return whether the store has the snapshot's manifest and pages, intact."""
    sizes = {Layout.page(digest): len(data) for digest, data in snapshot.pages.items()}
    sizes[Layout.snapshot(snapshot.digest)] = len(snapshot.document)
    return len(intact_objects(store, sizes)) == len(sizes)


def require_layers(store: Store, layers: Collection[Layer]) -> None:
    """Raise LayersPruned unless the store has all of the layers, in full size."""
    sizes = {Layout.layer(layer.digest): layer.size for layer in layers}
    missing = sizes.items() - store.sizes(Layout.LAYERS, sizes).items()
    if missing:
        raise LayersPruned(store.url, len(missing))


def require_snapshot(store: Store, encoded: EncodedSnapshot, layers: Collection[Layer]) -> None:
    """Raise LeaseExpired or LayersPruned unless the store has the snapshot with all of its pages and layers."""
    if not has_encoded_snapshot(store, encoded):
        raise LeaseExpired(store.url)
    require_layers(store, layers)


def write_snapshot(store: Store, snapshot: EncodedSnapshot) -> int:
    """Write the snapshot's manifest; return how many bytes that added to the store. Its layers and pages must exist."""
    written = store.put(Layout.snapshot(snapshot.digest), snapshot.document)
    return len(snapshot.document) if written else 0
