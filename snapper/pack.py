"""Pack: from an environment on disk to a snapshot in a store."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from snapper import catalog, conda, editable, environment, identity, kernels, state
from snapper.collect import Collected, Context, Facts, Group, Included, Item, collect
from snapper.editable import Editable
from snapper.environment import Displaced
from snapper.errors import EditableInstalls, NotInStore, SnapperError
from snapper.large import Piece, Scan, collect_piece, scan
from snapper.layer import DEFAULT_LEVEL
from snapper.locks import Intent, packing
from snapper.model import (
    FORMAT,
    Deviation,
    Environment,
    Kind,
    Layer,
    Move,
    Snapshot,
    encode_snapshot,
    path_bytes,
)
from snapper.plan import Plan, Share, late_share, make_plan
from snapper.progress import SILENT, Progress
from snapper.store import Store
from snapper.tree import Tree
from snapper.workers import Workers

#: What to do about packages whose code is elsewhere: refuse, take it along, or leave the links as they are.
Editables = Literal["refuse", "include", "ignore"]

#: In which order a snapshot's layers stand, so that links come after what they link to.
_ORDER: dict[Kind, int] = {"package": 0, "link": 1, "pip": 2, "files": 3}


@dataclass(frozen=True)
class Packed:
    """What packing did; sizes in bytes. The last three before the time are what the user should know of: what was not
    packed and why, what holds the prefix for good, and symlinks to absolute places outside, which may not be there
    where the environment is restored.
    """

    environment: str
    snapshot_id: str
    snapshot: Snapshot
    prefix: str
    store: str
    unchanged: bool
    added_layers: int
    added_size: int
    skipped: tuple[tuple[str, str], ...]
    unrelocated: tuple[str, ...]
    outside: tuple[str, ...]
    seconds: float


def pack(
    store: Store,
    prefix: Path,
    name: str,
    *,
    message: str = "",
    level: int = DEFAULT_LEVEL,
    editables: Editables = "refuse",
    displaced: Displaced | None = None,
    jobs: int | None = None,
    progress: Progress = SILENT,
) -> Packed:
    """Packs the environment at `prefix` as `name`: layers, then the snapshot, then the environment's entry.

    One that is `displaced` is recorded as imported, and from nowhere.
    Raises NotAnEnvironment, EditableInstalls, NoPermission, ChangedWhilePacking, NoSpace, StoreRefused, Moved and
    their kin; whatever it raises, the store's environments are as they were.
    """
    began = time.monotonic()
    prefix = Path(os.path.abspath(prefix))
    seen = _entry(store, name)
    tree = environment.scan(prefix)
    records = conda.read_records(prefix)
    linked = _editables(prefix, tree, editables)
    whole = editable.include(tree, linked)
    plan = make_plan(prefix, whole, records)
    origin = "" if displaced else str(prefix)
    with packing(store) as intent:
        context = _context(store, intent, prefix, records, level, linked, displaced)
        run = _collected(context, plan, jobs, progress, f"Packing {name}")
        snapshot = _snapshot(prefix, records, plan, run)
        snapshot_id, data = encode_snapshot(snapshot)
        added_size = run.added_size
        unchanged = seen is not None and seen[0].current == snapshot_id
        if not unchanged or not catalog.has_snapshot(store, snapshot_id):
            intent.declare()
            catalog.check_layers(store, snapshot.layers)
            intent.check()
            added_size += catalog.write_snapshot(store, snapshot_id, data)
        if not unchanged:
            catalog.move(store, name, _move(snapshot_id, snapshot, origin, message, added_size), seen)
    if not displaced:
        _remember(prefix, name, snapshot_id, tree, store)
    return Packed(
        environment=name,
        snapshot_id=snapshot_id,
        snapshot=snapshot,
        prefix=origin,
        store=store.url,
        unchanged=unchanged,
        added_layers=run.added_layers,
        added_size=added_size,
        skipped=whole.skipped,
        unrelocated=tuple(sorted(run.unrelocated, key=path_bytes)),
        outside=_outside(whole, context.prefix),
        seconds=time.monotonic() - began,
    )


def _collected(context: Context, plan: Plan, jobs: int | None, progress: Progress, task: str) -> _Run:
    """Packs all that is planned; workers come before the threads that showing progress may need."""
    with Workers(context, jobs) as workers:
        progress.start(task, plan.size)
        run = _Run(plan, workers, progress)
        run.collect()
    progress.done()
    return run


@dataclass
class _Run:
    """Feeds the workers: a package's link-time files wait until the package has been read."""

    plan: Plan
    workers: Workers[Context]
    progress: Progress
    added_size: int = 0
    added_layers: int = 0
    unrelocated: list[str] = field(default_factory=list)
    altered: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _done: dict[tuple[int, str, int, int], Layer] = field(default_factory=dict)
    _jobs: dict[int, tuple[Share, int, Any]] = field(default_factory=dict)
    _pending: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _unproved: dict[str, list[Item]] = field(default_factory=lambda: defaultdict(list))
    _facts: dict[str, dict[str, Facts]] = field(default_factory=lambda: defaultdict(dict))

    def collect(self) -> None:
        """Packs everything that the plan says."""
        for share in (*self.plan.packages, *self.plan.others):
            self._submit(share)
        self._late = {share.owner: share for share in self.plan.links}
        for share in self.plan.packages:
            self._submit_late(share)
        with closing(self.workers.results()) as results:
            for number, result in results:
                share, order, job = self._jobs.pop(number)
                if isinstance(result, Scan):
                    self._scanned(share, order, result)
                else:
                    self._collected(share, order, job, result)
                self._pending[share.kind + share.owner] -= 1
                self._submit_late(share)

    def layers(self) -> tuple[Layer, ...]:
        """The layers in the snapshot's order."""
        return tuple(self._done[key] for key in sorted(self._done))

    def _submit(self, share: Share) -> None:
        for order, item in enumerate(share.large):
            self._queue(share, order, scan, item, item.file.size)
        for order, group in enumerate(share.groups(), len(share.large)):
            self._queue(share, order, collect, group, group.size)

    def _queue(self, share: Share, order: int, function: Any, job: Any, weight: int) -> None:
        self._pending[share.kind + share.owner] += 1
        self._jobs[self.workers.submit(function, job, weight)] = share, order, job

    def _submit_late(self, share: Share) -> None:
        """Submits a package's link-time files once the last of its own is read."""
        if share.kind == "package" and not self._pending[share.kind + share.owner]:
            late = self._late.pop(share.owner, None)
            if late:
                self._submit(late_share(late, self._unproved[share.owner], self._facts[share.owner]))

    def _scanned(self, share: Share, order: int, result: Scan) -> None:
        if share.kind == "package" and not result.proved:
            self._set_aside(share, result.item)
            return
        if result.unrelocated:
            self.unrelocated.append(result.item.file.path)
        if result.facts:
            self._facts[share.owner][result.item.file.path] = result.facts
        for number in range(len(result.cuts) - 1):
            piece = Piece(share.kind, share.owner, result, number)
            self._queue(share, order, collect_piece, piece, piece.size)

    def _collected(self, share: Share, order: int, job: Group | Piece, result: Collected) -> None:
        first = job.number if isinstance(job, Piece) else 0
        for number, layer in enumerate(result.layers, first):
            self._done[_ORDER[share.kind], share.owner, order, number] = layer
        self.added_size += sum(result.added_sizes)
        self.added_layers += sum(size > 0 for size in result.added_sizes)
        self.unrelocated += result.unrelocated
        if share.kind == "package":
            self._facts[share.owner].update(result.facts)
        for item in result.unproved:
            self._set_aside(share, item)
        self.progress.advance(job.size)

    def _set_aside(self, share: Share, item: Item) -> None:
        self._unproved[share.owner].append(item)
        if not (item.made_at_link or item.file.path.endswith(".pyc")):
            self.altered[share.owner].append(item.file.path)


