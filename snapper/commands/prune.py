"""Prune: delete what no environment needs any more, in an order that never leaves a reference to a missing object.

Refs drop the history entries that are not kept; then snapshots are deleted that no ref names, and then pages and
layers that no snapshot names. docs/format.md describes the protocol and why simultaneous packs lose nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

from snapper.commands.retention import RetentionPolicy
from snapper.errors import ConcurrentUpdate, Corrupted, NotInStore, SnapperError
from snapper.format.layout import Layout, ObjectKind
from snapper.format.manifest import Manifest
from snapper.format.model import Page, Ref
from snapper.process.progress import NO_PROGRESS, Progress
from snapper.repository.locks import GRACE, prune_lock
from snapper.repository.refs import (
    invalid_entry,
    list_refs,
    read_ref,
    referenced_snapshots,
    replace_history,
)
from snapper.repository.snapshots import iter_layer_pages, read_manifest
from snapper.repository.specs import check_environment_name
from snapper.store import ObjectInfo, Store

logger = logging.getLogger(__name__)

#: How often trimming a ref is repeated if others change the ref at the same time.
_MAX_TRIES = 8


@dataclass(frozen=True)
class DroppedEntry:
    """A snapshot that was dropped from an environment's history, and when it was packed."""

    environment: str
    snapshot_id: str
    time: str


@dataclass(frozen=True)
class DroppedTag:
    """A tag that was dropped from an environment, and the snapshot that it named."""

    environment: str
    tag: str
    snapshot_id: str


@dataclass(frozen=True)
class PruneResult:
    """What was deleted, or would be in a `dry` run: ids and digests, sizes in bytes.

    `left_over` counts leftovers of killed processes that were removed. `waiting` counts objects that no environment
    needs but that are too young, or that a snapshot that is too young needs.
    """

    dry: bool
    dropped: tuple[DroppedEntry, ...]
    untagged: tuple[DroppedTag, ...]
    snapshots: tuple[str, ...]
    pages: tuple[str, ...]
    layers: tuple[str, ...]
    size: int
    left_over: int
    waiting: int
    waiting_size: int


def prune(
    store: Store,
    retention: RetentionPolicy,
    names: Sequence[str] = (),
    *,
    dry: bool,
    grace: float = GRACE,
    progress: Progress = NO_PROGRESS,
) -> PruneResult:
    """Apply the retention policy to the named environments, by default all, and delete what no environment needs.

    Objects younger than `grace`, in seconds by the store's clock, are kept. Nothing is changed unless everything that
    has to stay can be read. Raise StoreLocked, NotInStore, LeaseExpired, StoreRefused, and Corrupted if it cannot be
    known what is needed.
    """
    references = _References(store)
    if dry:
        trims = list(_plan_trims(store, retention, names))
        garbage = _find_garbage(references, [trim.after for trim in trims], time.time() - grace)
        return _make_result(trims, garbage, dry=True)
    with prune_lock(store) as lock:
        # Before any history is trimmed: fails if something is corrupted that has to stay.
        references.find_needed(_referenced(trim.after for trim in _plan_trims(store, retention, names)))
        trims = []
        try:
            for trim in _trim_histories(store, retention, names):
                trims.append(trim)
            refs = [read_ref(store, name).ref for name in _list_names(store)]
            garbage = _find_garbage(references, refs, lock.now - grace)
            _delete(store, garbage, lock.check, progress)
            return _make_result(trims, garbage, dry=False, left_over=store.remove_leftovers())
        except SnapperError:
            for entry in (entry for trim in trims for entry in _dropped_entries(trim)):
                progress.note(
                    f"already removed from the history: {entry.environment}@{entry.snapshot_id[:12]}"
                )
            raise


# --- retention --------------------------------------------------------------------------------------------


class _Trim(NamedTuple):
    """A ref before and after the retention policy was applied."""

    before: Ref
    after: Ref


def _plan_trims(store: Store, retention: RetentionPolicy, names: Sequence[str]) -> Iterator[_Trim]:
    """Yield all refs in the store; those of other than the named environments stay as they are."""
    for name in names:
        read_ref(store, check_environment_name(name))  # before anything else: raises NotInStore
    for name in _list_names(store):
        ref = read_ref(store, name).ref
        yield _Trim(ref, retention.apply(ref) if not names or name in names else ref)


