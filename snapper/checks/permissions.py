"""Find out what a store allows this user to do, by trying it with temporary keys, which are deleted again."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from snapper.checks.findings import Finding, Level
from snapper.errors import NotInStore, SnapperError
from snapper.format.layout import Layout
from snapper.format.model import Layer
from snapper.repository.objects import read_layer, write_pages
from snapper.repository.refs import environment_names, read_ref
from snapper.repository.snapshots import read_encoded_snapshot, read_snapshot
from snapper.store import Store, VersionMismatch

_TITLE = "Permissions"


@dataclass(frozen=True)
class _Trial:
    """Something to try: `attempt` raises SnapperError if the store denies it; `without` says what that prevents."""

    what: str
    without: str
    attempt: Callable[[], None]


def check_permissions(store: Store) -> Iterator[Finding]:
    """Try what readers, publishers and administrators do; yield the results, and the role that this user can have."""
    key = Layout.new_trial()
    trials = {
        "reader": (
            _Trial("read objects", "nothing can be restored", lambda: _read(store)),
            _Trial(
                "list objects", "no environments can be listed or restored with --all", lambda: _list(store)
            ),
        ),
        "publisher": (
            _Trial("add and change objects", "nothing can be packed", lambda: _write(store, key)),
            _Trial("add layers", "nothing new can be packed", lambda: _add_layer(store)),
            _Trial("add pages", "nothing new can be packed", lambda: _add_page(store)),
            _Trial("update environments", "nothing can be packed", lambda: _move(store)),
        ),
        "administrator": (_Trial("delete layers", "nothing can be pruned", lambda: _delete(store)),),
    }
    role = ""
    for name, attempts in trials.items():
        findings = [_try(trial, name) for trial in attempts]
        yield from findings
        if any(finding.level != "good" for finding in findings):
            break
        role = name
    if role:
        yield Finding("good", _TITLE, f"this user has the rights of {_article(role)} {role} on {store.url}")


def _try(trial: _Trial, role: str) -> Finding:
    try:
        trial.attempt()
    except _Untried:
        return Finding("good", _TITLE, f"{trial.what}: not tested (none exists yet)")
    except _Unsafe as error:
        hint = "Use another server: with this one, simultaneous packs can overwrite each other."
        return Finding("problem", _TITLE, str(error), hint)
    except SnapperError as error:
        level: Level = "problem" if role == "reader" else "note"
        return Finding(level, _TITLE, f"{trial.what}: {error.message}", f"Without it, {trial.without}.")
    return Finding("good", _TITLE, f"{trial.what}: allowed")


class _Unsafe(Exception):
    """The store lacks something that all guarantees depend on."""


class _Untried(Exception):
    """The store is too empty to try this."""


def _read(store: Store) -> None:
    for name in environment_names(store):
        read_snapshot(store, read_ref(store, name).ref.current)
        return
    with suppress(NotInStore):  # a new store
        store.read(Layout.MARKER)


def _list(store: Store) -> None:
    list(store.list_keys(Layout.REFS))


def _write(store: Store, key: str) -> None:
    """Write, keep, replace and delete an object, each under the conditions that packs and prunes rely on."""
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
    """Write a small layer again, which changes nothing; raise _Untried if there is none."""
    store.check_writable(Layout.LAYERS)  # a write that changes nothing would succeed anyway
    layer = _smallest_layer(store)
    if layer is None:
        raise _Untried
    store.put(Layout.layer(layer.digest), read_layer(store, layer))


def _add_page(store: Store) -> None:
    """Write a page again, which changes nothing; raise _Untried if there is none."""
    store.check_writable(Layout.PAGES)  # a write that changes nothing would succeed anyway
    for name in environment_names(store):
        pages = read_encoded_snapshot(store, read_ref(store, name).ref.current).pages
        write_pages(store, dict(list(pages.items())[:1]))
        return
    raise _Untried


def _smallest_layer(store: Store) -> Layer | None:
    for name in environment_names(store):
        layers = read_snapshot(store, read_ref(store, name).ref.current).layers
        return min(layers, key=lambda layer: layer.size, default=None)
    return None


def _move(store: Store) -> None:
    """Replace the ref of an environment that does not exist, at a version that cannot exist."""
    store.check_writable(Layout.REFS)  # a write that changes nothing would succeed anyway
    with suppress(VersionMismatch):
        store.replace(Layout.ref(f"doctor.{secrets.token_hex(8)}"), b"{}", '"0"')


def _delete(store: Store) -> None:
    """Delete a layer that does not exist."""
    store.check_writable(Layout.LAYERS)  # a write that changes nothing would succeed anyway
    digest = secrets.token_hex(32)
    store.delete(Layout.layer(digest))


def _article(role: str) -> str:
    return "an" if role[0] in "aeiou" else "a"
