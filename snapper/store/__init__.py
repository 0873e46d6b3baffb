"""Stores, by URL."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from snapper.errors import NotAStore, NotInStore, StoreRefused, UnsupportedFormat, UsageError
from snapper.format import canonical
from snapper.format.model import FORMAT, StoreMarker
from snapper.settings.settings import absolute_directory, load_settings
from snapper.store.base import ObjectInfo, Store, VersionMismatch, digest_in
from snapper.store.cached import CachedStore
from snapper.store.local import LocalStore

__all__ = [
    "ObjectInfo",
    "Store",
    "VersionMismatch",
    "check_reached",
    "digest_in",
    "last_seen",
    "open_store",
    "place",
    "uncached",
]

_MARKER = "snapper.json"

#: What may stand where a store is made: what else snapper keeps on a notebook instance's volume, and
#: what a new file system has.
_NEIGHBOURS = frozenset({"cache", "config.toml", "log", "lost+found", "state", "venv", "wheelhouse"})


def open_store(url: str, *, create: bool = False, apart_from: Path | None = None) -> Store:
    """The store at a directory, a `file://` URL or `s3://BUCKET/PREFIX`.

    `create` makes one of a missing or empty directory or prefix. Raises NotAStore, UnsupportedFormat, StoreRefused,
    Unreachable, and UsageError for a store inside the directory `apart_from`.
    """
    store = locate_store(url, apart_from)
    try:
        marker = store.read(_MARKER)
    except NotInStore:
        if not create:
            absent = store.others() is None
            reason = "it does not exist" if absent else f"it has no {_MARKER}"
            raise NotAStore(url, reason, absent=absent) from None
        marker = _make(store, url)
    except StoreRefused:
        if not url.startswith("s3://"):
            store.others()
        raise
    _check_format(url, marker)
    if create:
        check_reached(store)
    return store


def locate_store(url: str, apart_from: Path | None = None) -> Store:
    """What is at the URL, be it a store or not; raises NotAStore where none can be, and UsageError."""
    return _s3(url) if url.startswith("s3://") else _local(url, apart_from)


def last_seen(store: Store, keys: Iterable[str] = ()) -> float | None:
    """When a store that cannot be reached, or these entries of it, were last seen, in seconds since 1970: then what
    this machine has kept of it stands for it. None for one that can be reached.
    """
    return store.last_seen(keys) if isinstance(store, CachedStore) else None


def check_reached(store: Store) -> None:
    """Raises StoreUnreachable for a store that cannot be reached, whatever this machine has kept of it."""
    if isinstance(store, CachedStore):
        store.require()


def uncached(store: Store) -> Store:
    """The store itself, of which nothing is taken from what this machine has kept."""
    return store.origin if isinstance(store, CachedStore) else store


def _s3(url: str) -> Store:
    from snapper.store import s3  # noqa: PLC0415 - boto3 is slow to import

    store, settings = s3.S3Store(s3.parse_url(url)), load_settings()
    if settings.cache is None:
        return store
    name = f"{store.location.bucket}-{hashlib.sha256(store.url.encode()).hexdigest()[:12]}"
    cached = CachedStore(store, settings.cache, name, settings.cache_size)
    cached.make()
    return cached


def _local(url: str, apart_from: Path | None) -> LocalStore:
    root = _directory(url)
    if apart_from and Path(os.path.realpath(root)).is_relative_to(os.path.realpath(apart_from)):
        raise UsageError(
            f"the store {url} is inside the environment {apart_from}", "Choose another location with --store."
        )
    return LocalStore(root)


def _directory(url: str) -> Path:
    scheme, separator, _ = url.partition("://")
    if not separator:
        return absolute_directory(url)
    if scheme != "file":
        advice = "Use a directory, file:///DIRECTORY or s3://BUCKET/PREFIX."
        raise NotAStore(url, f"{scheme}:// URLs are not supported", advice)
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path or "%00" in parts.path:
        raise NotAStore(url, "a file:// URL needs three slashes and an absolute path")
    return Path(unquote(parts.path))


def _make(store: Store, url: str) -> bytes:
    """Makes a store where none is, unless another process is faster; returns its marker."""
    others = store.others() or ()
    foreign = [name for name in others if name not in _NEIGHBOURS and not name.startswith(f".{_MARKER}.")]
    try:
        return store.read(_MARKER)
    except NotInStore:
        if foreign:
            reason = f"it has no {_MARKER} but contains other files ({foreign[0]})"
            raise NotAStore(url, reason) from None
    marker = canonical.encode(StoreMarker(FORMAT))
    store.put(_MARKER, marker)
    return marker


def _check_format(url: str, marker: bytes) -> None:
    try:
        fields = canonical.parse(marker)
    except canonical.MalformedDocument as error:
        raise NotAStore(url, f"its {_MARKER} is unreadable: {error}") from None
    found = fields.get("format") if isinstance(fields, dict) else None
    if type(found) is not int or found < 1:
        raise NotAStore(url, f"its {_MARKER} has no format version")
    if found > FORMAT:
        raise UnsupportedFormat(f"the store {url}", found, FORMAT)
