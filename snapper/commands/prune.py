"""Prune: what no environment needs any more goes out of a store, in an order in which nothing is ever missing.

First entries let go of snapshots that are not to be kept, then snapshots go that nobody names, then pages and layers
that no snapshot has; the protocol, and why packs lose nothing by it, is in docs/format.md.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime
from fnmatch import fnmatchcase

from snapper.errors import ConcurrentUpdate, Corrupted, NotInStore, SnapperError
from snapper.format.layout import Layout
from snapper.format.manifest import Manifest
from snapper.format.model import HistoryEntry, Page, Ref
from snapper.process.progress import NO_PROGRESS, Progress
from snapper.repository.locks import GRACE, prune_lock
from snapper.repository.refs import environment_names, read_ref, referenced_snapshots, replace_history
from snapper.repository.snapshots import iter_layer_pages, read_manifest
from snapper.repository.specs import check_environment_name
from snapper.store import ObjectInfo, Store

logger = logging.getLogger(__name__)

_SNAPSHOT = re.compile(r"snapshots/([0-9a-f]{64})\.json\Z")
_SHARED = {
    "pages/": re.compile(r"pages/([0-9a-f]{2})/\1[0-9a-f]{62}\.json\Z"),
    "layers/": re.compile(r"layers/([0-9a-f]{2})/\1[0-9a-f]{62}\.tar\.zst\Z"),
}
_TRIES = 8

#: An environment as it was and as it is to be.
_Change = tuple[Ref, Ref]


@dataclass(frozen=True)
class RetentionPolicy:
    """Which snapshots an environment keeps beside its current one: the `last` ones, and the last one of so many
    days, weeks and months in which there was one. Without any of these, all. Tags that match a pattern of `tags`
    keep theirs.
    """

    last: int | None = None
    daily: int | None = None
    weekly: int | None = None
    monthly: int | None = None
    tags: tuple[str, ...] = ("*",)

    @property
    def keeps_all(self) -> bool:
        return (self.last, self.daily, self.weekly, self.monthly) == (None,) * 4

    def kept(self, environment: Ref) -> set[str]:
        """The ids of the snapshots that stay."""
        steps = environment.history[::-1]
        kept = {environment.current, *self._tagged(environment).values()}
        if self.keeps_all:
            return kept | {step.snapshot for step in steps}
        kept.update(list(dict.fromkeys(step.snapshot for step in steps))[: self.last or 0])
        for count, period in ((self.daily, _day), (self.weekly, _week), (self.monthly, _month)):
            kept.update(_newest_of_each(steps, period)[: count or 0])
        return kept

    def applied(self, environment: Ref) -> Ref:
        """The environment without the steps and tags of snapshots that do not stay."""
        kept = self.kept(environment)
        return replace(
            environment,
            history=tuple(step for step in environment.history if step.snapshot in kept),
            tags=self._tagged(environment),
        )

    def _tagged(self, environment: Ref) -> dict[str, str]:
        return {
            tag: snapshot_id
            for tag, snapshot_id in environment.tags.items()
            if any(fnmatchcase(tag, pattern) for pattern in self.tags)
        }


@dataclass(frozen=True)
class DroppedEntry:
    """A snapshot that an environment no longer keeps, and when it was packed."""

    environment: str
    snapshot_id: str
    time: str


@dataclass(frozen=True)
class DroppedTag:
    """A tag that an environment no longer has, and the snapshot that it named."""

    environment: str
    tag: str
    snapshot_id: str


@dataclass(frozen=True)
class PruneResult:
    """What went, or would go in a `dry` run; sizes in bytes. `left_over` is how many things of interrupted work
    were found in the way, and `waiting` objects are not needed but by snapshots that nobody names, or too young."""

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
    """Applies the retention to the environments named, or to all, and removes what no environment needs and is older
    than the grace period, in seconds by the store's own clock. Nothing is let go of before it is known what stays.

    Raises StoreLocked, NotInStore, Corrupted where it cannot be known what is needed, StoreRefused, LeaseExpired.
    """
    needs = _Needs(store)
    if dry:
        retained = tuple(_retained(store, retention, names))
        kept = {each.name: each for _, each in retained}
        return _swept(needs, kept, retained, _Sweep(None, time.time() - grace), progress)
    with prune_lock(store) as lock:
        needs.of(_named(kept for _, kept in _retained(store, retention, names)))
        trimmed: list[_Change] = []
        try:
            trimmed.extend(_trim(store, retention, names))
            kept = {name: read_ref(store, name).ref for name in environment_names(store)}
            sweep = _Sweep(lock.check, lock.now - grace)
            return _swept(needs, kept, tuple(trimmed), sweep, progress)
        except SnapperError:
            for each in (dropped for change in trimmed for dropped in _dropped(*change)):
                progress.note(f"already removed from the history: {each.environment}@{each.snapshot_id[:12]}")
            raise


def _retained(store: Store, retention: RetentionPolicy, names: Sequence[str]) -> Iterator[_Change]:
    """Every environment as it is and as it is to be."""
    for name in names:
        read_ref(store, check_environment_name(name))
    for name in environment_names(store):
        found = read_ref(store, name).ref
        yield found, retention.applied(found) if not names or name in names else found


def _trim(store: Store, retention: RetentionPolicy, names: Sequence[str]) -> Iterator[_Change]:
    """Has entries let go of what they do not keep; one that somebody moves meanwhile is looked at again."""
    for name in list(names) or list(environment_names(store)):
        for left in range(_TRIES)[::-1]:
            seen = read_ref(store, check_environment_name(name))
            kept = retention.applied(seen.ref)
            try:
                if kept != seen.ref:
                    replace_history(store, seen, kept)
            except ConcurrentUpdate:
                if not left:
                    raise
                continue
            yield seen.ref, kept
            break


def _dropped(found: Ref, kept: Ref) -> Iterator[DroppedEntry]:
    left = {step.snapshot for step in kept.history}
    gone: dict[str, HistoryEntry] = {
        step.snapshot: step for step in found.history if step.snapshot not in left
    }
    for snapshot_id, step in gone.items():
        yield DroppedEntry(found.name, snapshot_id, step.time)


def _untagged(found: Ref, kept: Ref) -> Iterator[DroppedTag]:
    for tag in sorted(found.tags.keys() - kept.tags.keys()):
        yield DroppedTag(found.name, tag, found.tags[tag])


@dataclass(frozen=True)
class _Sweep:
    """How to remove: `check` is called before each deletion, None for a dry run; only what is older than `before`."""

    check: Callable[[], None] | None
    before: float


def _swept(
    needs: _Needs,
    environments: dict[str, Ref],
    changes: tuple[_Change, ...],
    sweep: _Sweep,
    progress: Progress,
) -> PruneResult:
    """Removes what these environments do not need. What is needed is known before anything goes."""
    store, named = needs.store, _named(environments.values())
    snapshots = {
        match[1]: each for each in store.list_objects("snapshots/") if (match := _SNAPSHOT.match(each.key))
    }
    useless = {key: each for key, each in snapshots.items() if key not in named}
    old = {key: each for key, each in useless.items() if each.modified < sweep.before}
    needed, awaited = needs.of(named, useless.keys() - old.keys())
    shared = [each for top in _SHARED for each in store.list_objects(top) if _SHARED[top].match(each.key)]
    unneeded = [each for each in shared if each.key not in needed]
    gone = [each for each in unneeded if each.modified < sweep.before and each.key not in awaited]
    waiting = {each.key: each for each in (*useless.values(), *unneeded)}
    for each in (*old.values(), *gone):
        del waiting[each.key]
    size = sum(each.size for each in (*old.values(), *gone))
    logger.info(
        "%d snapshots are referenced; %d snapshots and %d other objects (%d bytes) are to be removed",
        len(named),
        len(old),
        len(gone),
        size,
    )
    left_over = 0
    if sweep.check is not None:
        if old or gone:
            progress.start("Removing", size)
            _remove(store, [*old.values(), *gone], sweep.check, progress)
            progress.done()
        left_over = store.remove_leftovers()
    return PruneResult(
        dry=sweep.check is None,
        dropped=tuple(each for change in changes for each in _dropped(*change)),
        untagged=tuple(each for change in changes for each in _untagged(*change)),
        snapshots=tuple(sorted(old)),
        pages=_digests(gone, "pages/"),
        layers=_digests(gone, "layers/"),
        size=size,
        left_over=left_over,
        waiting=len(waiting),
        waiting_size=sum(each.size for each in waiting.values()),
    )


def _named(environments: Iterable[Ref]) -> set[str]:
    return {each for found in environments for each in referenced_snapshots(found)}


class _Needs:
    """What snapshots of a store need. Each of them, and each page, is read once, however often that is asked."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._documents: dict[str, Manifest] = {}
        self._layers: dict[Page, tuple[str, ...]] = {}

    def of(self, named: Set[str], others: Set[str] = frozenset()) -> tuple[set[str], set[str]]:
        """The keys of the pages and layers that the named snapshots need, and of those that others do, as far as they
        can be read. Raises Corrupted where it cannot be known what the named ones need.
        """
        needed: set[str] = set()
        awaited: set[str] = set()
        counts: dict[Page, bool] = {}  # the pages of layers, and whether one that is named has it
        for snapshot_id in sorted(named | others):
            document = self._document(snapshot_id, is_named=snapshot_id in named)
            if document:
                wanted = needed if snapshot_id in named else awaited
                wanted.update(Layout.page(page.digest) for page in document.pages)
                for page in document.layers:
                    counts[page] = counts.get(page, False) or snapshot_id in named
        unread = [page for page in counts if page not in self._layers]
        for page, found in iter_layer_pages(self.store, unread):
            if not isinstance(found, SnapperError):
                self._layers[page] = tuple(Layout.layer(layer.digest) for layer in found)
            elif counts[page]:
                raise found
        for page, is_needed in counts.items():
            (needed if is_needed else awaited).update(self._layers.get(page, ()))
        return needed, awaited

    def _document(self, snapshot_id: str, *, is_named: bool) -> Manifest | None:
        """The snapshot's document; None for one that nobody names and that cannot be read."""
        try:
            if snapshot_id not in self._documents:
                self._documents[snapshot_id] = read_manifest(self.store, snapshot_id)
        except SnapperError as error:
            if not is_named:
                return None
            if isinstance(error, NotInStore):
                what = f"the store {self.store.url}"
                raise Corrupted(what, f"snapshot {snapshot_id[:12]} is missing") from None
            raise
        return self._documents[snapshot_id]


def _digests(objects: Iterable[ObjectInfo], top: str) -> tuple[str, ...]:
    """Those below `top`, in order."""
    keys = [each.key for each in objects if each.key.startswith(top)]
    return tuple(sorted(key.rpartition("/")[2].partition(".")[0] for key in keys))


def _remove(
    store: Store, objects: Iterable[ObjectInfo], check: Callable[[], None], progress: Progress
) -> None:
    for each in objects:
        check()
        store.delete(each.key)
        progress.advance(each.size)


def _newest_of_each(steps: Iterable[HistoryEntry], period: Callable[[str], str]) -> list[str]:
    """The newest snapshot of each period, newest first; `steps` are newest first too."""
    newest: dict[str, str] = {}
    for step in steps:
        newest.setdefault(period(step.time), step.snapshot)
    return list(newest.values())


def _day(moment: str) -> str:
    return moment[:10]


def _month(moment: str) -> str:
    return moment[:7]


def _week(moment: str) -> str:
    try:
        year, week, _ = datetime.strptime(moment[:10], "%Y-%m-%d").isocalendar()
    except ValueError:
        return moment
    return f"{year}-{week}"
