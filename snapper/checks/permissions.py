"""What a store lets this user do, found out by doing it with keys that mean nothing and are gone afterwards."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from snapper.checks.findings import Finding, Level
from snapper.errors import NotInStore, SnapperError, StoreRefused
from snapper.format.layout import Layout
from snapper.format.model import Layer
from snapper.repository.objects import write_pages
from snapper.repository.refs import environment_names, read_ref
from snapper.repository.snapshots import read_encoded_snapshot, read_layer, read_snapshot
from snapper.store import Store, VersionMismatch
from snapper.store.local import LocalStore

_TITLE = "Permissions"


@dataclass(frozen=True)
class _Trial:
    """Something to try: what it is for, and what does it, raising a SnapperError where the store does not let it."""

    what: str
    without: str
    attempt: Callable[[], None]


def check_permissions(store: Store) -> Iterator[Finding]:
    """Tries what readers, publishers and administrators do, one by one, and says who this user can be."""
    throwaway = Layout.new_trial()
    trials = {
        "reader": (
            _Trial("read", "nothing can be restored", lambda: _read(store)),
            _Trial("list", "restore --all finds nothing", lambda: _list(store)),
        ),
        "publisher": (
            _Trial("add and change", "nothing can be packed", lambda: _write(store, throwaway)),
            _Trial("add layers", "nothing new can be packed", lambda: _add_layer(store)),
            _Trial("add pages", "nothing new can be packed", lambda: _add_page(store)),
            _Trial("move environments", "nothing can be packed", lambda: _move(store)),
        ),
        "administrator": (_Trial("delete layers", "nothing can be pruned", lambda: _delete(store)),),
    }
    role = ""
    for name, wanted in trials.items():
        found = [_tried(each, name) for each in wanted]
        yield from found
        if any(each.level != "good" for each in found):
            break
        role = name
    if role:
        yield Finding("good", _TITLE, f"this user has the rights of {_article(role)} {role} on {store.url}")


def _tried(trial: _Trial, role: str) -> Finding:
    try:
        trial.attempt()
    except _Untried:
        return Finding("good", _TITLE, f"{trial.what}: not tested, none exists yet")
    except _Unsafe as error:
        hint = "Use another server: with this one, simultaneous packs can overwrite each other."
        return Finding("problem", _TITLE, str(error), hint)
    except SnapperError as error:
        level: Level = "problem" if role == "reader" else "note"
        return Finding(level, _TITLE, f"{trial.what}: {error.message}", f"Without it, {trial.without}.")
    return Finding("good", _TITLE, f"{trial.what}: yes")


class _Unsafe(Exception):
    """The store does not do what all safety rests on."""


class _Untried(Exception):
    """The store has nothing yet that it could be tried with."""


def _read(store: Store) -> None:
    for name in environment_names(store):
        found = read_ref(store, name).ref
        read_snapshot(store, found.current)
        return
    with suppress(NotInStore):  # nobody has made it yet
        store.read(Layout.MARKER)


def _list(store: Store) -> None:
    list(store.list_keys(Layout.REFS))


def _write(store: Store, key: str) -> None:
    """Makes, keeps, changes and removes an object, each on the condition that packs and prunes rely on."""
    store.put(key, b"1")
    try:
        if store.put(key, b"2") or store.read(key) != b"1":
            raise _Unsafe(f"{store.url} does not support conditional writes (If-None-Match)")
        _, version = store.read_versioned(key)
        store.replace(key, b"3", version)
        with suppress(VersionMismatch):
            store.replace(key, b"4", version)
            raise _Unsafe(f"{store.url} does not support conditional updates (If-Match)")
    finally:
        with suppress(NotInStore):
            store.delete(key)


def _add_layer(store: Store) -> None:
    """Puts a small layer once more, which changes nothing; there is none in a new store."""
    _look(store, Layout.LAYERS)
    layer = _smallest_layer(store)
    if layer is None:
        raise _Untried
    store.put(Layout.layer(layer.digest), read_layer(store, layer))


def _add_page(store: Store) -> None:
    """The same with a page of a snapshot."""
    _look(store, Layout.PAGES)
    for name in environment_names(store):
        found = read_ref(store, name).ref
        pages = read_encoded_snapshot(store, found.current).pages
        write_pages(store, dict(list(pages.items())[:1]))
        return
    raise _Untried


def _smallest_layer(store: Store) -> Layer | None:
    for name in environment_names(store):
        found = read_ref(store, name).ref
        layers = read_snapshot(store, found.current).layers
        return min(layers, key=lambda layer: layer.size, default=None)
    return None


def _move(store: Store) -> None:
    """Moves an environment that is not there from a version that it cannot be at."""
    _look(store, Layout.REFS)
    with suppress(VersionMismatch):
        store.replace(Layout.ref(f"doctor.{secrets.token_hex(8)}"), b"{}", '"0"')


def _delete(store: Store) -> None:
    """Deletes a layer that is not there."""
    _look(store, Layout.LAYERS)
    digest = secrets.token_hex(32)
    store.delete(Layout.layer(digest))


def _look(store: Store, prefix: str) -> None:
    """Raises StoreRefused where a directory cannot be written: what changes nothing there would not show it."""
    if not isinstance(store, LocalStore):
        return
    place = store.root / prefix
    if place.is_dir() and not os.access(place, os.W_OK | os.X_OK):
        action = f"write in {prefix.rstrip('/')}"
        raise StoreRefused(store.url, action, "permission denied, or the file system is read-only")


def _article(role: str) -> str:
    return "an" if role[0] in "aeiou" else "a"