def _outside(tree: Tree, prefix: str) -> tuple[str, ...]:
    """The symlinks whose absolute targets are not in the environment."""
    links = [file for file in tree.files if file.type == "symlink" and file.target.startswith("/")]
    return tuple(sorted(file.path for file in links if not f"{file.target}/".startswith(f"{prefix}/")))


def _entry(store: Store, name: str) -> tuple[Environment, str] | None:
    try:
        return catalog.read_environment(store, catalog.check_name(name))
    except NotInStore:
        return None


def _editables(prefix: Path, tree: Tree, wanted: Editables) -> tuple[Editable, ...]:
    """The editable installs whose sources are to be taken along; raises EditableInstalls if that is not said."""
    if wanted == "ignore":
        return ()
    found = editable.find(prefix, tree)
    if found and wanted == "refuse":
        raise EditableInstalls(tuple(f"{each.name} ({each.source})" for each in found))
    return found


def _context(
    store: Store,
    intent: Intent,
    prefix: Path,
    records: list[conda.Record],
    level: int,
    linked: tuple[Editable, ...],
    displaced: Displaced | None,
) -> Context:
    placeholders = {path: (name,) for path, name in displaced.placeholders.items()} if displaced else {}
    before = None if displaced else state.read_snapshot(prefix)
    for layer in before.layers if before else ():
        for relocation in layer.relocations:
            for path in relocation.paths:
                placeholders[path] = (relocation.placeholder,)
    known = {layer.diff_id: (layer.digest, layer.size) for layer in _stored_layers(store)}
    return Context(
        place=str(prefix),
        prefix=displaced.prefix if displaced else environment.embedded_prefix(prefix, records),
        store=store,
        intent=intent,
        level=level,
        known=known,
        placeholders=placeholders,
        included=tuple(Included(each.source, each.place, frozenset(each.links)) for each in linked),
    )


