"""Directories of this user that commands rely on, and that an environment must therefore not contain."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from snapper.errors import SnapperError
from snapper.settings.directories import home_directory, state_directory
from snapper.settings.resolution import load_settings
from snapper.store.base import Store
from snapper.store.cached import CachedStore
from snapper.store.local import LocalStore


def used_directory_in(prefix: Path, store: Store) -> str:
    """Return which of the directories is at `prefix` or below it, in words; empty if none is.

    Packing would publish what is in it, and replacing the environment would delete that.
    """
    top = os.path.realpath(prefix)
    for what, directory in _used_directories(store):
        if Path(os.path.realpath(directory)).is_relative_to(top):
            return f"{what} {directory}"
    return ""


def _used_directories(store: Store) -> Iterator[tuple[str, Path]]:
    if isinstance(store, LocalStore):
        yield "the store", store.root
    if isinstance(store, CachedStore):
        yield "the cache", Path(store.cache.root)
    with suppress(SnapperError):
        yield "your home directory", home_directory()
    with suppress(SnapperError, OSError):
        yield "snapper's state directory", state_directory()
    with suppress(SnapperError):
        cache = load_settings().cache
        if cache is not None:
            yield "the cache", Path(cache)