def _list_names(store: Store) -> tuple[str, ...]:
    """Return the names of all environments; raise Corrupted if there is anything else that may refer to snapshots."""
    listed = list_refs(store)
    for key in listed.invalid:
        raise invalid_entry(store, key)
    return listed.names


def _trim_histories(store: Store, retention: RetentionPolicy, names: Sequence[str]) -> Iterator[_Trim]:
    """Apply the retention policy to the named environments, by default all; yield each when it is done."""
    for name in names or _list_names(store):
        yield _trim_history(store, retention, name)


def _trim_history(store: Store, retention: RetentionPolicy, name: str) -> _Trim:
    """Apply the retention policy to one environment, again if others change it at the same time."""
    for tries_left in reversed(range(_MAX_TRIES)):
        current = read_ref(store, check_environment_name(name))
        trim = _Trim(current.ref, retention.apply(current.ref))
        try:
            if trim.after != trim.before:
                replace_history(store, current, trim.after)
            return trim
        except ConcurrentUpdate:
            if not tries_left:
                raise
    raise AssertionError


def _dropped_entries(trim: _Trim) -> Iterator[DroppedEntry]:
    """Yield the snapshots that are no longer in the history, each with its latest entry."""
    kept_ids = {entry.snapshot for entry in trim.after.history}
    dropped = {entry.snapshot: entry for entry in trim.before.history if entry.snapshot not in kept_ids}
    for snapshot_id, entry in dropped.items():
        yield DroppedEntry(trim.before.name, snapshot_id, entry.time)


def _dropped_tags(trim: _Trim) -> Iterator[DroppedTag]:
    for tag in sorted(trim.before.tags.keys() - trim.after.tags.keys()):
        yield DroppedTag(trim.before.name, tag, trim.before.tags[tag])


# --- garbage ----------------------------------------------------------------------------------------------


class _Garbage(NamedTuple):
    """The objects to delete, snapshots first, and those that no environment needs either but that have to wait."""

    deleted: list[ObjectInfo]
    waiting: list[ObjectInfo]

    def add(self, info: ObjectInfo, *, delete: bool) -> None:
        (self.deleted if delete else self.waiting).append(info)

    def digests(self, kind: ObjectKind) -> tuple[str, ...]:
        """Return the digests of the objects of this kind that are deleted, in order."""
        parsed = [key for info in self.deleted if (key := Layout.parse(info.key)) is not None]
        return tuple(sorted(key.name for key in parsed if key.kind is kind))

    @property
    def size(self) -> int:
        return sum(info.size for info in self.deleted)


def _find_garbage(references: _References, refs: Iterable[Ref], limit: float) -> _Garbage:
    """Find the objects that these refs do not need. Only what was written before `limit` is deleted.

    Unreferenced snapshots that are too young may belong to a pack that has not published yet, so their pages and
    layers wait too.
    """
    store, referenced = references.store, _referenced(refs)
    garbage = _Garbage([], [])
    young: set[str] = set()
    for snapshot_id, info in _list_digests(store, ObjectKind.SNAPSHOT, Layout.SNAPSHOTS):
        if snapshot_id not in referenced:
            garbage.add(info, delete=info.modified < limit)
            if info.modified >= limit:
                young.add(snapshot_id)
    snapshots = len(garbage.deleted)
    needed = references.find_needed(referenced, young)
    for kind, prefix in ((ObjectKind.PAGE, Layout.PAGES), (ObjectKind.LAYER, Layout.LAYERS)):
        for _, info in _list_digests(store, kind, prefix):
            if info.key not in needed.by_referenced:
                garbage.add(info, delete=info.modified < limit and info.key not in needed.by_others)
    logger.info(
        "%d snapshots are referenced; %d snapshots and %d other objects (%d bytes) are to be removed",
        len(referenced),
        snapshots,
        len(garbage.deleted) - snapshots,
        garbage.size,
    )
    return garbage


