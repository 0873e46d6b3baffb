"""Objects of a store that are named by the sha256 of their bytes, and requests for many of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TypeVar

from snapper.errors import Corrupted, NotInStore, ObjectTooLarge, SnapperError
from snapper.format.layout import Layout
from snapper.format.model import LARGEST_OBJECT, Page, sha256_hex
from snapper.store import Store

A = TypeVar("A")
B = TypeVar("B")

_ATTEMPTS = 3
_CONCURRENCY = 16

#: How many bytes of pages are read before they are looked at.
_BATCH_SIZE = 8 * 1024 * 1024

#: A request that takes longer is worth making beside others, in seconds.
_FAST_REQUEST = 0.001


def map_concurrently(action: Callable[[A], B], items: Collection[A]) -> list[B]:
    """What the action, which makes a request, gives for each item, in their order. Some are made at once, but where
    they take no time: threads would take more.
    """
    waiting = iter(items)
    found = []
    for item in waiting:
        began = time.monotonic()
        found.append(action(item))
        if time.monotonic() - began > _FAST_REQUEST and len(items) - len(found) > 1:
            break
    rest = list(waiting)
    if rest:
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - slow to import, and not always needed

        with ThreadPoolExecutor(_CONCURRENCY) as pool:
            found += pool.map(action, rest)
    return found


def read_verified(store: Store, key: str, digest: str, limit: int = LARGEST_OBJECT) -> bytes | None:
    """The object, of `limit` bytes at most, read anew if its content does not match its checksum: they may
    have been altered on the way. None where they are not, however often they are read. Raises NotInStore,
    ObjectTooLarge.
    """
    for _ in range(_ATTEMPTS):
        data = store.read(key, limit)
        if sha256_hex(data) == digest:
            return data
    return None


def is_intact(store: Store, key: str, digest: str) -> bool:
    """Whether the object is there, and its bytes are those that its name stands for."""
    try:
        return read_verified(store, key, digest) is not None
    except (NotInStore, Corrupted):
        return False


def have_sizes(store: Store, sizes: Mapping[str, int]) -> bool:
    """Whether the objects of these keys are there, each in its full size."""
    return map_concurrently(store.size, sizes) == list(sizes.values())


def read_object(
    store: Store, what: str, key: str, digest: str, size: int, limit: int = LARGEST_OBJECT
) -> bytes:
    """The object of that size, its bytes checked against its name; raises Corrupted, also where it is not there, and
    ObjectTooLarge for more than `limit` bytes.
    """
    try:
        data = read_verified(store, key, digest, limit)
    except NotInStore:
        raise Corrupted(what, "it is missing") from None
    if data is None or len(data) != size:
        raise Corrupted(what, "its content does not match its checksum")
    return data


def read_page(store: Store, page: Page) -> bytes:
    """The page's bytes, checked against its name; raises Corrupted, also where it is not there."""
    what = f"page {page.digest[:12]} in {store.url}"
    try:
        return read_object(store, what, Layout.page(page.digest), page.digest, page.size, page.size)
    except ObjectTooLarge:
        raise Corrupted(what, "it is larger than its snapshot says") from None


def read_pages(store: Store, pages: Iterable[Page]) -> dict[str, bytes]:
    """The bytes of all these pages by their digests; raises Corrupted."""
    wanted = list(dict.fromkeys(pages))
    read = map_concurrently(lambda page: read_page(store, page), wanted)
    return {page.digest: data for page, data in zip(wanted, read, strict=True)}


def iter_pages(store: Store, pages: Iterable[Page]) -> Iterator[tuple[Page, bytes | SnapperError]]:
    """These pages, each once, with its bytes or with the error that reading it gave; few are in memory at a time."""

    def look(page: Page) -> bytes | SnapperError:
        try:
            return read_page(store, page)
        except SnapperError as error:
            return error

    for some in _batches(dict.fromkeys(pages)):
        yield from zip(some, map_concurrently(look, some), strict=True)


def _batches(pages: Iterable[Page]) -> Iterator[list[Page]]:
    """The pages in lots of so many bytes, or of one page that has more."""
    lot: list[Page] = []
    size = 0
    for page in pages:
        if lot and size + page.size > _BATCH_SIZE:
            yield lot
            lot, size = [], 0
        lot.append(page)
        size += page.size
    if lot:
        yield lot


def write_pages(store: Store, pages: Mapping[str, bytes]) -> int:
    """Writes the pages, by their digests, that are not there yet; how many bytes that added to the store."""

    def write(digest: str) -> int:
        return len(pages[digest]) if store.put(Layout.page(digest), pages[digest]) else 0

    return sum(map_concurrently(write, pages))
