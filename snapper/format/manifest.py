"""Snapshots as stores have them: a document, and pages of its two long lists, which snapshots have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from typing import Any

from snapper.errors import ManifestTooLarge
from snapper.format import canonical
from snapper.format.model import Deviation, Kernel, Layer, Package, Page, PipPackage, Snapshot, sha256_hex

#: A page ends behind a name whose sha256 is less than those of so many names before and behind it.
_REACH = 4

_OF_PACKAGES = ("package", "link")


@dataclass(frozen=True)
class Manifest:
    """What is stored under a snapshot's id: the snapshot, with pages in the place of its packages and layers."""

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
        size = sum(page.size for page in self.pages)
        if size > canonical.LARGEST_DOCUMENT:
            raise ValueError(f"pages of {size:,} bytes are larger than {canonical.LARGEST_DOCUMENT:,}")

    @property
    def pages(self) -> tuple[Page, ...]:
        return self.packages + self.layers


@dataclass(frozen=True)
class EncodedSnapshot:
    """A snapshot in bytes: its id, its document, and its pages by their digests."""

    digest: str
    document: bytes
    pages: Mapping[str, bytes]

    @classmethod
    def parse(cls, data: bytes) -> EncodedSnapshot:
        """From the bytes that `joined` gives."""
        document, *pages = data.split(b"\n")
        return cls(sha256_hex(document), document, {sha256_hex(page): page for page in pages})

    def joined(self) -> bytes:
        """All of it in one, to be kept outside of stores: the document, and a line for each page."""
        return b"\n".join((self.document, *self.pages.values()))


def encode(snapshot: Snapshot) -> EncodedSnapshot:
    """The snapshot in canonical bytes: equal snapshots have one id. Raises ManifestTooLarge."""
    packages = list(_pages((package.name, package) for package in snapshot.packages))
    layers = list(_pages((_name(layer), layer) for layer in snapshot.layers))
    _check_size(sum(page.size for page, _ in packages + layers))
    lists = {"packages": tuple(page for page, _ in packages), "layers": tuple(page for page, _ in layers)}
    document = canonical.encode(Manifest(**{**_fields(snapshot), **lists}))
    _check_size(len(document))
    return EncodedSnapshot(
        sha256_hex(document), document, {page.digest: data for page, data in packages + layers}
    )


def decode(manifest: EncodedSnapshot) -> Snapshot:
    """The snapshot of these bytes; raises Malformed, also where a page is missing."""
    document = canonical.decode(Manifest, canonical.parse(manifest.document))
    missing = [page for page in document.pages if page.digest not in manifest.pages]
    if missing:
        raise canonical.MalformedDocument(f"page {missing[0].digest[:12]} is missing")
    return SnapshotDecoder().decode(document, manifest.pages)


def decode_page(kind: type[canonical.T], page: Page, data: bytes) -> tuple[canonical.T, ...]:
    """What the page of these bytes holds; raises Malformed."""
    shape: Any = tuple[kind, ...]  # type: ignore[valid-type]
    what = f"page {page.digest[:12]}"
    found: tuple[canonical.T, ...] = canonical.decode(shape, canonical.parse(data), what)
    if not found:
        raise canonical.MalformedDocument(f"{what} is empty")
    return found


def assemble_snapshot(
    document: Manifest, packages: Mapping[Page, tuple[Package, ...]], layers: Mapping[Page, tuple[Layer, ...]]
) -> Snapshot:
    """The snapshot whose pages hold these items; raises Malformed where they do not go together."""
    fields = _fields(document)
    fields["packages"] = tuple(item for page in document.packages for item in packages[page])
    fields["layers"] = tuple(item for page in document.layers for item in layers[page])
    try:
        return Snapshot(**fields)
    except ValueError as error:
        raise canonical.MalformedDocument(f"snapshot: {error}") from None


class SnapshotDecoder:
    """Makes snapshots of documents and pages, and keeps what pages hold: those of one history have most in common."""

    def __init__(self) -> None:
        self._packages: dict[Page, tuple[Package, ...]] = {}
        self._layers: dict[Page, tuple[Layer, ...]] = {}

    def unknown(self, document: Manifest) -> list[Page]:
        """The pages whose bytes are needed."""
        packages = [page for page in document.packages if page not in self._packages]
        return packages + [page for page in document.layers if page not in self._layers]

    def decode(self, document: Manifest, pages: Mapping[str, bytes]) -> Snapshot:
        """The snapshot; the pages' bytes are by their digests, and have been checked. Raises Malformed."""
        for page in document.packages:
            if page not in self._packages:
                self._packages[page] = decode_page(Package, page, pages[page.digest])
        for page in document.layers:
            if page not in self._layers:
                self._layers[page] = decode_page(Layer, page, pages[page.digest])
        return assemble_snapshot(document, self._packages, self._layers)


def _check_size(size: int) -> None:
    if size > canonical.LARGEST_DOCUMENT:
        raise ManifestTooLarge(size, canonical.LARGEST_DOCUMENT)


def _fields(value: Manifest | Snapshot) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _pages(items: Iterable[tuple[str, object]]) -> Iterator[tuple[Page, bytes]]:
    """The items, each with its name, on pages."""
    runs = [(name, [item for _, item in each]) for name, each in groupby(items, key=lambda pair: pair[0])]
    for run in _cut(runs):
        data = canonical.encode(run)
        yield Page(sha256_hex(data), len(data)), data


def _cut(named: list[tuple[str, list[object]]]) -> Iterator[list[object]]:
    """Where a list is cut depends on few names around, so that a change of it leaves the other pages as they are."""
    weights = [sha256(name.encode("utf-8", "surrogatepass")).digest() for name, _ in named]
    run: list[object] = []
    for number, (_, items) in enumerate(named):
        run += items
        others = weights[max(0, number - _REACH) : number] + weights[number + 1 : number + 1 + _REACH]
        if all(weights[number] < other for other in others):
            yield run
            run = []
    if run:
        yield run


def _name(layer: Layer) -> str:
    """The name of the layer's owner, without version and build."""
    return layer.owner.rsplit("-", 2 if layer.kind in _OF_PACKAGES else 1)[0]
