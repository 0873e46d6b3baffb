"""Compare a snapshot with an environment on disk, byte by byte. Nothing is written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from snapper.environment.conda import FileFacts
from snapper.environment.installed import InstalledEnvironment
from snapper.environment.record_text import with_facts, without_prefix_facts
from snapper.format import bytecode
from snapper.format.model import Layer, Snapshot
from snapper.process.pool import WorkerPool
from snapper.process.progress import Progress
from snapper.restoring.disk_files import DiskFiles
from snapper.restoring.layer_comparison import (
    ComparedLayer,
    CompareJob,
    FileDifference,
    StoredRecord,
    compare_layer,
)
from snapper.store import Store


def compare_environment(
    snapshot_id: str,
    snapshot: Snapshot,
    installed: InstalledEnvironment,
    workers: WorkerPool[Store],
    progress: Progress,
) -> tuple[FileDifference, ...]:
    """Return how the environment differs from the snapshot, by path; the workers read from the snapshot's store.

    Compiled modules may be valid for another modification time of their source, and there may be additional ones.
    Raise NotAnEnvironment, Corrupted, PermissionDenied, FileOperationFailed.
    """
    job = partial(
        CompareJob,
        str(installed.prefix),
        installed.prefixes_as_in(snapshot_id),
        installed.followed.targets,
        others=installed.others_named_in(snapshot_id),
    )
    compared = _compare_layers(snapshot, job, workers, progress)
    followed = installed.followed.targets
    differences = {difference.path: difference for _, part in compared for difference in part.differences}
    for difference in _compare_records(installed.prefix, followed, compared, snapshot.altered_paths):
        differences.setdefault(difference.path, difference)
    for path, target in (link for _, part in compared for link in part.hard_links.items()):
        if target in differences:
            differences.setdefault(path, FileDifference(path, differences[target].what))
    expected = {path for _, part in compared for path in part.paths}
    paths = [file.path for file in installed.tree.files if file.type != "directory"]
    sources = expected.union(paths)
    for path in paths:
        if path not in expected and bytecode.probable_source_of(path) not in sources:
            differences[path] = FileDifference(path, "extra")
    return tuple(differences[path] for path in sorted(differences))


def _compare_layers(
    snapshot: Snapshot,
    job: Callable[[Layer], CompareJob],
    workers: WorkerPool[Store],
    progress: Progress,
) -> list[tuple[Layer, ComparedLayer]]:
    layers = {
        workers.submit(
            compare_layer,
            job(layer),
            layer.diff_size,
            label=f"comparing {layer.owner}",
        ): layer
        for layer in snapshot.layers
    }
    compared: list[tuple[Layer, ComparedLayer]] = []
    with closing(workers.results()) as results:
        for number, part in results:
            compared.append((layers[number], part))
            progress.advance(layers[number].diff_size)
    return compared


def _compare_records(
    directory: Path,
    followed: Mapping[str, str],
    compared: Sequence[tuple[Layer, ComparedLayer]],
    altered: frozenset[str],
) -> Iterator[FileDifference]:
    """Yield the package records that do not match the files of their packages."""
    facts: dict[object, dict[str, FileFacts]] = defaultdict(dict)
    for layer, part in compared:
        unaltered = {path: fact for path, fact in part.facts.items() if path not in altered}
        facts[layer.owner_group].update(unaltered)
    with DiskFiles(str(directory), followed) as files:
        split = {
            (layer.owner_group, layer.begins.path)
            for layer, _ in compared
            if layer.begins and layer.relocations
        }
        for group, path in split:
            fact = files.facts(path) if path not in altered else None
            if fact is not None:
                facts[group][path] = fact
        for layer, part in compared:
            for record in part.records:
                difference = _compare_record(files, record, facts[layer.owner_group])
                if difference is not None:
                    yield difference


def _compare_record(
    files: DiskFiles, record: StoredRecord, facts: dict[str, FileFacts]
) -> FileDifference | None:
    on_disk = files.read(record.path)
    if on_disk is None:  # reported with the layer that it is in
        return None
    if on_disk in (record.data, with_facts(record.data, facts, sizes=record.mode == "sized-record")):
        return None
    same = without_prefix_facts(on_disk) == without_prefix_facts(record.data)
    return FileDifference(record.path, "checksums" if same else "contents")
