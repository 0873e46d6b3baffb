"""Build the snapshot of an environment: write the layers that the store does not have, and describe it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from snapper.commands.packed_snapshot import PackedSnapshot
from snapper.environment.conda import META
from snapper.environment.former_prefixes import OtherEnvironments, by_environment
from snapper.environment.installed import InstalledEnvironment
from snapper.environment.outside_paths import Surroundings
from snapper.environment.platforms import platform_of_records
from snapper.environment.prefixes import spellings
from snapper.environment.variables import environment_variables
from snapper.format import manifest
from snapper.format.bytecode import probable_source_of
from snapper.format.constraints import directory_mode
from snapper.format.model import FORMAT, Snapshot, StoredLayer
from snapper.kernels.kernelspecs import shipped_kernels
from snapper.packing.build import LayerBuild
from snapper.packing.context import PackContext
from snapper.packing.credentials import find_credentials
from snapper.packing.included import included_sources
from snapper.packing.libraries import find_outside_libraries
from snapper.packing.plan import PackPlan, make_plan
from snapper.packing.reuse import PreviousPack
from snapper.packing.source import PackSource
from snapper.packing.splitting import EarlierLayers
from snapper.process.pool import WorkerPool
from snapper.process.progress import Progress
from snapper.repository.checked_layers import CheckedLayers, content_key, written_keys
from snapper.repository.known_layers import known_layers
from snapper.repository.locks import Intent
from snapper.store import Store

#: How many files with credentials are named before they are written to the store; all are named at the end.
_MOST_NAMED = 5


def make_context(
    store: Store, intent: Intent, source: PackSource, name: str, level: int, checked: CheckedLayers
) -> PackContext:
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
        checked=checked.keys,
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


def _has_same_prefixes(previous: PreviousPack, context: PackContext, prefix: Path) -> bool:
    """Return whether the prefix is the same, and files that have not changed contain no others that are now known."""
    known = {*previous.prefixes, *spellings(prefix)}
    return previous.prefix == context.prefix and known.issuperset(context.prefixes)


def build_snapshot(
    source: PackSource,
    previous: PreviousPack | None,
    context: PackContext,
    checked: CheckedLayers,
    name: str,
    jobs: int | None,
    progress: Progress,
) -> PackedSnapshot:
    """Write the layers that the store does not have, and describe the snapshot."""
    records = source.installed.records
    plan = make_plan(source.directory, source.tree, records)
    unchanged = previous.vouched if previous else frozenset[str]()
    credentials = find_credentials(source.directory, records, plan, unchanged, context.place_of)
    _announce(credentials, name, progress)
    context = replace(context, others=_files_naming_others(source, plan))
    reusable = previous if previous and _has_same_prefixes(previous, context, source.prefix) else None
    build = LayerBuild(plan, reusable, _earlier_layers(source.installed))
    if build.has_work:
        with WorkerPool(context, jobs, build.first_arguments) as workers:
            progress.start(f"Packing {name}", build.size)
            build.run(workers, progress)
        progress.done()
    built = build.result()
    contents = (content_key(layer.digest, layer.diff_id) for layer in built.checked)
    identities = {digest: layer.identity for digest, layer in built.added.items()}
    written = written_keys(context.store, identities)
    checked.remember([*contents, *written])
    snapshot = Snapshot(
        format=FORMAT,
        platform=platform_of_records(records),
        mode=directory_mode("", source.directory.status.st_mode),
        packages=tuple(record.package for record in records),
        pip=tuple(sorted(plan.pip, key=lambda package: (package.name.lower(), package.version))),
        kernels=shipped_kernels(source.directory),
        altered=built.altered,
        missing=plan.missing,
        layers=tuple(packed.layer for packed in built.layers),
    )
    encoded = manifest.encode(snapshot)
    others, variables = by_environment(built.prefixes.others), environment_variables(source.directory)
    around = Surroundings(source.directory, (*context.prefixes, *(other.prefix for other in others)))
    return PackedSnapshot(
        encoded,
        snapshot,
        source.remaining_prefixes(built.prefixes.own),
        built.unrelocated,
        built.layers,
        {digest: layer.size for digest, layer in built.added.items()},
        credentials,
        source.found_prefixes(built.prefixes.own),
        () if source.foreign_prefix else find_outside_libraries(around, variables, source.tree, plan),
        others,
    )


def _files_naming_others(source: PackSource, plan: PackPlan) -> dict[str, tuple[str, ...]]:
    """Return the user's files that mean other environments by former prefixes, if they contain these.

    conda's history names prefixes at which the environment was.
    """
    others = OtherEnvironments() if source.foreign_prefix else source.installed.other_environments
    if not others.since:
        return {}
    files = {
        item.file.path: item.file
        for owner in plan.others
        if owner.kind == "files"
        for item in owner.files
        if not item.file.path.startswith(f"{META}/")
    }
    named: dict[str, tuple[str, ...]] = {}
    for path, file in files.items():
        module = probable_source_of(path)  # what Python has compiled from it means the same
        decisive = files.get(module) if module and module in source.tree.by_path else file
        named[path] = others.named_by(decisive) if decisive else ()
    return {path: prefixes for path, prefixes in named.items() if prefixes}


def _announce(credentials: tuple[str, ...], name: str, progress: Progress) -> None:
    """Tell the user, before anything is written to the store, that files with credentials will be."""
    if credentials:
        named = ", ".join(credentials[:_MOST_NAMED]) + (", …" if len(credentials) > _MOST_NAMED else "")
        count = "1 file" if len(credentials) == 1 else f"{len(credentials)} files"
        progress.note(
            f"{name}: {count} with credentials will be readable for everyone who can read the store: {named}"
        )
