"""Record in the index what the files of an environment were when it was packed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from snapper.environment import index
from snapper.environment.index import EntryFields
from snapper.environment.tree import File, Tree
from snapper.format.times import clamped
from snapper.packing.reuse import PackedLayer
from snapper.packing.source import PackSource


def index_blocks(layers: tuple[PackedLayer, ...], source: PackSource) -> list[bytes]:
    """Encode the index's entries of all files in the layers.

    Files only count as those of a layer if restoring it here writes what is there: not those that are rewritten or
    taken from elsewhere, or share their data with one of these by a hard link. The layer was made of the rewritten ones
    alone, unless something was included, which also decides what is written.
    """
    changed = source.from_elsewhere.union(*(packed.rewritten for packed in layers))
    changed = _with_hard_links(changed, source.tree)
    unknown = changed if source.has_included else _with_hard_links(source.from_elsewhere, source.tree)
    rewritten = changed - unknown
    unknown -= _unsaved_paths(source) if source.has_included else frozenset()
    blocks = []
    for number, packed in enumerate(layers):
        rows = (
            (number, [path for path in packed.paths if path not in changed]),
            (index.rewritten(number), [path for path in packed.paths if path in rewritten]),
            (index.NO_LAYER, [path for path in packed.paths if path in unknown]),
        )
        blocks += [index.encode_block(of_rows, _entries(paths, source)) for of_rows, paths in rows if paths]
    return blocks


def _entries(paths: Iterable[str], source: PackSource) -> Iterator[EntryFields]:
    """Return the entries of those files at these paths that the environment has."""
    files, followed = source.installed.tree.by_path, source.installed.followed
    for path in paths:
        if path in followed.targets:
            yield index.followed_entry(files[path], followed.tree.by_path[path].size)
        elif path in files:
            yield index.index_entry(files[path])


def _with_hard_links(paths: frozenset[str], tree: Tree) -> frozenset[str]:
    """Return the paths, and those that are hard links to the same files."""
    linked = [tree.by_path[path] for path in paths if tree.by_path[path].links > 1]
    data = {(file.device, file.inode) for file in linked}
    return paths.union(file.path for file in tree.files if data and (file.device, file.inode) in data)


def _unsaved_paths(source: PackSource) -> frozenset[str]:
    """Return the paths of files that no snapshot has: others were packed in their place, and they had changed before.

    They are not in the index, so that they still count as changed.
    """
    drift = source.installed.drift()
    changed = None if drift is None else frozenset(drift.paths)
    packed = source.tree.by_path
    return frozenset(
        path
        for path, file in source.installed.followed.tree.by_path.items()
        if (changed is None or path in changed) and not _is_alike(file, packed.get(path, file))
    )


def _is_alike(file: File, other: File) -> bool:
    """Return whether a file is another one, or looks the same."""
    return (file.type, file.size, clamped(file.mtime_ns)) == (other.type, other.size, clamped(other.mtime_ns))
