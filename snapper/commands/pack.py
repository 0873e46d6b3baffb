"""Pack an environment on disk as a snapshot in a store. Errors leave the environments in the store unchanged."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from snapper import kernels
from snapper.commands.pack_result import PackResult
from snapper.environment import index, state
from snapper.environment.dependencies import find_dependencies, needed_libraries, unproved_links
from snapper.environment.dependency import Dependency, OutsideLibrary
from snapper.environment.embedded import ForeignPrefix
from snapper.environment.installed import InstalledEnvironment
from snapper.environment.libraries import ProgramFiles
from snapper.environment.outside_paths import Surroundings
from snapper.environment.own_locations import remember_location
from snapper.environment.platforms import platform_of_records
from snapper.environment.state import EnvironmentState
from snapper.environment.variables import environment_variables
from snapper.errors import UsageError
from snapper.format import manifest
from snapper.format.compression import DEFAULT_LEVEL
from snapper.format.constraints import directory_mode
from snapper.format.manifest import EncodedSnapshot
from snapper.format.model import FORMAT, HistoryEntry, Snapshot, StoredLayer
from snapper.format.owners import OwnedPaths
from snapper.fs.pinned import PinnedDirectory
from snapper.kernels.carried import CarriedKernel, carry_kernels
from snapper.packing.build import LayerBuild
from snapper.packing.context import PackContext
from snapper.packing.credentials import find_credentials
from snapper.packing.included import included_sources
from snapper.packing.index_blocks import index_blocks
from snapper.packing.plan import make_plan, own_programs
from snapper.packing.reuse import PackedLayer, PreviousPack, load_previous_pack
from snapper.packing.source import EditablePolicy, PackSource, UserSitePolicy, read_source
from snapper.packing.splitting import EarlierLayers
from snapper.process.identity import current_user, hostname, utc_now
from snapper.process.pool import WorkerPool
from snapper.process.progress import NO_PROGRESS, Progress
from snapper.repository.checked_layers import (
    content_key,
    intact_layers,
    read_checked_layers,
    remember_checked_layers,
    unattested_keys,
)
from snapper.repository.known_layers import known_layers
from snapper.repository.locks import Intent, pack_intent, report_running_prune
from snapper.repository.objects import write_pages
from snapper.repository.refs import VersionedRef, advance_ref, environment_names, find_ref
from snapper.repository.snapshots import (
    has_encoded_snapshot,
    require_layers,
    require_snapshot,
    write_snapshot,
)
from snapper.repository.specs import check_environment_name
from snapper.store import Store
from snapper.store.used_directories import used_directory_in

logger = logging.getLogger(__name__)

#: How many files with credentials are named before they are written to the store; all are named at the end.
_MOST_NAMED = 5


@dataclass(frozen=True)
class PackOptions:
    """How to pack an environment.

    Files that the environment's index vouches for are not read, unless the pack is `full`; the snapshot is the same.
    An environment with a `foreign_prefix` is recorded as imported, and nothing is written into its directory. With
    `force`, the snapshot is published even if someone else has published one in the meantime.
    """

    message: str = ""
    level: int = DEFAULT_LEVEL
    editables: EditablePolicy = "refuse"
    user_site: UserSitePolicy = "report"
    foreign_prefix: ForeignPrefix | None = None
    full: bool = False
    force: bool = False


_DEFAULT_OPTIONS = PackOptions()


def pack(
    store: Store,
    prefix: Path | PinnedDirectory,
    name: str,
    options: PackOptions = _DEFAULT_OPTIONS,
    *,
    jobs: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> PackResult:
    """Pack the environment at an absolute prefix as `name`: write its layers, pages, snapshot, and ref, in this order.

    Raise NotAnEnvironment, EditableInstallsFound, ChangedWhilePacking, ConcurrentUpdate, UsageError if the environment
    contains the home directory or what snapper uses, and what files and stores do.
    """
    started = time.monotonic()
    published = find_ref(store, check_environment_name(name))
    is_first = published is None and not any(environment_names(store))
    installed = InstalledEnvironment(prefix)
    _check_contains_no_used_directory(installed.prefix, store)
    outside = () if options.foreign_prefix else carry_kernels(installed.directory)
    source = read_source(installed, options.editables, options.foreign_prefix, options.user_site)
    logger.info("packing %s: %d files in %s", name, len(source.tree.files), source.prefix)
    previous = None if options.full else _load_previous_pack(store, source)
    with pack_intent(store) as intent:
        if previous and _is_unchanged(store, source, previous):
            packed = _Packed.from_previous(previous)
        else:
            report_running_prune(store, progress)
            context = _make_context(store, intent, source, name, options.level)
            packed = _build_snapshot(source, previous, context, name, jobs, progress)
        is_current = published is not None and published.ref.current == packed.encoded.digest
        added_size = sum(packed.added.values()) + _write_snapshot(store, intent, packed, is_current)
        if not is_current:
            entry = _history_entry(source, packed, options.message, added_size)
            advance_ref(store, name, entry, published, force=options.force)
            require_snapshot(store, packed.encoded, packed.snapshot.layers)
    replaced = None if is_current else _replaced_entry(source, published)
    carried = tuple(kernel for kernel in outside if kernel.is_carried)
    _remember(source, name, packed, carried)
    logger.info("packed %s: %s, %d layers added", name, packed.encoded.digest[:12], len(packed.added))
    return PackResult(
        environment=name,
        snapshot_id=packed.encoded.digest,
        snapshot=packed.snapshot,
        prefix=source.origin,
        owner=source.owner,
        store=store.url,
        unchanged=is_current,
        added_layers=len(packed.added),
        added_size=added_size,
        skipped=source.tree.skipped,
        unrelocated=packed.unrelocated.paths,
        own_unrelocated=packed.unrelocated.own,
        harmless_unrelocated=packed.unrelocated.harmless,
        outside=source.links_outside(packed.prefixes),
        found_prefixes=packed.found_prefixes,
        dependencies=_find_dependencies(source, outside, packed),
        kernels=carried,
        clamped=source.clamped_times,
        included=source.included,
        credentials=packed.credentials,
        first=is_first,
        replaced=replaced,
        seconds=time.monotonic() - started,
    )


def _check_contains_no_used_directory(prefix: Path, store: Store) -> None:
    used = used_directory_in(prefix, store)
    if used:
        reason = f"the environment {prefix} contains {used}, which would be published with it"
        raise UsageError(reason, "Pack environments that are in directories of their own.")


@dataclass(frozen=True)
class _Packed:
    """A snapshot whose layers are in the store.

    `prefixes` are those in the environment's files, most of which contain the first; `found_prefixes` are those to
    report. `added` maps the digests of layers that were added to the store to their sizes. `layers` is None if the
    environment is unchanged, so that its index remains valid. `libraries` are those outside of the environment that
    files in it are linked with.
    """

    encoded: EncodedSnapshot
    snapshot: Snapshot
    prefixes: tuple[str, ...]
    unrelocated: OwnedPaths
    layers: tuple[PackedLayer, ...] | None = None
    added: Mapping[str, int] = field(default_factory=dict)
    credentials: tuple[str, ...] = ()
    found_prefixes: tuple[str, ...] = ()
    libraries: tuple[OutsideLibrary, ...] = ()

    @classmethod
    def from_previous(cls, previous: PreviousPack) -> _Packed:
        libraries = previous.index.header.libraries
        return cls(
            previous.encoded, previous.snapshot, previous.prefixes, previous.unrelocated, libraries=libraries
        )


# --- deciding what is unchanged ---------------------------------------------------------------------------


def _load_previous_pack(store: Store, source: PackSource) -> PreviousPack | None:
    """Return the previous pack, whose layers can be reused; None if there is none, or if it is not all."""
    if source.previous is None or source.has_included:
        return None
    layers = source.previous.snapshot.layers
    return load_previous_pack(source.installed, intact_layers(store, layers, read_checked_layers()))


def _is_unchanged(store: Store, source: PackSource, previous: PreviousPack) -> bool:
    """Return whether the environment is still its previous snapshot, and the store has all of that."""
    return (
        previous.prefix == str(source.prefix) == os.path.realpath(source.prefix)
        and directory_mode("", previous.snapshot.mode) == directory_mode("", source.directory.status.st_mode)
        and has_encoded_snapshot(store, previous.encoded)
        and previous.is_unchanged()
    )


# --- writing layers and the snapshot ----------------------------------------------------------------------


def _make_context(store: Store, intent: Intent, source: PackSource, name: str, level: int) -> PackContext:
    """Return what every worker has to know."""
    layers = source.previous.snapshot.layers if source.previous else ()
    known = known_layers(store, name)
    known |= {layer.diff_id: StoredLayer(layer.digest, layer.size) for layer in layers}
    return PackContext(
        directory=str(source.directory),
        prefix=source.prefix_in_files,
        store=store,
        intent=intent,
        level=level,
        known=known,
        checked=read_checked_layers(),
        placeholders=source.placeholders,
        kept=source.kept_prefixes,
        included=included_sources(source.prefix_in_files, source.editables, source.sites),
        other_prefixes=source.prefixes_in_files[1:],
        followed=source.followed,
    )


def _earlier_layers(installed: InstalledEnvironment) -> EarlierLayers:
    """Return the layers of the environment's last snapshot, if its index says what is in them."""
    previous, index = installed.previous, installed.index
    if previous is None or index is None or index.header.snapshot != previous.encoded.digest:
        return EarlierLayers()
    return EarlierLayers(previous.snapshot.layers, index.rows)


