"""Objects of a store that are named by the sha256 of their bytes, and requests for many of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TypeVar

from snapper.errors import Damaged, NotInStore, SnapperError, TooLarge
from snapper.format.model import LARGEST_OBJECT, Page, name_of
from snapper.store import Store

A = TypeVar("A")
B = TypeVar("B")

_READS = 3
_AT_ONCE = 16

#: How many bytes of pages are read before they are looked at.
_LOT = 8 * 1024 * 1024

#: A request that takes longer is worth making beside others, in seconds.
_QUICK = 0.001


def page_key(digest: str) -> str:
    return f"pages/{digest[:2]}/{digest}.json"


def at_once(action: Callable[[A], B], items: Collection[A]) -> list[B]:
    """What the action, which makes a request, gives for each item, in their order. Some are made at once, but where
    they take no time: threads would take more.
    """
    waiting = iter(items)
    found = []
    for item in waiting:
        began = time.monotonic()
        found.append(action(item))
        if time.monotonic() - began > _QUICK and len(items) - len(found) > 1:
            break
    rest = list(waiting)
    if rest:
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - slow to import, and not always needed

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found += pool.map(action, rest)
    return found


def read_named(store: Store, key: str, digest: str, limit: int = LARGEST_OBJECT) -> bytes | None:
    """The object, of `limit` bytes at most, read anew if its bytes are not those that its name stands for: they may
    have been altered on the way. None where they are not, however often they are read. Raises NotInStore, TooLarge.
    """
    for _ in range(_READS):
        data = store.read(key, limit)
        if name_of(data) == digest:
            return data
    return None


def is_whole(store: Store, key: str, digest: str) -> bool:
    """Whether the object is there, and its bytes are those that its name stands for."""
    try:
        return read_named(store, key, digest) is not None
    except (NotInStore, Damaged):
        return False


def has_all(store: Store, sizes: Mapping[str, int]) -> bool:
    """Whether the objects of these keys are there, each in its full size."""
    return at_once(store.size, sizes) == list(sizes.values())


def read_whole(
    store: Store, what: str, key: str, digest: str, size: int, limit: int = LARGEST_OBJECT
) -> bytes:
    """The object of that size, its bytes checked against its name; raises Damaged, also where it is not there, and
    TooLarge for more than `limit` bytes.
    """
    try:
        data = read_named(store, key, digest, limit)
    except NotInStore:
        raise Damaged(what, "it is missing") from None
    if data is None or len(data) != size:
        raise Damaged(what, "its bytes are not those that its name stands for")
    return data


def read_page(store: Store, page: Page) -> bytes:
    """The page's bytes, checked against its name; raises Damaged, also where it is not there."""
    what = f"page {page.digest[:12]} in {store.url}"
    try:
        return read_whole(store, what, page_key(page.digest), page.digest, page.size, page.size)
    except TooLarge:
        raise Damaged(what, "it is larger than its snapshot says") from None


def read_pages(store: Store, pages: Iterable[Page]) -> dict[str, bytes]:
    """The bytes of all these pages by their digests; raises Damaged."""
    wanted = list(dict.fromkeys(pages))
    read = at_once(lambda page: read_page(store, page), wanted)
    return {page.digest: data for page, data in zip(wanted, read, strict=True)}


def look_at_pages(store: Store, pages: Iterable[Page]) -> Iterator[tuple[Page, bytes | SnapperError]]:
    """These pages, each once, with its bytes or with the error that reading it gave; few are in memory at a time."""

    def look(page: Page) -> bytes | SnapperError:
        try:
            return read_page(store, page)
        except SnapperError as error:
            return error

    for some in _lots(dict.fromkeys(pages)):
        yield from zip(some, at_once(look, some), strict=True)


def _lots(pages: Iterable[Page]) -> Iterator[list[Page]]:
    """The pages in lots of so many bytes, or of one page that has more."""
    lot: list[Page] = []
    size = 0
    for page in pages:
        if lot and size + page.size > _LOT:
            yield lot
            lot, size = [], 0
        lot.append(page)
        size += page.size
    if lot:
        yield lot


def write_pages(store: Store, pages: Mapping[str, bytes]) -> int:
    """Writes the pages, by their digests, that are not there yet; how many bytes that added to the store."""

    def write(digest: str) -> int:
        return len(pages[digest]) if store.put(page_key(digest), pages[digest]) else 0

    return sum(at_once(write, pages))
