"""Snapshots, their pages, and layers as objects of a store."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress

from snapper.errors import (
    Corrupted,
    LayersPruned,
    NotInStore,
    SnapperError,
)
from snapper.format import canonical, manifest
from snapper.format.layout import Layout
from snapper.format.manifest import EncodedSnapshot, Manifest, SnapshotDecoder
from snapper.format.model import Layer, Page, Snapshot, StoredLayer, sha256_hex
from snapper.repository.decoding import decode_checked, decoding
from snapper.repository.objects import (
    have_sizes,
    iter_pages,
    map_concurrently,
    read_object,
    read_pages,
    read_verified,
)
from snapper.repository.refs import environment_names, read_ref
from snapper.store import Store


def read_snapshot(store: Store, digest: str, decoder: SnapshotDecoder | None = None) -> Snapshot:
    """The snapshot of that id, its bytes and those of its pages checked against their names; pages that the decoder
    knows are not read again. Raises NotInStore, Corrupted, UnsupportedFormat.
    """
    decoder = decoder or SnapshotDecoder()
    document = read_manifest(store, digest)
    pages = read_pages(store, decoder.unknown(document))
    with decoding(f"snapshot {digest[:12]} in {store.url}"):
        return decoder.decode(document, pages)


def read_manifest(store: Store, digest: str) -> Manifest:
    """What is stored under the snapshot's id, checked against it; raises NotInStore, Corrupted, UnsupportedFormat."""
    return decode_manifest(store, digest, _read_manifest_bytes(store, digest))


def iter_layer_pages(
    store: Store, pages: Iterable[Page]
) -> Iterator[tuple[Page, tuple[Layer, ...] | SnapperError]]:
    """These pages, each once, with the layers on it or with what is wrong with it."""
    for page, data in iter_pages(store, pages):
        if isinstance(data, SnapperError):
            yield page, data
            continue
        try:
            yield page, manifest.decode_page(Layer, page, data)
        except canonical.MalformedDocument as error:
            yield page, Corrupted(f"page {page.digest[:12]} in {store.url}", str(error))


def read_encoded_snapshot(store: Store, digest: str) -> EncodedSnapshot:
    """The snapshot's bytes, checked in the same way; raises NotInStore, Corrupted, UnsupportedFormat."""
    data = _read_manifest_bytes(store, digest)
    return EncodedSnapshot(digest, data, read_pages(store, decode_manifest(store, digest, data).pages))


def decode_snapshot(store: Store, snapshot: EncodedSnapshot) -> Snapshot:
    """The snapshot whose bytes were read from the store; raises Corrupted."""
    with decoding(f"snapshot {snapshot.digest[:12]} in {store.url}"):
        return manifest.decode(snapshot)


def _read_manifest_bytes(store: Store, digest: str) -> bytes:
    try:
        return read_verified(store, Layout.snapshot(digest), digest) or b""
    except NotInStore:
        raise NotInStore(f"snapshot {digest[:12]}", store.url) from None


def decode_manifest(store: Store, digest: str, data: bytes) -> Manifest:
    """The document of these bytes, which are checked against the snapshot's id; raises Corrupted, UnsupportedFormat."""
    what = f"snapshot {digest[:12]} in {store.url}"
    if sha256_hex(data) != digest:
        raise Corrupted(what, "its content does not match its checksum")
    with decoding(what):
        return decode_checked(Manifest, data, what)


def read_layer(store: Store, layer: Layer) -> bytes:
    """The layer's stored bytes, checked against its digest; raises Corrupted, also where it is not there."""
    what = f"layer {layer.digest[:12]} in {store.url}"
    return read_object(store, what, Layout.layer(layer.digest), layer.digest, layer.size)


def has_snapshot(store: Store, digest: str) -> bool:
    return store.size(Layout.snapshot(digest)) is not None


def has_encoded_snapshot(store: Store, snapshot: EncodedSnapshot) -> bool:
    """Whether the snapshot and its pages are there, in full size."""
    sizes = {Layout.page(digest): len(data) for digest, data in snapshot.pages.items()}
    sizes[Layout.snapshot(snapshot.digest)] = len(snapshot.document)
    return have_sizes(store, sizes)


def stored_layers(store: Store, layers: Collection[Layer]) -> frozenset[str]:
    """The digests of those layers that are there, in full size."""
    sizes = {Layout.layer(layer.digest): layer.size for layer in layers}
    found = dict(zip(sizes, map_concurrently(store.size, sizes), strict=True))
    return frozenset(each.digest for each in layers if found[Layout.layer(each.digest)] == each.size)


def require_layers(store: Store, layers: Collection[Layer]) -> None:
    """Raises LayersPruned unless all of the layers are there, in full size."""
    there = stored_layers(store, layers)
    gone = len({layer.digest for layer in layers if layer.digest not in there})
    if gone:
        raise LayersPruned(store.url, gone)


def known_layers(store: Store) -> dict[str, StoredLayer]:
    """The layers, by diff_id, that the current snapshots of the store name.

    Snapshots are read for just that, and what cannot be read is passed over.
    """
    pages: list[Page] = []
    for name in environment_names(store):
        with suppress(SnapperError):
            pages += read_manifest(store, read_ref(store, name).ref.current).layers
    return {
        layer.diff_id: StoredLayer(layer.digest, layer.size)
        for _, found in iter_layer_pages(store, pages)
        if not isinstance(found, SnapperError)
        for layer in found
    }


def write_snapshot(store: Store, snapshot: EncodedSnapshot) -> int:
    """Writes the snapshot, whose layers and pages are there; how many bytes that added to the store."""
    written = store.put(Layout.snapshot(snapshot.digest), snapshot.document)
    return len(snapshot.document) if written else 0
