"""Refs: the one mutable object of each environment name, replaced by compare-and-swap."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

from snapper.errors import ConcurrentUpdate, Corrupted, EntryTooLarge, NotInStore, SnapperError
from snapper.format import canonical
from snapper.format.layout import Layout, ObjectKind
from snapper.format.model import FORMAT, HistoryEntry, Ref
from snapper.repository.decoding import decode_checked, decoding
from snapper.store import Store, VersionMismatch

#: The action of a history entry that made an earlier snapshot current again.
ROLLBACK = "rollback"


@dataclass(frozen=True)
class VersionedRef:
    """A ref as it was read, and the version that it is replaced by."""

    ref: Ref
    version: str


class ListedRefs(NamedTuple):
    """The names of the environments in a store, in order, and the keys among those of refs that no ref can have."""

    names: tuple[str, ...]
    invalid: tuple[str, ...]


def list_refs(store: Store) -> ListedRefs:
    """List the refs in the store. Keys that end in `/` are no objects: S3's console makes them to show directories."""
    names, invalid = [], []
    for key in store.list_keys(Layout.REFS):
        parsed = Layout.parse(key)
        if parsed and parsed.kind is ObjectKind.REF:
            names.append(parsed.name)
        elif not key.endswith("/"):
            invalid.append(key)
    return ListedRefs(tuple(names), tuple(invalid))


def environment_names(store: Store) -> tuple[str, ...]:
    """Return the names of all environments in the store, in order."""
    return list_refs(store).names


def name_in(key: str) -> str:
    """Return what is at the place of the name in a key that no ref can have."""
    return key.removeprefix(Layout.REFS).removesuffix(".json")


def invalid_entry(store: Store, key: str) -> Corrupted:
    """Return the error for a key that no ref can have."""
    return Corrupted(
        f"{key} in {store.url}",
        "no entry of an environment can have this name",
        "If another program has renamed an entry, give it its name again. Otherwise, move the file out of the store.",
    )


def ref_version(store: Store, name: str) -> str:
    """Return the version of an environment's ref, which may be corrupted; raise NotInStore."""
    try:
        return store.read_versioned(Layout.ref(name))[1]
    except NotInStore:
        raise _no_environment(store, name) from None


def read_ref(store: Store, name: str, limit: int = canonical.LARGEST_DOCUMENT) -> VersionedRef:
    """Read an environment's ref, of at most `limit` bytes.

    Raise NotInStore, Corrupted, UnsupportedFormat, ObjectTooLarge.
    """
    try:
        data, version = store.read_versioned(Layout.ref(name), limit)
    except NotInStore:
        raise _no_environment(store, name) from None
    return VersionedRef(decode_ref(store, name, data), version)


def _no_environment(store: Store, name: str) -> NotInStore:
    return NotInStore(f"environment {name!r}", store.url, environment_names(store), name)


def decode_ref(store: Store, name: str, data: bytes) -> Ref:
    """Decode the bytes of an environment's ref; raise Corrupted, UnsupportedFormat."""
    what = f"environment {name!r} in {store.url}"
    advice = (
        f"Restore an earlier copy of {Layout.ref(name)} if there is one (a backup, or the bucket's versions). "
        f"Otherwise remove it (snapper remove {name} --yes) and pack the environment again."
    )
    with decoding(what, advice):
        ref = decode_checked(Ref, data, what)
        if ref.name != name:
            raise canonical.MalformedDocument(f"it is the entry of {ref.name!r}")
    return ref


def referenced_snapshots(ref: Ref) -> set[str]:
    """Return the ids of all snapshots in the environment's history and tags."""
    return {ref.current, *(entry.snapshot for entry in ref.history), *ref.tags.values()}


def lineage(ref: Ref) -> list[str]:
    """Return the ids of the snapshots that led to the current one, which is the last, without those rolled back."""
    line: list[str] = []
    counts: Counter[str] = Counter()  # of the ids in the line: an attacker's history may be long
    for entry in ref.history:
        if entry.action == ROLLBACK and counts[entry.snapshot]:
            while line[-1] != entry.snapshot:
                counts[line.pop()] -= 1
        elif line[-1:] != [entry.snapshot]:
            line.append(entry.snapshot)
            counts[entry.snapshot] += 1
    return line


