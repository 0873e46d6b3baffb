"""Find files in a replaced environment that have changed although their size, mode, and mtime have not.

Copying or moving another file of the same size and time into the place of one does that; files from one archive often
have the same time. Only the inode or the ctime shows it, but these also change when the owner or the number of links
does. So the contents decide: nothing is lost if the new environment has the same, or if they are those in the snapshot
that is replaced.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from snapper.environment.drift import find_touched
from snapper.environment.index import Index
from snapper.environment.installed import InstalledEnvironment
from snapper.errors import SnapperError
from snapper.format.model import Layer
from snapper.fs.pinned import PinnedDirectory
from snapper.restoring.disk_files import DiskFiles
from snapper.store import Store


def find_hidden_changes(
    store: Store, replaced: InstalledEnvironment, restored: PinnedDirectory, shared: frozenset[int]
) -> list[str]:
    """Return the paths of files in the `replaced` environment that its snapshot has with other contents.

    `shared` are the inodes of files that the `restored` one has, too. What the store does not have any more is not
    compared. Raise FileOperationFailed, PermissionDenied.
    """
    previous, index = replaced.previous, replaced.index
    if previous is None or index is None or index.header.snapshot != previous.encoded.digest:
        return []
    touched = find_touched(replaced.tree, index, shared)
    if not touched:
        return []
    with DiskFiles(replaced.directory, {}) as before, DiskFiles(restored, {}) as after:
        different = {path for path in touched if _contents(before, path) != _contents(after, path)}
        changed = _differing_from_layers(store, replaced, previous.snapshot.layers, index, different, before)
        return sorted(different.intersection(changed))


def _contents(files: DiskFiles, path: str) -> object:
    """Return a value that tells what is in a file, or where a link leads; None if neither is there."""
    status = files.status(path)
    if status is not None and stat.S_ISLNK(status.st_mode):
        return files.target(path)
    return files.facts(path)


def _differing_from_layers(
    store: Store,
    environment: InstalledEnvironment,
    layers: Sequence[Layer],
    index: Index,
    paths: Iterable[str],
    files: DiskFiles,
) -> Iterator[str]:
    """Yield the paths of files that differ from the layers with these paths, as far as the store has the layers."""
    # Slow to import, and usually not needed.
    from snapper.restoring.layer_comparison import CompareJob, compare_layer  # noqa: PLC0415

    snapshot = index.header.snapshot
    prefixes, others = environment.prefixes_as_in(snapshot), environment.others_named_in(snapshot)
    for layer in _layers_with(paths, layers, index):
        with suppress(SnapperError):
            compared = compare_layer(store, CompareJob(environment.directory, prefixes, {}, layer, others))
            for path, what in compared.differences:
                target = compared.hard_links.get(path)
                if what != "mode" and (target is None or files.facts(path) != files.facts(target)):
                    yield path


def _layers_with(paths: Iterable[str], layers: Sequence[Layer], index: Index) -> Iterator[Layer]:
    """Yield the layers that hold the files, and those that continue the last ones of these."""
    numbers = {index.rows[path][5] for path in paths}
    is_needed = False
    for number, layer in enumerate(layers):
        is_needed = number in numbers or (is_needed and layer.begins is not None)
        if is_needed:
            yield layer
