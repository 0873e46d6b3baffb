"""Open the store that a URL names, and create one."""

from __future__ import annotations

import logging
import os
import shlex
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from snapper.errors import NotAStore, NotInStore, ObjectTooLarge, StoreRefused, UnsupportedFormat, UsageError
from snapper.format import canonical
from snapper.format.layout import Layout
from snapper.format.model import FORMAT, StoreMarker
from snapper.settings.directories import absolute_directory, control_by_others
from snapper.settings.resolution import load_settings
from snapper.store.base import Store
from snapper.store.cache_directory import TAG, CacheDirectory, is_cache
from snapper.store.cached import CachedStore
from snapper.store.local import LocalStore
from snapper.store.object_files import opened_files

if TYPE_CHECKING:
    from snapper.store.s3 import S3Location

logger = logging.getLogger(__name__)

_S3_SCHEME = "s3://"

#: Names that a directory may have in it and still become a store: what snapper itself keeps on a notebook instance's
#: volume, and what a new file system has.
_ALLOWED_NAMES = frozenset({"cache", "config.toml", "log", "lost+found", "state", "venv", "wheelhouse"})

#: The largest marker that is read, in bytes. Later formats may add fields to it.
_LARGEST_MARKER = 64 * 1024


class CacheConfig(NamedTuple):
    """Where objects of remote stores are cached, and how many bytes they may take there."""

    directory: str
    limit: int


def configured_cache(url: str) -> CacheConfig | None:
    """Return the cache that the settings give the store at the URL; None if it is local or caching is turned off."""
    if not url.startswith(_S3_SCHEME):
        return None
    settings = load_settings()
    return CacheConfig(settings.cache, settings.cache_size) if settings.cache is not None else None


def cache_problem(url: str, cache: CacheConfig) -> str:
    """Return why nothing of the S3 store at the URL can be cached; an empty string if it can. Raise NotAStore."""
    from snapper.store import s3  # noqa: PLC0415 - boto3 is slow to import

    try:
        _cache_directory(s3.parse_url(url), cache).make()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def open_store(
    url: str,
    *,
    create: bool = False,
    apart_from: Path | None = None,
    cache: CacheConfig | None = None,
    is_default: bool = False,
) -> Store:
    """Open the store at a directory, a `file://` URL, or `s3://BUCKET/PREFIX`.

    With `create`, a missing or empty directory or prefix becomes a store. One that `is_default`, which nobody has
    chosen, must not belong to another user. Raise NotAStore, UnsupportedFormat, StoreRefused, StoreUnreachable, and
    UsageError if the store is inside the directory `apart_from`.
    """
    store = locate_store(url, apart_from=apart_from, cache=cache, is_default=is_default)
    _check_no_cache(store)
    try:
        marker = store.read(Layout.MARKER, _LARGEST_MARKER)
    except NotInStore:
        if not create:
            absent = store.list_root() is None
            reason = "it does not exist" if absent else f"it has no {Layout.MARKER}"
            raise NotAStore(url, reason, absent=absent) from None
        if isinstance(store, LocalStore):
            store = store.made(is_default=is_default)
        marker = _create(store, url)
    except ObjectTooLarge as error:
        raise NotAStore(url, f"its {Layout.MARKER} is unreadable: {error.reason}") from None
    except StoreRefused:
        if not url.startswith(_S3_SCHEME):
            store.list_root()  # says what is wrong where the directory itself cannot be read
        raise
    _check_format(url, marker)
    logger.debug("opened store %s%s", store.url, "" if cache is None else f" with cache {cache.directory}")
    if create:
        store.require_online()
    return store


def locate_store(
    url: str,
    *,
    apart_from: Path | None = None,
    cache: CacheConfig | None = None,
    is_default: bool = False,
) -> Store:
    """Return the store that would be at the URL, whether or not one has been created there.

    Raise NotAStore for an invalid URL, StoreRefused and UsageError as `open_store` does.
    """
    return _s3(url, cache) if url.startswith(_S3_SCHEME) else _local(url, apart_from, is_default=is_default)


def _s3(url: str, cache: CacheConfig | None) -> Store:
    from snapper.store import s3  # noqa: PLC0415 - boto3 is slow to import

    store = s3.S3Store(s3.parse_url(url))
    if cache is None:
        return store
    cached = CachedStore(store, _cache_directory(store.location, cache), cache.limit)
    cached.make_directory()
    return cached


def _cache_directory(location: S3Location, cache: CacheConfig) -> CacheDirectory:
    return CacheDirectory(cache.directory, Layout.cache_name(location.path.label, location.url))


def _local(url: str, apart_from: Path | None, *, is_default: bool) -> LocalStore:
    root = _directory(url)
    if apart_from and Path(os.path.realpath(root)).is_relative_to(os.path.realpath(apart_from)):
        raise UsageError(
            f"the store {url} is inside the environment {apart_from}", "Choose another location with --store."
        )
    if is_default:
        _check_default(root)
    return LocalStore.opened(root, is_default=is_default)


def _check_default(root: Path) -> None:
    """Raise StoreRefused if another user can put a store in the place of the default one, which nobody has chosen."""
    try:
        found = control_by_others(root)
    except OSError:
        return  # opening it says why
    if found:
        choice = f"snapper config set store {shlex.quote(str(root))}"
        advice = f"If you trust everyone who may write there, choose it: {choice}. Otherwise, choose another directory."
        raise StoreRefused(str(root), "", f"it is the default, but {found.path} {found.reason}", advice)


def _check_no_cache(store: Store) -> None:
    """Raise NotAStore if the directory of the store is a cache, from which objects are deleted at any time."""
    if not isinstance(store, LocalStore):
        return
    with suppress(OSError), opened_files(store.root) as files:
        if is_cache(files.top):
            advice = f"Choose another directory with --store. If it is none, remove {TAG} from it."
            raise NotAStore(store.url, "it is the cache of another store", advice)


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


def _create(store: Store, url: str) -> bytes:
    """Create a store unless another process is faster; return its marker."""
    names = store.list_root() or ()
    foreign = [
        name for name in names if name not in _ALLOWED_NAMES and not name.startswith(f".{Layout.MARKER}.")
    ]
    try:
        return store.read(Layout.MARKER, _LARGEST_MARKER)
    except NotInStore:
        if foreign:
            reason = f"it has no {Layout.MARKER} but contains other files ({foreign[0]})"
            raise NotAStore(url, reason) from None
    marker = canonical.encode(StoreMarker(FORMAT))
    store.put(Layout.MARKER, marker)
    return marker


def _check_format(url: str, marker: bytes) -> None:
    try:
        fields = canonical.parse(marker)
    except canonical.MalformedDocument as error:
        raise NotAStore(url, f"its {Layout.MARKER} is unreadable: {error}") from None
    number = fields.get("format") if isinstance(fields, dict) else None
    if type(number) is not int or number < 1:
        raise NotAStore(url, f"its {Layout.MARKER} has no format version")
    if number > FORMAT:
        raise UnsupportedFormat(f"the store {url}", number, FORMAT)
