"""Read objects that are named by the sha256 of their bytes: the only place that verifies digests."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import NamedTuple, TypeVar

from snapper.errors import Corrupted, NotInStore, ObjectTooLarge, SnapperError, StoreRefused
from snapper.format.layout import Layout
from snapper.format.model import LARGEST_OBJECT, Layer, Page, sha256_hex
from snapper.store import ObjectStatus, Store

A = TypeVar("A")
B = TypeVar("B")

#: What is wrong with an object whose bytes do not have the digest in its key.
DIGEST_MISMATCH = "its content does not match its checksum"

_ATTEMPTS = 3
_CONCURRENCY = 16

#: How many bytes of pages are in memory at a time, and how many pages are read together.
_BATCH_SIZE = 8 * 1024 * 1024
_BATCH_PAGES = 128

#: Requests that take longer, in seconds, are worth a thread.
_FAST_REQUEST = 0.001


class PageContent(NamedTuple):
    """A page with its bytes, or the error with which reading it failed."""

    page: Page
    data: bytes | SnapperError


def map_concurrently(action: Callable[[A], B], items: Collection[A]) -> list[B]:
    """Return the results of an action that makes one request per item, in the order of the items.

    The items are processed by threads once a request has turned out to be slow.
    """
    remaining = iter(items)
    results = []
    for item in remaining:
        started = time.monotonic()
        results.append(action(item))
        if time.monotonic() - started > _FAST_REQUEST and len(items) - len(results) > 1:
            break
    rest = list(remaining)
    if rest:
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - slow to import, and not always needed

        with ThreadPoolExecutor(_CONCURRENCY) as pool:
            results += pool.map(action, rest)
    return results


def read_verified(store: Store, key: str, digest: str, limit: int = LARGEST_OBJECT) -> bytes | None:
    """Return the object, of at most `limit` bytes, if its bytes have the digest, else None.

    It is read again if not, since it may have been altered in transit. Raise NotInStore, ObjectTooLarge.
    """
    for _ in range(_ATTEMPTS):
        data = store.read(key, limit)
        if sha256_hex(data) == digest:
            return data
    return None


def is_intact(store: Store, key: str, digest: str) -> bool:
    """Return whether the object exists, can be read, and its content has the digest."""
    try:
        return read_verified(store, key, digest) is not None
    except (NotInStore, Corrupted):
        return False
    except StoreRefused as error:
        if error.unreadable:
            return False
        raise


def intact_objects(
    store: Store,
    sizes: Mapping[str, int],
    is_checked: Callable[[str, ObjectStatus], bool] = lambda *_: False,
) -> dict[str, ObjectStatus]:
    """Return the status of those objects that exist with these sizes, in bytes, and the digests in their keys.

    Objects are read unless the store attests their digest, or `is_checked` returns true for them.
    """

    def inspect(key: str) -> ObjectStatus | None:
        status = store.inspect(key)
        if status is None or status.size != sizes[key]:
            return None
        if status.is_attested or is_checked(key, status):
            return status
        return status if is_intact(store.authoritative(), key, Layout.digest_of(key)) else None

    found = zip(sizes, map_concurrently(inspect, sizes), strict=True)
    return {key: status for key, status in found if status is not None}


def read_object(
    store: Store, what: str, key: str, digest: str, size: int, limit: int = LARGEST_OBJECT
) -> bytes:
    """Return the object, checked against its digest and size.

    Raise Corrupted, also if it is missing, and ObjectTooLarge if it has more than `limit` bytes.
    """
    try:
        data = read_verified(store, key, digest, limit)
    except NotInStore:
        raise Corrupted(what, "it is missing") from None
    if data is None or len(data) != size:
        raise Corrupted(what, DIGEST_MISMATCH)
    return data


def read_page(store: Store, page: Page) -> bytes:
    """Return the page's bytes, checked against its digest; raise Corrupted, also if it is missing."""
    what = f"page {page.digest[:12]} in {store.url}"
    try:
        return read_object(store, what, Layout.page(page.digest), page.digest, page.size, page.size)
    except ObjectTooLarge:
        raise Corrupted(what, "it is larger than its snapshot says") from None


def read_layer(store: Store, layer: Layer) -> bytes:
    """Return the layer's stored bytes, checked against its digest; raise Corrupted, also if it is missing."""
    what = f"layer {layer.digest[:12]} in {store.url}"
    try:
        return read_object(store, what, Layout.layer(layer.digest), layer.digest, layer.size, layer.size)
    except ObjectTooLarge:
        raise Corrupted(what, "it is larger than its snapshot says") from None


def read_pages(store: Store, pages: Iterable[Page]) -> dict[str, bytes]:
    """Return the bytes of all these pages by digest; raise Corrupted."""
    unique = list(dict.fromkeys(pages))
    contents = map_concurrently(lambda page: read_page(store, page), unique)
    return {page.digest: data for page, data in zip(unique, contents, strict=True)}


def iter_pages(store: Store, pages: Iterable[Page]) -> Iterator[PageContent]:
    """Yield these pages, each once; only a batch of them is asked for and in memory at a time."""

    def read(page: Page) -> bytes | SnapperError:
        try:
            return read_page(store, page)
        except SnapperError as error:
            return error

    for batch in _batches(pages):
        yield from map(PageContent, batch, map_concurrently(read, batch))


def _batches(pages: Iterable[Page]) -> Iterator[list[Page]]:
    """Divide the pages into batches of at most `_BATCH_SIZE` bytes, or of one larger page; leave out those that repeat.

    The next ones are asked for when the batch before them is done.
    """
    seen: set[Page] = set()
    batch: list[Page] = []
    size = 0
    for page in pages:
        if page in seen:
            continue
        seen.add(page)
        if batch and (size + page.size > _BATCH_SIZE or len(batch) == _BATCH_PAGES):
            yield batch
            batch, size = [], 0
        batch.append(page)
        size += page.size
    if batch:
        yield batch


def write_pages(store: Store, pages: Mapping[str, bytes]) -> int:
    """Write the pages, given by digest, that the store does not have; return how many bytes that added to it."""

    def write(digest: str) -> int:
        return len(pages[digest]) if store.put(Layout.page(digest), pages[digest]) else 0

    return sum(map_concurrently(write, pages))
