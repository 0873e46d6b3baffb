"""Push and pull: snapshots from one store to another, with what they need and no more."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

from snapper.errors import (
    ConcurrentUpdate,
    Corrupted,
    Diverged,
    LayersPruned,
    NotInStore,
    SnapperError,
    UnsupportedFormat,
)
from snapper.format.layout import Layout
from snapper.format.manifest import EncodedSnapshot
from snapper.format.model import HistoryEntry, Layer, Ref
from snapper.process.progress import NO_PROGRESS, Progress
from snapper.repository.locks import Intent, pack_intent, report_running_prune
from snapper.repository.objects import write_pages
from snapper.repository.refs import VersionedRef, advance_ref, find_ref
from snapper.repository.snapshots import (
    decode_snapshot,
    read_encoded_snapshot,
    read_layer,
    require_layers,
    stored_layers,
    write_snapshot,
)
from snapper.repository.specs import SnapshotSpec, resolve_spec
from snapper.store import Store

#: How many layers are under way at once, and how many bytes of them.
_AT_ONCE = 8
_MOST_BYTES = 128 * 1024 * 1024


@dataclass(frozen=True)
class CopyResult:
    """What became of one environment; `present` if the other store has it at the snapshot already, or has had it there
    by the same step and gone on. Sizes in bytes.
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


#: What concerns one environment and not the others.
_OF_ONE = (Diverged, ConcurrentUpdate, Corrupted, UnsupportedFormat, NotInStore, LayersPruned)


def copy_environments(
    source: Store,
    target: Store,
    references: Sequence[SnapshotSpec],
    *,
    force: bool = False,
    progress: Progress = NO_PROGRESS,
) -> Iterator[CopyResult | CopyFailure]:
    """Copies each snapshot, and makes it the current one there: layers, then pages, then the snapshot, then the entry.

    An entry that went another way there is not moved without `force`. One that cannot be copied does not stop the
    others; raises what stores raise.
    """
    for reference in references:
        try:
            with pack_intent(target) as intent:
                done: CopyResult | CopyFailure = _Copying(source, target, intent, progress).copy(
                    reference, force=force
                )
        except _OF_ONE as error:
            done = CopyFailure(str(reference), error)
        yield done


@dataclass(frozen=True)
class _Copying:
    source: Store
    target: Store
    intent: Intent
    progress: Progress

    def copy(self, reference: SnapshotSpec, *, force: bool) -> CopyResult:
        began = time.monotonic()
        found, snapshot_id = resolve_spec(self.source, reference)
        step, before = _step(found, snapshot_id)
        seen = find_ref(self.target, found.name)
        there = seen is not None and (
            seen.ref.current == snapshot_id or (not force and _has_taken(seen.ref, step))
        )
        if seen and not there and not force:
            self._check_course(seen.ref, before)
        added_layers = added_size = 0
        if not there:
            snapshot = read_encoded_snapshot(self.source, snapshot_id)
            layers = decode_snapshot(self.source, snapshot).layers
            report_running_prune(self.target, self.progress)
            self.intent.declare()
            added = self._copy_layers(found.name, layers)
            added_layers, added_size = len(added), sum(added.values())
            require_layers(self.target, [layer for layer in layers if layer.digest not in added])
            added_size += self._finish(found.name, step, snapshot, seen, added_size, force=force)
        return CopyResult(
            environment=found.name,
            snapshot_id=snapshot_id,
            source=self.source.url,
            target=self.target.url,
            present=there,
            added_layers=added_layers,
            added_size=added_size,
            seconds=time.monotonic() - began,
        )

    def _check_course(self, there: Ref, before: set[str]) -> None:
        """Raises Diverged unless what is current there came before here."""
        if there.current not in before:
            latest = there.latest
            who = f"{latest.user}@{latest.host}"
            raise Diverged(there.name, self.target.url, there.current, who, latest.time)

    def _copy_layers(self, name: str, layers: Iterable[Layer]) -> dict[str, int]:
        """Copies the layers that the other store does not have; gives their sizes by their digests."""
        wanted = {layer.digest: layer for layer in layers}
        there = stored_layers(self.target, list(wanted.values()))
        missing = [layer for digest, layer in wanted.items() if digest not in there]
        self.progress.start(f"Copying {name}", sum(layer.size for layer in missing))
        added = {layer.digest: layer.size for layer in self._copied(missing)}
        self.progress.done()
        return added

    def _copied(self, layers: Sequence[Layer]) -> Iterator[Layer]:
        """Copies layers, some at once; gives each that was not there, when it is."""
        waiting, under_way = list(reversed(layers)), dict[Future[bool], Layer]()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            while waiting or under_way:
                while waiting and self._has_room(under_way.values(), waiting[-1]):
                    layer = waiting.pop()
                    under_way[pool.submit(self._copy_layer, layer)] = layer
                for done in wait(under_way, return_when=FIRST_COMPLETED).done:
                    layer = under_way.pop(done)
                    written = done.result()
                    self.progress.advance(layer.size)
                    if written:
                        yield layer

    def _has_room(self, under_way: Iterable[Layer], layer: Layer) -> bool:
        sizes = [each.size for each in under_way]
        return not sizes or (len(sizes) < _AT_ONCE and sum(sizes) + layer.size <= _MOST_BYTES)

    def _copy_layer(self, layer: Layer) -> bool:
        data = read_layer(self.source, layer)
        return self.target.put(Layout.layer(layer.digest), data)

    def _finish(
        self,
        name: str,
        step: HistoryEntry,
        snapshot: EncodedSnapshot,
        seen: VersionedRef | None,
        added_size: int,
        *,
        force: bool,
    ) -> int:
        """Writes pages, snapshot and entry; returns how many bytes of pages and snapshot were added."""
        size = write_pages(self.target, snapshot.pages)
        self.intent.check()
        size += write_snapshot(self.target, snapshot)
        step = replace(step, added_size=added_size + size)
        advance_ref(self.target, name, step, seen, force=force)
        return size


def _step(found: Ref, snapshot_id: str) -> tuple[HistoryEntry, set[str]]:
    """How the snapshot came to be current: who packed it or went back to it, when and where, goes along to the other
    store's history. And the snapshots that came before it.
    """
    for number in reversed(range(len(found.history))):
        if found.history[number].snapshot == snapshot_id:
            return found.history[number], {move.snapshot for move in found.history[:number]}
    return replace(found.latest, snapshot=snapshot_id), {move.snapshot for move in found.history}


def _has_taken(there: Ref, step: HistoryEntry) -> bool:
    """Whether the step is in the history there, where it may have added other bytes."""
    return any(replace(each, added_size=step.added_size) == step for each in there.history)