def _build_snapshot(
    source: PackSource,
    previous: PreviousPack | None,
    context: PackContext,
    name: str,
    jobs: int | None,
    progress: Progress,
) -> _Packed:
    """Write the layers that the store does not have, and describe the snapshot."""
    records = source.installed.records
    plan = make_plan(source.directory, source.tree, records)
    unchanged = previous.vouched if previous else frozenset[str]()
    credentials = find_credentials(source.directory, records, plan, unchanged, context.place_of)
    _announce(credentials, name, progress)
    reusable = previous if previous and previous.prefix == context.prefix else None
    build = LayerBuild(plan, reusable, _earlier_layers(source.installed))
    if build.has_work:
        with WorkerPool(context, jobs, build.first_arguments) as workers:
            progress.start(f"Packing {name}", build.size)
            build.run(workers, progress)
        progress.done()
    built = build.result()
    contents = (content_key(layer.digest, layer.diff_id) for layer in built.checked)
    written = unattested_keys(context.store, built.added)
    remember_checked_layers([*contents, *written], context.checked)
    snapshot = Snapshot(
        format=FORMAT,
        platform=platform_of_records(records),
        mode=directory_mode("", source.directory.status.st_mode),
        packages=tuple(record.package for record in records),
        pip=tuple(sorted(plan.pip, key=lambda package: (package.name.lower(), package.version))),
        kernels=kernels.shipped_kernels(source.directory),
        altered=built.altered,
        missing=plan.missing,
        layers=tuple(packed.layer for packed in built.layers),
    )
    encoded = manifest.encode(snapshot)
    search_path = environment_variables(source.directory).get("LD_LIBRARY_PATH", "").split(":")
    surroundings = Surroundings(source.directory, context.prefixes)
    files = ProgramFiles(surroundings, source.tree.by_path, search_path)
    return _Packed(
        encoded,
        snapshot,
        tuple(dict.fromkeys((*context.prefixes, *(reusable.prefixes if reusable else ())))),
        built.unrelocated,
        built.layers,
        built.added,
        credentials,
        source.found_prefixes,
        () if source.foreign_prefix else files.outside(own_programs(plan)),
    )


