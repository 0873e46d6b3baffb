"""What the pages of a store hold, and whose fault it is where a snapshot and its pages do not go together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from snapper.errors import Corrupted, SnapperError
from snapper.format import canonical, manifest
from snapper.format.layout import Layout
from snapper.format.manifest import Manifest
from snapper.format.model import Layer, Package, Page
from snapper.repository.objects import iter_pages, read_verified
from snapper.store import Store


@dataclass(frozen=True)
class Content:
    """What a good page of so many bytes holds: `layers` as `bare` makes them, or packages, and then None."""

    size: int
    layers: tuple[Layer, ...] | None


def bare(layer: Layer) -> Layer:
    """The layer as all snapshots should describe it: how one relocates it, and what it calls it, is its own affair."""
    return replace(layer, kind="files", owner="", relocations=())


def look(store: Store, documents: Iterable[Manifest]) -> Iterator[tuple[str, Content | str]]:
    """The digest of each page of these documents, and what the page holds, or what is wrong with it.

    Raises what the store raises, but not what one page does.
    """
    sizes: dict[str, int] = {}
    first: dict[str, type[Package] | type[Layer]] = {}
    for document in documents:
        for kind, pages in ((Package, document.packages), (Layer, document.layers)):
            for page in pages:
                first.setdefault(page.digest, kind)
                sizes[page.digest] = max(sizes.get(page.digest, 0), page.size)
    same: dict[Layer, Layer] = {}
    for page, found in iter_pages(store, (Page(digest, size) for digest, size in sizes.items())):
        data = _whatever_its_size(store, page, found) if isinstance(found, Corrupted) else found
        if isinstance(data, Corrupted):
            yield page.digest, data.reason
        elif isinstance(data, SnapperError):
            raise data
        else:
            yield page.digest, _content(page, data, first[page.digest], same)


def disagreement(document: Manifest, contents: Mapping[str, Content]) -> str:
    """What the document says that its pages are not, where all of these are good; else nothing."""
    for kind, pages in ((Package, document.packages), (Layer, document.layers)):
        for page in pages:
            found = contents.get(page.digest)
            if found is None:
                continue
            if found.size != page.size:
                return f"it lists page {page.digest[:12]} with a wrong size"
            if (found.layers is None) != (kind is Package):
                return f"it lists page {page.digest[:12]} under the wrong kind"
    if any(page.digest not in contents for page in document.pages):
        return ""
    layers = {page: contents[page.digest].layers or () for page in document.layers}
    try:
        manifest.assemble_snapshot(document, dict.fromkeys(document.packages, ()), layers)
    except canonical.MalformedDocument as error:
        return str(error)
    return ""


def _whatever_its_size(store: Store, page: Page, error: Corrupted) -> bytes | Corrupted:
    """The page, if its bytes are those that its name stands for: a snapshot may give it too small a size."""
    try:
        data = read_verified(store, Layout.page(page.digest), page.digest, canonical.LARGEST_DOCUMENT)
    except SnapperError:
        return error
    return error if data is None else data


def _content(
    page: Page, data: bytes, first: type[Package] | type[Layer], same: dict[Layer, Layer]
) -> Content | str:
    """What the bytes are, taken for the first kind and then for the other; `same` are the layers met so far."""
    errors = []
    for kind in (first, Layer if first is Package else Package):
        try:
            items = manifest.decode_page(kind, page, data)
        except canonical.MalformedDocument as error:
            errors.append(str(error))
            continue
        if canonical.encode(items) != data:
            return "it is not canonical JSON"
        if kind is Package:
            return Content(len(data), None)
        layers = (bare(item) for item in items if isinstance(item, Layer))
        return Content(len(data), tuple(same.setdefault(layer, layer) for layer in layers))
    return errors[0]
