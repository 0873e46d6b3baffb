"""Snapshots in a store: a manifest, and pages of its two long lists, which snapshots share."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from typing import Any

from snapper.errors import ManifestTooLarge, TooManyPackages
from snapper.format import canonical
from snapper.format.constraints import check_mode
from snapper.format.model import (
    Continuation,
    Deviation,
    Kernel,
    Layer,
    Package,
    Page,
    PipPackage,
    Snapshot,
    sha256_hex,
)

#: A page ends after a name whose sha256 is less than those of this many names before and after it.
_NEIGHBORS = 4

#: What a string takes in memory besides its characters, in bytes: this much for each of its quotation marks.
_PER_QUOTATION_MARK = 32

#: The most pages of a snapshot. An environment with a thousand packages has some 350.
MOST_PAGES = 4096

_PACKAGE_KINDS = ("package", "link")


@dataclass(frozen=True)
class Manifest:
    """The object that a snapshot's id names: the snapshot, with pages instead of its packages and layers."""

    format: int
    platform: str
    mode: int
    packages: tuple[Page, ...]
    pip: tuple[PipPackage, ...]
    kernels: tuple[Kernel, ...]
    altered: tuple[Deviation, ...]
    missing: tuple[Deviation, ...]
    layers: tuple[Page, ...]

    def __post_init__(self) -> None:
        check_mode(self.mode)
        if len(self.pages) > MOST_PAGES:
            raise ValueError(f"{len(self.pages):,} pages are more than {MOST_PAGES:,}")
        size = sum(page.size for page in self.pages)
        if size > canonical.LARGEST_DOCUMENT:
            raise ValueError(f"pages of {size:,} bytes are larger than {canonical.LARGEST_DOCUMENT:,}")

    @property
    def pages(self) -> tuple[Page, ...]:
        """All pages, those of packages first."""
        return self.packages + self.layers


@dataclass(frozen=True)
class EncodedSnapshot:
    """An encoded snapshot: its id, its manifest (`document`), and its pages by their digests."""

    digest: str
    document: bytes
    pages: Mapping[str, bytes]

    @classmethod
    def parse(cls, data: bytes) -> EncodedSnapshot:
        """Return the snapshot from the bytes that `joined` returned."""
        document, *pages = data.split(b"\n")
        return cls(sha256_hex(document), document, {sha256_hex(page): page for page in pages})

    @property
    def memory(self) -> int:
        """How many bytes of memory it takes together with what is decoded from it, approximately."""
        return sum(map(_memory, (self.document, *self.pages.values())))

    def joined(self) -> bytes:
        """Return the snapshot in one piece, to be kept outside of stores: the manifest, and one line for each page."""
        return b"\n".join((self.document, *self.pages.values()))


def encode(snapshot: Snapshot) -> EncodedSnapshot:
    """Encode the snapshot; equal snapshots have the same id. Raise ManifestTooLarge, TooManyPackages."""
    packages = list(_pages((package.name, package) for package in snapshot.packages))
    layers = list(_pages((_owner_name(layer), layer) for layer in snapshot.layers))
    _check_size(sum(page.size for page, _ in packages + layers))
    if len(packages) + len(layers) > MOST_PAGES:
        raise TooManyPackages(len(packages) + len(layers), MOST_PAGES)
    lists = {"packages": tuple(page for page, _ in packages), "layers": tuple(page for page, _ in layers)}
    document = canonical.encode(Manifest(**{**_fields(snapshot), **lists}))
    _check_size(len(document))
    return EncodedSnapshot(
        sha256_hex(document), document, {page.digest: data for page, data in packages + layers}
    )


def decode(encoded: EncodedSnapshot) -> Snapshot:
    """Decode the snapshot; raise MalformedDocument, also if a page is missing."""
    document = canonical.decode(Manifest, canonical.parse(encoded.document))
    missing = [page for page in document.pages if page.digest not in encoded.pages]
    if missing:
        raise canonical.MalformedDocument(f"page {missing[0].digest[:12]} is missing")
    return SnapshotDecoder().decode(document, encoded.pages)


def decode_page(kind: type[canonical.T], page: Page, data: bytes) -> tuple[canonical.T, ...]:
    """Return the items on the page; raise MalformedDocument."""
    return _decode_items(kind, page, canonical.parse(data))


def decode_layers_only(page: Page, data: bytes) -> tuple[Layer, ...]:
    """Return the layers on the page without their relocations, which are most of it, and are not checked.

    Raise MalformedDocument.
    """
    document = canonical.parse(data)
    for item in document if isinstance(document, list) else ():
        if isinstance(item, dict) and isinstance(item.get("relocations"), list):
            item["relocations"] = []
    return _decode_items(Layer, page, document)


def _decode_items(kind: type[canonical.T], page: Page, document: object) -> tuple[canonical.T, ...]:
    shape: Any = tuple[kind, ...]  # type: ignore[valid-type]
    what = f"page {page.digest[:12]}"
    items: tuple[canonical.T, ...] = canonical.decode(shape, document, what)
    if not items:
        raise canonical.MalformedDocument(f"{what} is empty")
    return items


