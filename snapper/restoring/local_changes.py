"""Find out by their contents which files of an environment have changed, where its index does not tell.

Programs write files again as they were, backups are put back, owners, times, and access lists are set: then the index
only tells that a file may have changed. Its contents are compared with those in the layers of the snapshot, relocated
as a restore would write them. What is identical has not changed, and the index is written again, so that this is done
once.
"""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from snapper.environment import clock, state
from snapper.environment.drift import Drift, LocalChanges
from snapper.environment.index import (
    FOLLOWED,
    NO_LAYER,
    Index,
    confirmed_row,
    layer_number,
)
from snapper.environment.installed import InstalledEnvironment
from snapper.errors import SnapperError
from snapper.format.model import Layer
from snapper.fs.pinned import PinnedDirectory
from snapper.restoring.disk_files import DiskFiles
from snapper.store import Store

if TYPE_CHECKING:
    from snapper.restoring.layer_comparison import ComparedLayer

#: How much of layers is read where nobody waits for the answer, in bytes before compression.
FEW_BYTES = 256 << 20

_UNKNOWN = "the snapshot that they belong to is not known"


@dataclass
class _Comparison:
    """Paths whose contents differ from the snapshot, and those that could not be compared, with the last reason.

    `separate` are those of which the snapshot has hard links to other files.
    """

    different: set[str] = field(default_factory=set)
    unread: set[str] = field(default_factory=set)
    separate: set[str] = field(default_factory=set)
    problem: str = ""


def find_local_changes(
    store: Store | None, environment: InstalledEnvironment, most: int | None = None
) -> LocalChanges | None:
    """Return what differs from the environment's snapshot, None if that is unknown.

    With `most`, nothing is compared if more bytes of layers would have to be read. Raise what `environment.tree` does.
    """
    drift = environment.drift()
    index = environment.recorded_index
    if drift is None or index is None:
        return None
    uncertain = {*drift.modified, *drift.touched}
    if not uncertain:
        return LocalChanges(drift, environment.problem)
    since = now_or_none(environment.directory)
    statuses = _statuses(environment.directory, uncertain)
    comparison = _compare(store, environment, index, uncertain, most)
    same = uncertain - comparison.different - comparison.unread
    settled = Drift(
        drift.added,
        drift.removed,
        tuple(sorted(comparison.different.union(drift.changed))),
        tuple(sorted(comparison.unread)),
        (),
        tuple(path for path in drift.modes if path not in comparison.different),
        drift.caches,
    )
    if same and since is not None:
        confirmed = {
            path: confirmed_row(index.rows[path], status, as_restored=path not in comparison.separate)
            for path, status in statuses.items()
            if path in same
        }
        renewed = index.renewed(since, confirmed, uncertain - same, environment.tree.by_path)
        index = _write_again(environment, index, renewed)
    environment.settle(settled, index, comparison.problem)
    return LocalChanges(settled, comparison.problem)


def count_kept_changes(store: Store | None, environment: InstalledEnvironment, since: int | None) -> int:
    """Count the files that differ from the snapshot of an environment that stays as it is.

    Nothing can be lost, so the contents of files are only compared if their mtime has changed. If nothing has changed,
    remember that for `since`, a time before the environment was read, so that it is not read again each time. Raise
    what `environment.tree` does.
    """
    drift = environment.drift()
    if drift is not None and not drift.paths:
        if since is not None and not drift.modes:
            _remember_scan(environment, since)
        return 0
    changes = find_local_changes(store, environment, FEW_BYTES)
    return len(changes.drift.paths) if changes else 0


def _remember_scan(environment: InstalledEnvironment, since: int) -> None:
    index = environment.recorded_index
    if index is not None and index.header.scanned < since:
        _write_again(environment, index, replace(index, header=replace(index.header, scanned=since)))


def find_hidden_changes(
    store: Store, replaced: InstalledEnvironment, restored: PinnedDirectory, shared: frozenset[int]
) -> LocalChanges | None:
    """Return what would be lost with an environment that is replaced by the `restored` one; None if that is unknown.

    `shared` are the inodes of files that both have. Nothing is lost with files whose contents the restored one has,
    too. Raise FileOperationFailed, PermissionDenied.
    """
    drift, index = replaced.drift(), replaced.recorded_index
    if drift is None or index is None:
        return None
    files = replaced.tree.by_path if drift.touched else {}
    uncertain = {*drift.modified, *(path for path in drift.touched if files[path].inode not in shared)}
    if uncertain:
        with DiskFiles(replaced.directory, {}) as before, DiskFiles(restored, {}) as after:
            uncertain = {path for path in uncertain if _contents(before, path) != _contents(after, path)}
    comparison = _compare(store, replaced, index, uncertain, None)
    changed = tuple(sorted(comparison.different.union(drift.changed)))
    unread = tuple(sorted(comparison.unread))
    return LocalChanges(replace(drift, changed=changed, modified=unread, touched=()), comparison.problem)


