"""Record in the index what the files of an environment were when it was packed."""

from __future__ import annotations

from snapper.environment import index
from snapper.environment.tree import File
from snapper.format.times import clamped
from snapper.packing.reuse import PackedLayer
from snapper.packing.source import PackSource


def index_blocks(layers: tuple[PackedLayer, ...], source: PackSource) -> list[bytes]:
    """Encode the index's entries of all files in the layers.

    A layer is only attested if restoring it here writes what is there: not if one of its files was rewritten or taken
    from elsewhere, or shares its data with one of these by a hard link.
    """
    files = source.installed.tree.by_path
    followed = source.installed.followed
    targets = {path: followed.tree.by_path[path] for path in followed.targets}
    unsaved = _unsaved_paths(source) if source.has_included else frozenset()
    changed = source.from_elsewhere.union(*(packed.rewritten for packed in layers))
    inodes = {source.tree.by_path[path].inode for path in changed}

    def is_attested(packed: PackedLayer) -> bool:
        return not changed or not any(source.tree.by_path[path].inode in inodes for path in packed.paths)

    return [
        index.encode_block(
            number if is_attested(packed) else index.unattested(number),
            [
                index.followed_entry(files[path], targets[path].size)
                if path in targets
                else index.index_entry(files[path])
                for path in packed.paths
                if path in files and path not in unsaved
            ],
        )
        for number, packed in enumerate(layers)
    ]


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
