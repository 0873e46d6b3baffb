"""Pack an environment on disk as a snapshot in a store. Errors leave the environments in the store unchanged."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from snapper.commands.dependency_report import report_dependencies
from snapper.commands.pack_result import PackResult
from snapper.commands.packed_snapshot import PackedSnapshot, is_unchanged, load_previous
from snapper.environment import index, state
from snapper.environment.dependency import Dependency
from snapper.environment.installed import InstalledEnvironment
from snapper.environment.outside_paths import Surroundings
from snapper.environment.own_locations import remember_location
from snapper.environment.prefixes import ForeignPrefix
from snapper.environment.state import EnvironmentState
from snapper.environment.variables import environment_variables
from snapper.errors import EnvironmentExists, UsageError
from snapper.format.compression import DEFAULT_LEVEL
from snapper.format.model import FORMAT, HistoryEntry
from snapper.fs.pinned import PinnedDirectory
from snapper.kernels import updates
from snapper.kernels.carried import CarriedKernel, carry_kernels
from snapper.packing.index_blocks import index_blocks
from snapper.packing.source import EditablePolicy, PackSource, UserSitePolicy, read_source
from snapper.process.identity import current_user, hostname, utc_now
from snapper.process.progress import NO_PROGRESS, Progress
from snapper.repository.checked_layers import CheckedLayers
from snapper.repository.locks import Intent, pack_intent, report_running_prune
from snapper.repository.objects import write_pages
from snapper.repository.refs import VersionedRef, add_to_history, advance_ref, environment_names, find_ref
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


@dataclass(frozen=True)
class PackOptions:
    """How to pack an environment.

    Files that the environment's index vouches for are not read, unless the pack is `full`; the snapshot is the same.
    An environment with a `foreign_prefix` is recorded as imported, and nothing is written into its directory. With
    `force`, the snapshot is published even if someone else has published one in the meantime. An `only_new` one is
    not published if the store has the environment with another snapshot. One that is `kept_in_history` does not become
    the current snapshot if there is another.
    """

    message: str = ""
    level: int = DEFAULT_LEVEL
    editables: EditablePolicy = "refuse"
    user_site: UserSitePolicy = "report"
    foreign_prefix: ForeignPrefix | None = None
    full: bool = False
    force: bool = False
    only_new: bool = False
    kept_in_history: bool = False


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
    is_known = not options.foreign_prefix and updates.is_known(installed.directory, name)
    source, outside = _read_with_kernels(installed, options)
    logger.info("packing %s: %d files in %s", name, len(source.tree.files), source.prefix)
    checked = CheckedLayers()
    previous = None if options.full else load_previous(store, source, checked)
    with pack_intent(store) as intent:
        if previous and is_unchanged(store, source, previous):
            packed = PackedSnapshot.from_previous(previous, source)
        else:
            # Slow to import, and not needed if nothing has changed.
            from snapper.commands.snapshot_build import build_snapshot, make_context  # noqa: PLC0415

            report_running_prune(store, progress)
            context = make_context(store, intent, source, name, options.level, checked)
            packed = build_snapshot(source, previous, context, checked, name, jobs, progress)
        publication = _publish(store, intent, source, packed, published, name, options)
    replaced = _replaced_entry(source, published) if publication.is_new else None
    carried = tuple(kernel for kernel in outside if kernel.is_carried)
    _remember(source, name, packed, carried)
    kernel_updates = updates.update(source.directory, name) if is_known else updates.KernelUpdates()
    logger.info("packed %s: %s, %d layers added", name, packed.encoded.digest[:12], len(packed.added))
    return PackResult(
        environment=name,
        snapshot_id=packed.encoded.digest,
        snapshot=packed.snapshot,
        prefix=source.origin,
        owner=source.owner,
        store=store.url,
        unchanged=not publication.is_new,
        added_layers=len(packed.added),
        added_size=publication.added_size,
        skipped=source.tree.skipped,
        unrelocated=packed.unrelocated.paths,
        own_unrelocated=packed.unrelocated.own,
        harmless_unrelocated=packed.unrelocated.harmless,
        outside=source.links_outside(packed.prefixes),
        found_prefixes=packed.found_prefixes,
        dependencies=_find_dependencies(source, outside, packed),
        kernels=carried,
        kernel_updates=kernel_updates,
        clamped=source.clamped_times,
        included=source.included,
        credentials=packed.credentials,
        first=is_first,
        replaced=replaced,
        newer=publication.newer,
        without_effect=_without_effect(source, options, publication),
        seconds=time.monotonic() - started,
    )


class _Publication(NamedTuple):
    """Whether a history entry `is_new`, how many bytes were added, and the current snapshot if that is `newer`."""

    is_new: bool
    added_size: int
    newer: str


def _publish(
    store: Store,
    intent: Intent,
    source: PackSource,
    packed: PackedSnapshot,
    published: VersionedRef | None,
    name: str,
    options: PackOptions,
) -> _Publication:
    """Make the snapshot current, unless it is already, or has been before and the environment has not changed since.

    Raise EnvironmentExists, ConcurrentUpdate, and what stores do.
    """
    is_current = published is not None and published.ref.current == packed.encoded.digest
    newer = "" if options.force else _newer_snapshot(source, published, packed)
    if published is not None and options.only_new and not is_current:
        raise EnvironmentExists(name, store.url)
    is_new = not (is_current or newer)
    added_size = sum(packed.added.values()) + _write_snapshot(store, intent, packed, is_published=not is_new)
    if is_new:
        entry = _history_entry(source, packed, options.message, added_size)
        if options.kept_in_history and published is not None:
            add_to_history(store, name, entry)
        else:
            advance_ref(store, name, entry, published, force=options.force)
        require_snapshot(store, packed.encoded, packed.snapshot.layers)
    return _Publication(is_new, added_size, newer)


def _read_with_kernels(
    installed: InstalledEnvironment, options: PackOptions
) -> tuple[PackSource, tuple[CarriedKernel, ...]]:
    """Read the environment, with the kernelspecs that start it from outside; return these, too.

    They are copied into it once it is known that it can be packed. Raise what `read_source` raises.
    """
    source = read_source(installed, options.editables, options.foreign_prefix, options.user_site)
    if options.foreign_prefix:
        return source, ()
    kernels, has_changed = carry_kernels(installed.directory)
    if has_changed:
        again = InstalledEnvironment(installed.directory)
        source = read_source(again, options.editables, None, options.user_site)
    return source, kernels


def _check_contains_no_used_directory(prefix: Path, store: Store) -> None:
    used = used_directory_in(prefix, store)
    if used:
        reason = f"the environment {prefix} contains {used}, which would be published with it"
        raise UsageError(reason, "Pack environments that are in directories of their own.")


def _without_effect(source: PackSource, options: PackOptions, publication: _Publication) -> tuple[str, ...]:
    """Say which options had no effect, and why."""
    if options.message and not publication.is_new:
        return (*source.nothing_included, "the message was not recorded: the snapshot is published already")
    return source.nothing_included


def _write_snapshot(store: Store, intent: Intent, packed: PackedSnapshot, *, is_published: bool) -> int:
    """Write pages and snapshot, whose layers must be in the store; return how many bytes that added.

    Nothing is written for a published snapshot if it is complete, which has been checked if `layers` is None.
    """
    if is_published and (packed.layers is None or has_encoded_snapshot(store, packed.encoded)):
        return 0
    if packed.added:
        intent.check()  # before it is declared again: if it was gone for a while, a prune may have removed new layers
    intent.declare()
    require_layers(store, [layer for layer in packed.snapshot.layers if layer.digest not in packed.added])
    added_size = write_pages(store, packed.encoded.pages)
    intent.check()
    return added_size + write_snapshot(store, packed.encoded)


def _find_dependencies(
    source: PackSource, outside: Iterable[CarriedKernel], packed: PackedSnapshot
) -> tuple[Dependency, ...]:
    """Return what the environment uses that is outside of it; for an imported one, this cannot be known.

    `outside` are the kernelspecs that start it; some could not be copied into it.
    """
    if source.foreign_prefix:
        return ()
    found = report_dependencies(
        Surroundings(source.directory, (*packed.prefixes, *(other.prefix for other in packed.others))),
        environment_variables(source.directory),
        packed.libraries,
        (
            *(dependency for kernel in outside for dependency in kernel.dependencies()),
            *(Dependency("environment", other.prefix, other.files) for other in packed.others),
        ),
        source.installed.followed,
    )
    return tuple(dependency for dependency in found if dependency.path not in source.included)


# --- publishing and remembering ---------------------------------------------------------------------------


def _history_entry(source: PackSource, packed: PackedSnapshot, message: str, added_size: int) -> HistoryEntry:
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


def _newer_snapshot(source: PackSource, published: VersionedRef | None, packed: PackedSnapshot) -> str:
    """Return the current snapshot if the environment is an earlier one of the same name, unchanged; else nothing.

    Publishing that again would take back what others have published since.
    """
    known, digest = source.state, packed.encoded.digest
    if (
        published is None
        or known is None
        or (known.environment, known.snapshot) != (published.ref.name, digest)
    ):
        return ""
    ref = published.ref
    is_earlier = digest != ref.current and any(entry.snapshot == digest for entry in ref.history)
    return ref.current if is_earlier else ""


def _replaced_entry(source: PackSource, published: VersionedRef | None) -> HistoryEntry | None:
    """Return the entry that was current, None if the environment was last packed as or restored from that."""
    if published is None:
        return None
    known, ref = source.state, published.ref
    is_its_origin = known is not None and (known.environment, known.snapshot) == (ref.name, ref.current)
    return None if is_its_origin else ref.latest


def _remember(
    source: PackSource, name: str, packed: PackedSnapshot, carried: Iterable[CarriedKernel]
) -> None:
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
                packed.others,
            )
            blocks = index_blocks(packed.layers, source)
            state.write(environment, current, packed.encoded, header, blocks)
        elif source.state != current:
            state.write_state(environment, current)