def _stored_layers(store: Store) -> Iterator[Layer]:
    """The layers of all current snapshots that the store still has in full size."""
    for name in catalog.environments(store):
        try:
            found, _ = catalog.read_environment(store, name)
            layers = catalog.read_snapshot(store, found.current).layers
        except SnapperError:
            continue
        yield from (layer for layer in layers if store.size(catalog.layer_key(layer.digest)) == layer.size)


def _snapshot(prefix: Path, records: list[conda.Record], plan: Plan, run: _Run) -> Snapshot:
    return Snapshot(
        format=FORMAT,
        platform=environment.platform_of(records),
        mode=prefix.stat().st_mode & 0o777,
        packages=tuple(record.package for record in records),
        pip=tuple(sorted(plan.pip, key=lambda package: (package.name.lower(), package.version))),
        kernels=kernels.carried(prefix),
        altered=tuple(
            Deviation(package, tuple(sorted(paths, key=path_bytes)))
            for package, paths in sorted(run.altered.items())
        ),
        missing=plan.missing,
        layers=run.layers(),
    )


def _move(snapshot_id: str, snapshot: Snapshot, origin: str, message: str, added_size: int) -> Move:
    return Move(
        snapshot=snapshot_id,
        action="pack" if origin else "import",
        time=identity.now(),
        user=identity.user(),
        host=identity.host(),
        prefix=origin,
        message=message,
        packages=len(snapshot.packages) + len(snapshot.pip),
        size=snapshot.size,
        stored_size=snapshot.stored_size,
        added_size=added_size,
    )


def _remember(prefix: Path, name: str, snapshot_id: str, tree: Tree, store: Store) -> None:
    """Keeps the state beside the environment; one that cannot be written to is left without."""
    data = store.read(catalog.snapshot_key(snapshot_id))
    try:
        state.write(prefix, state.State(FORMAT, name, snapshot_id, str(prefix)), data, [state.index_of(tree)])
    except OSError:
        return