def _contents(files: DiskFiles, path: str) -> object:
    """Return a value that tells what is in a file, or where a link leads; None if neither is there."""
    status = files.status(path)
    if status is not None and stat.S_ISLNK(status.st_mode):
        return files.target(path)
    return files.facts(path)


# --- comparing with layers --------------------------------------------------------------------------------


def _compare(
    store: Store | None,
    environment: InstalledEnvironment,
    index: Index,
    paths: Collection[str],
    most: int | None,
) -> _Comparison:
    """Compare files with the layers of the environment's snapshot."""
    previous = environment.previous
    if not paths:
        return _Comparison()
    if previous is None or previous.encoded.digest != index.header.snapshot:
        return _Comparison(unread=set(paths), problem=_UNKNOWN)
    if store is None:
        return _Comparison(unread=set(paths), problem="the store cannot be read")
    by_layer = _paths_by_layer(paths, previous.snapshot.layers, index)
    size = sum(previous.snapshot.layers[number].diff_size for number in by_layer)
    if most is not None and size > most:
        return _Comparison(unread=set(paths), problem=f"this takes reading {size / 1e9:.1f} GB of layers")
    comparison = _Comparison(set(paths).difference(*by_layer.values()))
    hard_links: dict[str, str] = {}
    for number, layer_paths in by_layer.items():
        try:
            compared = _compare_layer(store, environment, index, previous.snapshot.layers[number])
        except SnapperError as error:
            comparison.unread |= layer_paths
            comparison.problem = error.message
            continue
        different = {path for path, what in compared.differences if what != "mode"}
        hard_links.update(
            (path, compared.hard_links[path]) for path in different & compared.hard_links.keys()
        )
        comparison.different |= layer_paths & different
    with DiskFiles(environment.directory, {}) as files:
        for path, target in hard_links.items():
            if target not in comparison.different and files.facts(path) == files.facts(target):
                comparison.different.discard(path)
                comparison.separate.add(path)
    comparison.unread -= comparison.different
    return comparison


def _compare_layer(
    store: Store, environment: InstalledEnvironment, index: Index, layer: Layer
) -> ComparedLayer:
    # Slow to import, and usually not needed.
    from snapper.restoring.layer_comparison import CompareJob, compare_layer, differing_records  # noqa: PLC0415

    snapshot = index.header.snapshot
    has_followed = any(row[1] & FOLLOWED == FOLLOWED for row in index.rows.values())
    followed = environment.followed.targets if has_followed else {}
    prefixes, others = environment.prefixes_as_in(snapshot), environment.others_named_in(snapshot)
    compared = compare_layer(store, CompareJob(environment.directory, prefixes, followed, layer, others))
    compared.differences += differing_records(environment.directory, compared.records)
    return compared


def _paths_by_layer(paths: Collection[str], layers: Sequence[Layer], index: Index) -> dict[int, set[str]]:
    """Return which of the files are in which layer, by its number; large ones are in several."""
    by_layer: dict[int, set[str]] = defaultdict(set)
    for path in paths:
        number = layer_number(index.rows[path][5])
        if number == NO_LAYER or number >= len(layers):
            continue
        by_layer[number].add(path)
        for continued in _continuations(path, number, layers):
            by_layer[continued].add(path)
    return by_layer


def _continuations(path: str, number: int, layers: Sequence[Layer]) -> Iterator[int]:
    """Yield the numbers of the layers in which a file continues that begins in the layer of that number."""
    for following in range(number + 1, len(layers)):
        begins = layers[following].begins
        if begins is None or begins.path != path:
            return
        yield following


# --- the index --------------------------------------------------------------------------------------------


def now_or_none(directory: PinnedDirectory) -> int | None:
    """Return a time later than all changes so far; None if nothing can be written to the environment to find it out."""
    try:
        return clock.next_tick(directory)
    except OSError:
        return None


def _statuses(directory: PinnedDirectory, paths: Collection[str]) -> dict[str, os.stat_result]:
    """Return the status of files, without those that are gone; raise PermissionDenied, FileOperationFailed."""
    with DiskFiles(directory, {}) as files:
        found = {path: files.status(path) for path in paths}
    return {path: status for path, status in found.items() if status is not None}


def _write_again(environment: InstalledEnvironment, index: Index, renewed: Index) -> Index:
    """Write the renewed index in place of this one, and return it.

    Return this one if another process has written an index, or if none can be written.
    """
    directory = environment.directory
    with suppress(OSError):
        if state.read_index_header(directory) == index.header:
            state.write_index(directory, renewed.header, renewed.encoded_blocks())
            return renewed
    return index