def _announce(credentials: tuple[str, ...], name: str, progress: Progress) -> None:
    """Tell the user, before anything is written to the store, that files with credentials will be."""
    if credentials:
        named = ", ".join(credentials[:_MOST_NAMED]) + (", …" if len(credentials) > _MOST_NAMED else "")
        count = "1 file" if len(credentials) == 1 else f"{len(credentials)} files"
        progress.note(
            f"{name}: {count} with credentials will be readable for everyone who can read the store: {named}"
        )


def _write_snapshot(store: Store, intent: Intent, packed: _Packed, is_current: bool) -> int:
    """Write pages and snapshot, whose layers must be in the store; return how many bytes that added.

    Nothing is written for the current snapshot if it is complete, which has been checked if `layers` is None.
    """
    if is_current and (packed.layers is None or has_encoded_snapshot(store, packed.encoded)):
        return 0
    if packed.added:
        intent.check()  # before it is declared again: if it was gone for a while, a prune may have removed new layers
    intent.declare()
    require_layers(store, [layer for layer in packed.snapshot.layers if layer.digest not in packed.added])
    added_size = write_pages(store, packed.encoded.pages)
    intent.check()
    return added_size + write_snapshot(store, packed.encoded)


def _find_dependencies(
    source: PackSource, outside: Iterable[CarriedKernel], packed: _Packed
) -> tuple[Dependency, ...]:
    """Return what the environment uses that is outside of it; for an imported one, this cannot be known.

    `outside` are the kernelspecs that start it; some could not be copied into it.
    """
    if source.foreign_prefix:
        return ()
    around = Surroundings(source.directory, packed.prefixes)
    variables = environment_variables(source.directory)
    found = find_dependencies(around, variables, kernels.kernel_commands(source.directory))
    withheld = (dependency for kernel in outside for dependency in kernel.dependencies())
    found = tuple(dependency for dependency in found if dependency.path not in source.included)
    return (
        *found,
        *needed_libraries(around, packed.libraries),
        *withheld,
        *unproved_links(source.installed.followed),
    )


