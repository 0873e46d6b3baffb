"""Stores, by URL."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from snapper import canonical, config
from snapper.errors import NewerFormat, NotAStore, NotInStore, StoreRefused, Usage
from snapper.model import FORMAT, Marker
from snapper.store.base import Store, Stored, VersionMismatch
from snapper.store.local import LocalStore

__all__ = ["Store", "Stored", "VersionMismatch", "open_store"]

_MARKER = "snapper.json"

#: What may stand in a directory that becomes a store: what else snapper keeps on a notebook instance's volume, and
#: what a new file system has.
_NEIGHBOURS = frozenset({"cache", "config.toml", "log", "lost+found", "state", "venv", "wheelhouse"})


def open_store(url: str, *, create: bool = False, apart_from: Path | None = None) -> Store:
    """The store at a directory or `file://` URL.

    `create` makes one of a missing or empty directory. Raises NotAStore, NewerFormat, StoreRefused, and Usage for
    a store inside the directory `apart_from`.
    """
    root = _directory(url)
    if apart_from and Path(os.path.realpath(root)).is_relative_to(os.path.realpath(apart_from)):
        raise Usage(
            f"the store {url} is inside the environment {apart_from}", "Name one elsewhere with --store."
        )
    store = LocalStore(root)
    try:
        marker = store.read(_MARKER)
    except NotInStore:
        if not create:
            raise NotAStore(
                url, "it does not exist" if not os.path.lexists(root) else f"it has no {_MARKER}"
            ) from None
        marker = _make(store, url, root)
    except StoreRefused as error:
        if os.path.lexists(root) and not os.path.isdir(root):
            raise NotAStore(url, "it is a file") from None
        raise error
    _check_format(url, marker)
    return store


def _directory(url: str) -> Path:
    scheme, separator, _ = url.partition("://")
    if not separator:
        return config.directory(url)
    if scheme != "file":
        raise NotAStore(url, f"stores of kind {scheme}:// are not known")
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path or "%00" in parts.path:
        raise NotAStore(url, "a file:// URL has three slashes and an absolute path")
    return Path(unquote(parts.path))


def _make(store: Store, url: str, root: Path) -> bytes:
    """Makes a store of a directory, unless another process is faster; returns its marker."""
    foreign = _foreign(url, root)
    try:
        return store.read(_MARKER)
    except NotInStore:
        if foreign:
            reason = f"it has no {_MARKER}, and other things are in it ({foreign[0]})"
            raise NotAStore(url, reason) from None
    marker = canonical.encode(Marker(FORMAT))
    store.put(_MARKER, marker)
    return marker


def _foreign(url: str, root: Path) -> list[str]:
    """What stands in the directory that is neither the user's settings nor a store's beginnings."""
    try:
        names = sorted(entry.name for entry in root.iterdir())
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        raise NotAStore(url, "it is a file") from None
    except PermissionError as error:
        raise StoreRefused(url, "list the directory", error.strerror or str(error)) from None
    return [name for name in names if name not in _NEIGHBOURS and not name.startswith(f".{_MARKER}.")]


def _check_format(url: str, marker: bytes) -> None:
    try:
        fields = canonical.parse(marker)
    except canonical.Malformed as error:
        raise NotAStore(url, f"its {_MARKER} is unreadable: {error}") from None
    found = fields.get("format") if isinstance(fields, dict) else None
    if type(found) is not int or found < 1:
        raise NotAStore(url, f"its {_MARKER} names no format")
    if found > FORMAT:
        raise NewerFormat(f"the store {url}", found, FORMAT)
