"""Pack: from an environment on disk to a snapshot in a store."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from snapper import environment, kernels
from snapper.environment import ForeignPrefix, conda, editable, index, state
from snapper.environment.editable import Editable
from snapper.environment.tree import Tree
from snapper.errors import EditableInstallsFound, FileOperationFailed
from snapper.format import manifest
from snapper.format.layer import DEFAULT_LEVEL
from snapper.format.manifest import EncodedSnapshot
from snapper.format.model import FORMAT, HistoryEntry, Ref, Snapshot
from snapper.packing import reuse
from snapper.packing.build import LayerBuild
from snapper.packing.collect import IncludedSource, PackContext
from snapper.packing.plan import make_plan
from snapper.packing.reuse import PackedLayer, PreviousPack
from snapper.process.identity import current_user, hostname, utc_now
from snapper.process.pool import WorkerPool
from snapper.process.progress import NO_PROGRESS, Progress
from snapper.repository.locks import Intent, pack_intent, report_running_prune
from snapper.repository.objects import write_pages
from snapper.repository.refs import advance_ref, environment_names, find_ref
from snapper.repository.snapshots import (
    has_encoded_snapshot,
    known_layers,
    require_layers,
    stored_layers,
    write_snapshot,
)
from snapper.repository.specs import check_environment_name
from snapper.store import Store

#: What to do about packages whose code is elsewhere: refuse, take it along, or leave the links as they are.
EditablePolicy = Literal["refuse", "include", "ignore"]


@dataclass(frozen=True)
class PackResult:
    """What packing did; sizes in bytes. The last five before the time are what the user should know of: what was not
    packed and why, what holds the prefix for good, symlinks to absolute places outside, which may not be there
    where the environment is restored; whether the store had no environment before, and the step that put another
    snapshot under this name, if this environment does not come from that.
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
    first: bool
    replaced: HistoryEntry | None
    seconds: float


@dataclass(frozen=True)
class _Made:
    """A snapshot whose layers are in the store, and its bytes; `parts` where that was not all known before, and the
    sizes, by their digests, of the layers that this added.

    `prefix` is the directory that the environment's files hold.
    """

    manifest: EncodedSnapshot
    snapshot: Snapshot
    prefix: str
    unrelocated: tuple[str, ...]
    parts: tuple[PackedLayer, ...] | None = None
    added: Mapping[str, int] = field(default_factory=dict)