def origin_entry(ref: Ref, snapshot_id: str) -> HistoryEntry | None:
    """Return the latest history entry that packed or copied the snapshot.

    If only rollbacks to it are left in the history, return the latest of those; None if there are none either.
    """
    entries = [entry for entry in reversed(ref.history) if entry.snapshot == snapshot_id]
    return next((entry for entry in entries if entry.action != ROLLBACK), entries[0] if entries else None)


def advance_ref(
    store: Store, name: str, entry: HistoryEntry, current: VersionedRef | None, *, force: bool = False
) -> None:
    """Append the entry to the environment's history and make its snapshot the current one.

    `current` is the ref as the caller read it, None if there was none. Raise ConcurrentUpdate if it has changed
    since then; with `force`, append to whatever the history is by now.
    """
    while True:
        try:
            if current is None:
                _replace(store, Ref(FORMAT, name, entry.snapshot, (entry,), {}), None)
            else:
                history = (*current.ref.history, entry)
                _replace(
                    store, replace(current.ref, current=entry.snapshot, history=history), current.version
                )
            return
        except ConcurrentUpdate:
            if not force:
                raise
            current = find_ref(store, name)


def add_to_history(store: Store, name: str, entry: HistoryEntry) -> None:
    """Append the entry to the environment's history, and a rollback to the current snapshot, in one step.

    The current snapshot stays that, at every moment. Raise NotInStore.
    """
    while True:
        current = read_ref(store, name)
        origin = origin_entry(current.ref, current.ref.current) or current.ref.latest
        back = replace(
            origin,
            action=ROLLBACK,
            time=entry.time,
            user=entry.user,
            host=entry.host,
            message="",
            added_size=0,
        )
        with suppress(ConcurrentUpdate):
            history = (*current.ref.history, entry, back)
            _replace(store, replace(current.ref, history=history), current.version)
            return


def find_ref(store: Store, name: str) -> VersionedRef | None:
    """Read an environment's ref like `read_ref`, but return None if there is no such environment."""
    try:
        return read_ref(store, name)
    except NotInStore:
        return None


def replace_tags(store: Store, current: VersionedRef, tags: dict[str, str]) -> None:
    """Replace the environment's tags; raise ConcurrentUpdate if its ref has changed since it was read."""
    _replace(store, replace(current.ref, tags=tags), current.version)


def replace_history(store: Store, current: VersionedRef, trimmed: Ref) -> None:
    """Replace the ref by one with fewer history entries and tags; raise ConcurrentUpdate if it has changed since."""
    _replace(store, trimmed, current.version)


def delete_ref(store: Store, name: str, version: str) -> None:
    """Delete the environment's ref, which may be corrupted; raise NotInStore, and ConcurrentUpdate if it is no
    longer at that version.
    """
    try:
        deleted = store.delete(Layout.ref(name), version)
    except VersionMismatch:
        raise _concurrent_update(store, name) from None
    if not deleted:
        raise NotInStore(f"environment {name!r}", store.url)


def _replace(store: Store, ref: Ref, version: str | None) -> None:
    """Write the ref; raise ConcurrentUpdate, and EntryTooLarge if nobody could read it any more."""
    data = canonical.encode(ref)
    if len(data) > canonical.LARGEST_DOCUMENT:
        raise EntryTooLarge(ref.name, store.url, len(data), canonical.LARGEST_DOCUMENT)
    try:
        store.replace(Layout.ref(ref.name), data, version)
    except VersionMismatch:
        raise _concurrent_update(store, ref.name) from None


def _concurrent_update(store: Store, name: str) -> SnapperError:
    """Return the error that says who changed the ref, or the one with which reading it failed."""
    try:
        latest = read_ref(store, name).ref.latest
    except SnapperError as error:
        return error
    return ConcurrentUpdate(name, f"{latest.user}@{latest.host}", latest.time)


@dataclass(frozen=True)
class StoredEnvironment:
    """An environment in the store: its ref, or the error that reading it raised."""

    name: str
    ref: Ref | None
    error: SnapperError | None = None


def read_all_refs(store: Store) -> Iterator[StoredEnvironment]:
    """Yield all refs in the store, in order; one that cannot be read does not hide the others.

    Keys that no ref can have come last, with an error, as what may have been the refs of environments.
    """
    listed = list_refs(store)
    for name in listed.names:
        try:
            yield StoredEnvironment(name, read_ref(store, name).ref)
        except SnapperError as error:
            yield StoredEnvironment(name, None, error)
    for key in listed.invalid:
        yield StoredEnvironment(name_in(key), None, invalid_entry(store, key))
