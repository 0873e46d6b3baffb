"""Check the pages of a store, and whether manifests agree with their pages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from snapper.errors import Corrupted, SnapperError, StoreRefused
from snapper.format import canonical, manifest
from snapper.format.layout import Layout
from snapper.format.manifest import Manifest
from snapper.format.model import Layer, Package, Page
from snapper.repository.objects import iter_pages, read_verified
from snapper.store import Store

ItemType = type[Package] | type[Layer]


@dataclass(frozen=True)
class PageContent:
    """A valid page: its size in bytes, and its layers (see `bare_layer`); `layers` is None if it lists packages."""

    size: int
    layers: tuple[Layer, ...] | None


@dataclass(frozen=True)
class CheckedPage:
    """A page, and its content or what is wrong with it."""

    digest: str
    content: PageContent | None
    problem: str = ""


def bare_layer(layer: Layer) -> Layer:
    """Return the part of a layer's description that all snapshots must agree on: not how it is used."""
    return replace(layer, kind="files", owner="", relocations=())


def check_pages(
    store: Store, manifests: Iterable[Manifest], known: Mapping[str, PageContent]
) -> Iterator[CheckedPage]:
    """Read and check each page of these manifests once, unless its content is known.

    Raise what the store raises, except about a single page.
    """
    sizes: dict[str, int] = {}
    types: dict[str, ItemType] = {}
    for document in manifests:
        for item_type, page in _typed_pages(document):
            types.setdefault(page.digest, item_type)
            sizes[page.digest] = max(sizes.get(page.digest, 0), page.size)
    shared: dict[Layer, Layer] = {}
    yield from (CheckedPage(digest, known[digest]) for digest in sizes if digest in known)
    unknown = (Page(digest, size) for digest, size in sizes.items() if digest not in known)
    for page, result in iter_pages(store, unknown):
        data = _read_any_size(store, page, result) if isinstance(result, Corrupted) else result
        if isinstance(data, Corrupted) or (isinstance(data, StoreRefused) and data.unreadable):
            yield CheckedPage(page.digest, None, data.reason)
        elif isinstance(data, SnapperError):
            raise data
        else:
            yield _check_page(page, data, types[page.digest], shared)


def find_mismatch(document: Manifest, contents: Mapping[str, PageContent]) -> str:
    """Return how the manifest disagrees with its pages, as far as these are valid; empty if it does not."""
    for item_type, page in _typed_pages(document):
        content = contents.get(page.digest)
        if content is None:
            continue
        if content.size != page.size:
            return f"it lists page {page.digest[:12]} with the wrong size"
        if (content.layers is None) != (item_type is Package):
            return f"it lists page {page.digest[:12]} under the wrong kind"
    if any(page.digest not in contents for page in document.pages):
        return ""
    layers = {page: contents[page.digest].layers or () for page in document.layers}
    try:
        manifest.assemble_snapshot(document, dict.fromkeys(document.packages, ()), layers)
    except canonical.MalformedDocument as error:
        return str(error)
    return ""


def _typed_pages(document: Manifest) -> Iterator[tuple[ItemType, Page]]:
    for page in document.packages:
        yield Package, page
    for page in document.layers:
        yield Layer, page


def _read_any_size(store: Store, page: Page, error: Corrupted) -> bytes | Corrupted:
    """Return the page if its checksum is right: the manifest may understate its size. Else return the error."""
    try:
        data = read_verified(store, Layout.page(page.digest), page.digest, canonical.LARGEST_DOCUMENT)
    except SnapperError:
        return error
    return error if data is None else data


def _check_page(page: Page, data: bytes, expected: ItemType, shared: dict[Layer, Layer]) -> CheckedPage:
    """Decode the page as the expected type, or else as the other one. Equal layers are replaced by one in `shared`."""
    problems = []
    for item_type in (expected, Layer if expected is Package else Package):
        try:
            items = manifest.decode_page(item_type, page, data)
        except canonical.MalformedDocument as error:
            problems.append(str(error))
            continue
        if canonical.encode(items) != data:
            return CheckedPage(page.digest, None, "it is not canonical JSON")
        if item_type is Package:
            return CheckedPage(page.digest, PageContent(len(data), None))
        layers = (bare_layer(item) for item in items if isinstance(item, Layer))
        unique = tuple(shared.setdefault(layer, layer) for layer in layers)
        return CheckedPage(page.digest, PageContent(len(data), unique))
    return CheckedPage(page.digest, None, problems[0])