def pack(
    store: Store,
    prefix: Path,
    name: str,
    *,
    message: str = "",
    level: int = DEFAULT_LEVEL,
    editables: EditablePolicy = "refuse",
    displaced: ForeignPrefix | None = None,
    full: bool = False,
    force: bool = False,
    jobs: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> PackResult:
    """Packs the environment at `prefix` as `name`: layers, then pages, then the snapshot, then the environment's entry.

    What the index vouches for is not read, but in a `full` pack; the snapshot is the same. An environment that is
    `displaced` is recorded as imported, and from nowhere. With `force`, the entry is moved though others
    have moved it meanwhile.
    Raises NotAnEnvironment, EditableInstallsFound, FileOperationFailed, PermissionDenied, ChangedWhilePacking,
    InsufficientSpace, StoreRefused,
    Moved and their kin; whatever it raises, the store's environments are as they were.
    """
    began = time.monotonic()
    prefix = Path(os.path.abspath(prefix))
    seen = find_ref(store, check_environment_name(name))
    first = seen is None and not any(environment_names(store))
    before = None if displaced else state.read(prefix)
    taken = 0 if displaced else _clock(prefix)
    place = _identity(prefix)
    tree = environment.scan(prefix)
    linked = _editables(prefix, tree, editables)
    last = None if displaced else state.read_last(prefix)
    kept = None
    if last and not (full or linked):
        kept = reuse.load_previous_pack(prefix, tree, last, stored_layers(store, last[1].layers))
    whole = editable.include(tree, linked)
    origin = "" if displaced else str(prefix)
    with pack_intent(store) as intent:
        if kept and _is_unchanged(store, prefix, kept):
            made = _Made(kept.manifest, kept.snapshot, kept.prefix, kept.index.moment.unrelocated)
        else:
            report_running_prune(store, progress)
            source = _Source(store, intent, prefix, whole, linked, displaced, last[1] if last else None, kept)
            made = _make(source, level, jobs, progress, name)
        unchanged = seen is not None and seen.ref.current == made.manifest.digest
        added_size = sum(made.added.values())
        if not unchanged or (made.parts is not None and not has_encoded_snapshot(store, made.manifest)):
            added_size += _write(store, intent, made)
        if not unchanged:
            advance_ref(store, name, _move(made, origin, message, added_size), seen, force=force)
    if not displaced and _identity(prefix) == place:  # else another one has been put there meanwhile
        _remember(prefix, name, made, tree, taken)
    return PackResult(
        environment=name,
        snapshot_id=made.manifest.digest,
        snapshot=made.snapshot,
        prefix=origin,
        store=store.url,
        unchanged=unchanged,
        added_layers=len(made.added),
        added_size=added_size,
        skipped=whole.skipped,
        unrelocated=made.unrelocated,
        outside=_outside(whole, made.prefix),
        first=first,
        replaced=None if unchanged or seen is None or _comes_from(before, seen.ref) else seen.ref.latest,
        seconds=time.monotonic() - began,
    )


@dataclass(frozen=True)
class _Source:
    """An environment as it was found, and where it is to be packed."""

    store: Store
    intent: Intent
    prefix: Path
    tree: Tree
    linked: tuple[Editable, ...]
    displaced: ForeignPrefix | None
    last: Snapshot | None
    kept: PreviousPack | None


def _make(source: _Source, level: int, jobs: int | None, progress: Progress, name: str) -> _Made:
    """Stores the layers that are not stored yet, and the snapshot."""
    records = conda.read_records(source.prefix)
    displaced, kept = source.displaced, source.kept
    known_by = displaced.prefix if displaced else environment.embedded_prefix(source.prefix, records)
    plan = make_plan(source.prefix, source.tree, records)
    building = LayerBuild(plan, kept if kept and kept.prefix == known_by else None)
    if building.has_work:
        with WorkerPool(_context(source, known_by, level), jobs, building.ready) as workers:
            progress.start(f"Packing {name}", building.size)
            building.work(workers, progress)
        progress.done()
    built = building.built()
    snapshot = Snapshot(
        format=FORMAT,
        platform=environment.platform_of(records),
        mode=source.prefix.stat().st_mode & 0o777,
        packages=tuple(record.package for record in records),
        pip=tuple(sorted(plan.pip, key=lambda package: (package.name.lower(), package.version))),
        kernels=kernels.shipped_kernels(source.prefix),
        altered=built.altered,
        missing=plan.missing,
        layers=tuple(part.layer for part in built.parts),
    )
    return _Made(
        manifest.encode(snapshot),
        snapshot,
        known_by,
        built.unrelocated,
        built.parts,
        built.added,
    )


def _write(store: Store, intent: Intent, made: _Made) -> int:
    """Writes pages and snapshot, whose layers must be there; how many bytes that added to the store."""
    if made.added:
        intent.check()  # before it could be put again here: while it was gone, what workers have written may have gone
    intent.declare()
    require_layers(store, [layer for layer in made.snapshot.layers if layer.digest not in made.added])
    added_size = write_pages(store, made.manifest.pages)
    intent.check()
    return added_size + write_snapshot(store, made.manifest)


def _is_unchanged(store: Store, prefix: Path, kept: PreviousPack) -> bool:
    """Whether the environment is the snapshot that it was, and the store has all of that."""
    return (
        kept.prefix == str(prefix) == os.path.realpath(prefix)
        and kept.snapshot.mode == prefix.stat().st_mode & 0o777
        and has_encoded_snapshot(store, kept.manifest)
        and kept.is_all()
    )


def _comes_from(before: state.EnvironmentState | None, there: Ref) -> bool:
    """Whether the environment is what the store's current snapshot of the name has become."""
    return before is not None and (before.environment, before.snapshot) == (there.name, there.current)


def _outside(tree: Tree, prefix: str) -> tuple[str, ...]:
    """The symlinks whose absolute targets are not in the environment."""
    links = [file for file in tree.files if file.type == "symlink" and file.target.startswith("/")]
    return tuple(sorted(file.path for file in links if not f"{file.target}/".startswith(f"{prefix}/")))


def _editables(prefix: Path, tree: Tree, wanted: EditablePolicy) -> tuple[Editable, ...]:
    """The editable installs whose sources are to be taken along; raises EditableInstallsFound if that is not said."""
    if wanted == "ignore":
        return ()
    found = editable.find(prefix, tree)
    if found and wanted == "refuse":
        raise EditableInstallsFound(tuple(f"{each.name} ({each.source})" for each in found))
    for each in found:
        if not os.path.isdir(each.source):
            advice = "Restore or mount the directory, or reinstall the package (without -e if the directory is gone)."
            raise FileOperationFailed(
                each.source, f"the directory does not exist, and {each.name} is installed from it", advice
            )
    return found


def _context(source: _Source, known_by: str, level: int) -> PackContext:
    displaced = source.displaced
    placeholders = {path: (name,) for path, name in displaced.placeholders.items()} if displaced else {}
    layers = source.last.layers if source.last else ()
    for layer in layers:
        for relocation in layer.relocations:
            for path in relocation.paths:
                placeholders[path] = (relocation.placeholder,)
    known = known_layers(source.store)
    known |= {layer.diff_id: (layer.digest, layer.size) for layer in layers}
    return PackContext(
        place=str(source.prefix),
        prefix=known_by,
        store=source.store,
        intent=source.intent,
        level=level,
        known=known,
        placeholders=placeholders,
        included=tuple(
            IncludedSource(each.source, each.place, frozenset(each.links)) for each in source.linked
        ),
    )


def _move(made: _Made, origin: str, message: str, added_size: int) -> HistoryEntry:
    snapshot = made.snapshot
    return HistoryEntry(
        snapshot=made.manifest.digest,
        action="pack" if origin else "import",
        time=utc_now(),
        user=current_user(),
        host=hostname(),
        prefix=origin,
        message=message,
        packages=len(snapshot.packages) + len(snapshot.pip),
        size=snapshot.size,
        stored_size=snapshot.stored_size,
        added_size=added_size,
    )


def _identity(prefix: Path) -> tuple[int, int] | None:
    """What tells the directory from another one of its name."""
    try:
        status = prefix.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _clock(prefix: Path) -> int:
    """The time by the environment's file system; 0 where nothing can be kept in the environment anyway."""
    try:
        return state.now(prefix) if conda.is_environment(prefix) else 0
    except OSError:
        return 0


def _remember(prefix: Path, name: str, made: _Made, tree: Tree, taken: int) -> None:
    """Keeps the state beside the environment; one that cannot be written to is left without."""
    found = state.EnvironmentState(FORMAT, name, made.manifest.digest, str(prefix))
    try:
        if made.parts is not None:
            moment = index.IndexHeader(made.manifest.digest, made.prefix, taken, made.unrelocated)
            state.write(prefix, found, made.manifest, moment, _blocks(made.parts, tree))
        elif state.read(prefix) != found:
            state.rename(prefix, found)
    except OSError:
        return


def _blocks(parts: tuple[PackedLayer, ...], tree: Tree) -> list[bytes]:
    """The index's entries of what is in the layers; files that were taken along from elsewhere are in no layer."""
    seen = {file.path: file for file in tree.files}
    whole = all(path in seen for part in parts for path in part.paths)
    return [
        index.encode_block(
            number if whole else index.NO_LAYER,
            [index.index_entry(seen[path]) for path in part.paths if path in seen],
        )
        for number, part in enumerate(parts)
    ]
