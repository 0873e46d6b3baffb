"""Push and pull: copy snapshots from one store to another, with the objects that it does not have yet."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import NamedTuple

from snapper.errors import (
    ConcurrentUpdate,
    Corrupted,
    Diverged,
    EntryTooLarge,
    LayersPruned,
    NotInStore,
    SnapperError,
    StoreRefused,
    UnsupportedFormat,
    UsageError,
)
from snapper.format.layout import Layout
from snapper.format.manifest import EncodedSnapshot
from snapper.format.model import HistoryEntry, Layer, Ref
from snapper.process.progress import NO_PROGRESS, Progress
from snapper.repository.checked_layers import CheckedLayers, intact_layers, written_keys
from snapper.repository.locks import Intent, pack_intent, report_running_prune
from snapper.repository.objects import read_layer, write_pages
from snapper.repository.refs import VersionedRef, advance_ref, find_ref, list_refs, name_in
from snapper.repository.snapshots import (
    decode_snapshot,
    read_encoded_snapshot,
    require_layers,
    write_snapshot,
)
from snapper.repository.specs import SnapshotSpec, resolve_spec
from snapper.store import Store

#: How many layers are copied concurrently, and how many bytes of them are in memory.
_MAX_CONCURRENT = 8
_MAX_BYTES = 128 * 1024 * 1024

#: Errors that concern one environment only.
_ENVIRONMENT_ERRORS = (
    Diverged,
    ConcurrentUpdate,
    Corrupted,
    EntryTooLarge,
    UnsupportedFormat,
    NotInStore,
    LayersPruned,
)


@dataclass(frozen=True)
class CopyResult:
    """An environment that was copied, with sizes in bytes.

    `present` means that nothing had to be done: the snapshot is current in the target, or was made current there by
    the same history entry and has been followed by others.
    """

    environment: str
    snapshot_id: str
    source: str
    target: str
    present: bool
    added_layers: int
    added_size: int
    seconds: float


@dataclass(frozen=True)
class CopyFailure:
    """An environment that could not be copied, and why."""

    environment: str
    error: SnapperError


def select_snapshots(source: Store, specs: Iterable[SnapshotSpec] = ()) -> list[SnapshotSpec]:
    """Return the snapshots to copy: the given ones, all of which must exist, or all current ones if none are given.

    The latter include those of keys that no ref can have: copying them reports what is wrong.

    Raise NotInStore, UsageError.
    """
    selected = list(dict.fromkeys(specs))
    for spec in selected:
        resolve_spec(source, spec)
    if selected:
        return selected
    listed = list_refs(source)
    return [SnapshotSpec(name) for name in (*listed.names, *map(name_in, listed.invalid))]


def copy_environments(
    source: Store,
    target: Store,
    specs: Sequence[SnapshotSpec],
    *,
    force: bool = False,
    progress: Progress = NO_PROGRESS,
) -> Iterator[CopyResult | CopyFailure]:
    """Copy each snapshot and make it current in the target; yield the outcome of each.

    Layers are copied first, then pages, the snapshot, and the ref. An environment whose history has diverged in the
    target is only updated with `force`. A failure does not stop the others. Raise UsageError if both stores are the
    same, and what stores raise.
    """
    if source.url == target.url:
        raise UsageError(f"both stores are {target.url}", "Give two different stores.")
    return _copy_each(source, target, specs, force=force, progress=progress)


def _copy_each(
    source: Store, target: Store, specs: Sequence[SnapshotSpec], *, force: bool, progress: Progress
) -> Iterator[CopyResult | CopyFailure]:
    for spec in specs:
        outcome: CopyResult | CopyFailure
        try:
            with pack_intent(target) as intent:
                outcome = _Copy(source, target, intent, progress).run(spec, force=force)
        except _ENVIRONMENT_ERRORS as error:
            outcome = CopyFailure(str(spec), error)
        except StoreRefused as error:
            if not error.unreadable:
                raise
            outcome = CopyFailure(str(spec), error)
        yield outcome


class _Origin(NamedTuple):
    """The source's history entry that made a snapshot current, and the snapshots before it."""

    entry: HistoryEntry
    earlier: frozenset[str]


class _Added(NamedTuple):
    """How many layers and bytes were added to the target."""

    layers: int
    size: int