def assemble_snapshot(
    document: Manifest, packages: Mapping[Page, tuple[Package, ...]], layers: Mapping[Page, tuple[Layer, ...]]
) -> Snapshot:
    """Return the snapshot whose pages have these items; raise MalformedDocument if they contradict each other."""
    fields = _fields(document)
    fields["packages"] = tuple(item for page in document.packages for item in packages[page])
    fields["layers"] = tuple(item for page in document.layers for item in layers[page])
    try:
        _check_layers(fields["layers"])
        return Snapshot(**fields)
    except ValueError as error:
        raise canonical.MalformedDocument(f"snapshot: {error}") from None


def _check_layers(layers: Iterable[Layer]) -> None:
    """Raise ValueError if a layer is listed twice, or if layers cannot be parts of the files that they say.

    Parts of a file follow each other, have the same owner, and can be equal.
    """
    listed: set[str] = set()
    continued: set[str] = set()
    previous: Layer | None = None
    for layer in layers:
        is_part = layer.begins and not layer.members
        if layer.digest in listed and not is_part:
            raise ValueError(f"layer {layer.digest[:12]} is listed twice")
        if layer.begins and not _continues(layer, layer.begins, previous, continued):
            raise ValueError(f"layer {layer.digest[:12]} does not continue the file of the layer before it")
        listed.add(layer.digest)
        previous = layer


def _continues(layer: Layer, begins: Continuation, previous: Layer | None, continued: set[str]) -> bool:
    """Return whether a layer can continue the previous one; add the file to those that are `continued`."""
    if previous is None or (previous.kind, previous.owner) != (layer.kind, layer.owner):
        return False
    if previous.begins and not previous.members:
        start = previous.begins
        return (start.path, start.size) == (begins.path, begins.size) and start.offset < begins.offset
    if begins.path in continued:
        return False
    continued.add(begins.path)
    return previous.members > 0


class SnapshotDecoder:
    """Decode snapshots, and cache the pages of the last one: the next one of a history shares most of them.

    A store can have any number of others.
    """

    def __init__(self) -> None:
        self._packages: dict[Page, tuple[Package, ...]] = {}
        self._layers: dict[Page, tuple[Layer, ...]] = {}

    def unknown(self, document: Manifest) -> list[Page]:
        """Return the pages that `decode` needs and has not decoded before."""
        packages = [page for page in document.packages if page not in self._packages]
        return packages + [page for page in document.layers if page not in self._layers]

    def decode(self, document: Manifest, pages: Mapping[str, bytes]) -> Snapshot:
        """Return the snapshot; `pages` are verified bytes by their digests. Raise MalformedDocument."""
        self._packages = _decoded(Package, document.packages, pages, self._packages)
        self._layers = _decoded(Layer, document.layers, pages, self._layers)
        return assemble_snapshot(document, self._packages, self._layers)


def _decoded(
    kind: type[canonical.T],
    pages: Iterable[Page],
    data: Mapping[str, bytes],
    known: Mapping[Page, tuple[canonical.T, ...]],
) -> dict[Page, tuple[canonical.T, ...]]:
    """Return the items on each page, from its data if they are not known; raise MalformedDocument."""
    return {
        page: known[page] if page in known else decode_page(kind, page, data[page.digest])
        for page in dict.fromkeys(pages)
    }


def _memory(data: bytes) -> int:
    """Return how many bytes a JSON document takes together with what is decoded from it, approximately.

    A string takes a byte for each character, up to four if it is not ASCII, and some 60 more.
    """
    width = 1 if data.isascii() and b"\\u" not in data else 4
    return len(data) + width * len(data) + _PER_QUOTATION_MARK * data.count(b'"')


def _check_size(size: int) -> None:
    if size > canonical.LARGEST_DOCUMENT:
        raise ManifestTooLarge(size, canonical.LARGEST_DOCUMENT)


def _fields(value: Manifest | Snapshot) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _pages(items: Iterable[tuple[str, object]]) -> Iterator[tuple[Page, bytes]]:
    """Yield pages with the items, which are preceded by their names; items of the same name stay together."""
    runs = [(name, [item for _, item in group]) for name, group in groupby(items, key=lambda pair: pair[0])]
    for page_items in _split(runs):
        data = canonical.encode(page_items)
        yield Page(sha256_hex(data), len(data)), data


def _split(runs: list[tuple[str, list[object]]]) -> Iterator[list[object]]:
    """Yield the items of each page. A page's end depends only on the names around it, so other pages stay the same."""
    weights = [sha256(name.encode("utf-8", "surrogatepass")).digest() for name, _ in runs]
    page: list[object] = []
    for number, (_, items) in enumerate(runs):
        page += items
        others = weights[max(0, number - _NEIGHBORS) : number] + weights[number + 1 : number + 1 + _NEIGHBORS]
        if all(weights[number] < other for other in others):
            yield page
            page = []
    if page:
        yield page


def _owner_name(layer: Layer) -> str:
    """Return the name of the layer's owner, without version and build."""
    return layer.owner.rsplit("-", 2 if layer.kind in _PACKAGE_KINDS else 1)[0]