# --- publishing and remembering ---------------------------------------------------------------------------


def _history_entry(source: PackSource, packed: _Packed, message: str, added_size: int) -> HistoryEntry:
    snapshot = packed.snapshot
    return HistoryEntry(
        snapshot=packed.encoded.digest,
        action="import" if source.foreign_prefix else "pack",
        time=utc_now(),
        user=current_user(),
        host=hostname(),
        prefix=source.origin,
        message=message,
        packages=len(snapshot.packages) + len(snapshot.pip),
        size=snapshot.size,
        stored_size=snapshot.stored_size,
        added_size=added_size,
    )


def _replaced_entry(source: PackSource, published: VersionedRef | None) -> HistoryEntry | None:
    """Return the entry that was current, None if the environment was last packed as or restored from that."""
    if published is None:
        return None
    known, ref = source.state, published.ref
    is_its_origin = known is not None and (known.environment, known.snapshot) == (ref.name, ref.current)
    return None if is_its_origin else ref.latest


def _remember(source: PackSource, name: str, packed: _Packed, carried: Iterable[CarriedKernel]) -> None:
    """Write state and index into the environment, and remember where it is.

    Neither is done for one with a foreign prefix. Nothing is written into an environment that belongs to another user,
    or that cannot be written to.
    """
    if source.foreign_prefix:
        return
    remember_location(name, source.prefix, [kernel.name for kernel in carried])
    current = EnvironmentState(FORMAT, name, packed.encoded.digest, str(source.prefix))
    with suppress(OSError), state.open_environment(source.directory) as environment:
        if packed.layers is not None:
            header = index.IndexHeader(
                packed.encoded.digest,
                packed.prefixes[0],
                source.read_at,
                packed.unrelocated.with_harmless,
                packed.libraries,
                packed.prefixes,
            )
            blocks = index_blocks(packed.layers, source)
            state.write(environment, current, packed.encoded, header, blocks)
        elif source.state != current:
            state.write_state(environment, current)