@dataclass(frozen=True)
class _Copy:
    source: Store
    target: Store
    intent: Intent
    progress: Progress

    def run(self, spec: SnapshotSpec, *, force: bool) -> CopyResult:
        started = time.monotonic()
        ref, snapshot_id = resolve_spec(self.source, spec)
        origin = _find_origin(ref, snapshot_id)
        current = find_ref(self.target, ref.name)
        present = current is not None and _is_present(current.ref, origin.entry, force=force)
        added = _Added(0, 0)
        if not present:
            if current is not None and not force:
                self._check_not_diverged(current.ref, origin)
            added = self._transfer(ref.name, origin.entry, current, force=force)
        return CopyResult(
            environment=ref.name,
            snapshot_id=snapshot_id,
            source=self.source.url,
            target=self.target.url,
            present=present,
            added_layers=added.layers,
            added_size=added.size,
            seconds=time.monotonic() - started,
        )

    def _check_not_diverged(self, target_ref: Ref, origin: _Origin) -> None:
        """Raise Diverged unless the target's current snapshot is an earlier one of the source."""
        if target_ref.current not in origin.earlier:
            latest = target_ref.latest
            who = f"{latest.user}@{latest.host}"
            raise Diverged(target_ref.name, self.target.url, target_ref.current, who, latest.time)

    def _transfer(
        self, name: str, entry: HistoryEntry, current: VersionedRef | None, *, force: bool
    ) -> _Added:
        """Copy the entry's snapshot and append the entry to the history in the target."""
        snapshot = read_encoded_snapshot(self.source, entry.snapshot)
        layers = decode_snapshot(self.source, snapshot).layers
        report_running_prune(self.target, self.progress)
        self.intent.declare()
        added_layers = self._copy_layers(name, layers)
        require_layers(self.target, [layer for layer in layers if layer.digest not in added_layers])
        size = sum(added_layers.values()) + self._write_snapshot(snapshot)
        advance_ref(self.target, name, replace(entry, added_size=size), current, force=force)
        return _Added(len(added_layers), size)

    def _write_snapshot(self, snapshot: EncodedSnapshot) -> int:
        """Write pages and manifest; return how many bytes that added."""
        size = write_pages(self.target, snapshot.pages)
        self.intent.check()
        return size + write_snapshot(self.target, snapshot)

    def _copy_layers(self, name: str, layers: Iterable[Layer]) -> dict[str, int]:
        """Copy the layers that the target does not have; return the sizes of those that were added, by digest."""
        unique = {layer.digest: layer for layer in layers}
        checked = CheckedLayers()
        present = intact_layers(self.target, unique.values(), checked)
        missing = [layer for digest, layer in unique.items() if digest not in present]
        self.progress.start(f"Copying {name}", sum(layer.size for layer in missing))
        written = dict(self._copy_concurrently(missing))
        self.progress.done()
        checked.remember(written_keys(self.target, written))
        return {digest: unique[digest].size for digest in written}

    def _copy_concurrently(self, layers: Sequence[Layer]) -> Iterator[tuple[str, str]]:
        """Copy the layers; yield the digest of each that was added, when it is complete, and its identity."""
        waiting, in_flight = list(reversed(layers)), dict[Future[str], Layer]()
        with ThreadPoolExecutor(_MAX_CONCURRENT) as pool:
            while waiting or in_flight:
                while waiting and _may_start(waiting[-1], in_flight.values()):
                    layer = waiting.pop()
                    in_flight[pool.submit(self._copy_layer, layer)] = layer
                for future in wait(in_flight, return_when=FIRST_COMPLETED).done:
                    layer = in_flight.pop(future)
                    identity = future.result()
                    self.progress.advance(layer.size)
                    if identity:
                        yield layer.digest, identity

    def _copy_layer(self, layer: Layer) -> str:
        data = read_layer(self.source, layer)
        return self.target.put(Layout.layer(layer.digest), data)


def _may_start(layer: Layer, in_flight: Iterable[Layer]) -> bool:
    sizes = [other.size for other in in_flight]
    return not sizes or (len(sizes) < _MAX_CONCURRENT and sum(sizes) + layer.size <= _MAX_BYTES)


def _find_origin(ref: Ref, snapshot_id: str) -> _Origin:
    """Return the entry to append to the target's history: the latest that made the snapshot current, unchanged.

    A snapshot that only a tag names has none; use the latest entry instead.
    """
    for number in reversed(range(len(ref.history))):
        if ref.history[number].snapshot == snapshot_id:
            return _Origin(ref.history[number], frozenset(entry.snapshot for entry in ref.history[:number]))
    earlier = frozenset(entry.snapshot for entry in ref.history)
    return _Origin(replace(ref.latest, snapshot=snapshot_id), earlier)


def _is_present(target_ref: Ref, entry: HistoryEntry, *, force: bool) -> bool:
    """Return whether the target needs no update: the snapshot is current there or, unless forced, has been.

    The same entry may have added a different number of bytes to another store.
    """
    if target_ref.current == entry.snapshot:
        return True
    known = (replace(other, added_size=entry.added_size) for other in target_ref.history)
    return not force and entry in known
