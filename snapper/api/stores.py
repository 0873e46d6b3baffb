"""Open stores, and list the environments in them."""

from __future__ import annotations

from pathlib import Path

from snapper import store as stores
from snapper.repository.refs import StoredEnvironment, read_all_refs
from snapper.settings.resolution import choose_store
from snapper.store import Store


def open_store(
    url: str | Path | None = None, *, create: bool = False, apart_from: Path | None = None
) -> Store:
    """Open the store at a directory, a `file://` URL, or `s3://BUCKET/PREFIX`; by default the one in the settings.

    With `create`, a missing or empty directory or S3 prefix becomes a store. Raise NotAStore, UnsupportedFormat,
    StoreRefused, StoreUnreachable, and UsageError if the store is inside the directory `apart_from`.
    """
    chosen = choose_store(str(url) if url is not None else None)
    return stores.open_store(
        chosen.url,
        create=create,
        apart_from=apart_from,
        cache=stores.configured_cache(chosen.url),
        is_default=chosen.is_default,
    )


def environments(store: Store) -> tuple[StoredEnvironment, ...]:
    """Return the environments in the store by name; those that cannot be read have an `error` instead of a `ref`."""
    return tuple(read_all_refs(store))