def _list_digests(store: Store, kind: ObjectKind, prefix: str) -> Iterator[tuple[str, ObjectInfo]]:
    """Yield the objects of this kind with their digests; what does not belong in a store is skipped."""
    for info in store.list_objects(prefix):
        parsed = Layout.parse(info.key)
        if parsed is not None and parsed.kind is kind:
            yield parsed.name, info


def _referenced(refs: Iterable[Ref]) -> set[str]:
    return {snapshot_id for ref in refs for snapshot_id in referenced_snapshots(ref)}


class _Needed(NamedTuple):
    """Keys of the pages and layers that referenced snapshots need, and those that other snapshots need."""

    by_referenced: set[str]
    by_others: set[str]


class _References:
    """The pages and layers that snapshots refer to. Each manifest and page is read once, however often it is asked."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._manifests: dict[str, Manifest] = {}
        self._layers: dict[Page, tuple[str, ...]] = {}

    def find_needed(self, referenced: Set[str], others: Set[str] = frozenset()) -> _Needed:
        """Return what these snapshots need. Others that cannot be read are skipped.

        Raise Corrupted if it cannot be known what the referenced snapshots need.
        """
        needed = _Needed(set(), set())
        layer_pages: dict[Page, bool] = {}  # whether a referenced snapshot has the page
        for snapshot_id in sorted(referenced | others):
            is_referenced = snapshot_id in referenced
            manifest = self._read_manifest(snapshot_id, is_referenced=is_referenced)
            if manifest is None:
                continue
            keys = needed.by_referenced if is_referenced else needed.by_others
            keys.update(Layout.page(page.digest) for page in manifest.pages)
            for page in manifest.layers:
                layer_pages[page] = layer_pages.get(page, False) or is_referenced
        self._read_layer_pages(layer_pages)
        for page, is_referenced in layer_pages.items():
            keys = needed.by_referenced if is_referenced else needed.by_others
            keys.update(self._layers.get(page, ()))
        return needed

    def _read_layer_pages(self, pages: dict[Page, bool]) -> None:
        """Read those pages that have not been read yet; raise Corrupted if that fails for a referenced one."""
        unread = [page for page in pages if page not in self._layers]
        for page, layers in iter_layer_pages(self.store, unread):
            if not isinstance(layers, SnapperError):
                self._layers[page] = tuple(Layout.layer(layer.digest) for layer in layers)
            elif pages[page]:
                raise layers

    def _read_manifest(self, snapshot_id: str, *, is_referenced: bool) -> Manifest | None:
        """Return the manifest; None if it cannot be read and no ref names the snapshot."""
        try:
            if snapshot_id not in self._manifests:
                self._manifests[snapshot_id] = read_manifest(self.store, snapshot_id)
        except SnapperError as error:
            if not is_referenced:
                return None
            if isinstance(error, NotInStore):
                what = f"the store {self.store.url}"
                raise Corrupted(what, f"snapshot {snapshot_id[:12]} is missing") from None
            raise
        return self._manifests[snapshot_id]


# --- deletion ---------------------------------------------------------------------------------------------


def _delete(store: Store, garbage: _Garbage, check: Callable[[], None], progress: Progress) -> None:
    """Delete the garbage, snapshots first; `check` raises if the lock of the store has been lost."""
    if not garbage.deleted:
        return
    progress.start("Removing", garbage.size)
    for info in garbage.deleted:
        check()
        store.delete(info.key)
        progress.advance(info.size)
    progress.done()


def _make_result(trims: Sequence[_Trim], garbage: _Garbage, *, dry: bool, left_over: int = 0) -> PruneResult:
    return PruneResult(
        dry=dry,
        dropped=tuple(entry for trim in trims for entry in _dropped_entries(trim)),
        untagged=tuple(tag for trim in trims for tag in _dropped_tags(trim)),
        snapshots=garbage.digests(ObjectKind.SNAPSHOT),
        pages=garbage.digests(ObjectKind.PAGE),
        layers=garbage.digests(ObjectKind.LAYER),
        size=garbage.size,
        left_over=left_over,
        waiting=len(garbage.waiting),
        waiting_size=sum(info.size for info in garbage.waiting),
    )
