"""Record in the index what the files of an environment were when it was packed."""

from __future__ import annotations

from snapper.environment import index
from snapper.environment.tree import File
from snapper.format.times import clamped
from snapper.packing.reuse import PackedLayer
from snapper.packing.source import PackSource


def index_blocks(layers: tuple[PackedLayer, ...], source: PackSource) -> list[bytes]:
    """Encode the index's entries of all files in the layers.

    What is included from outside of the environment can be in the layers in place of its own files, or with other
    contents. So all layers count as unknown then, and those with files that are links in the environment. So do all if
    files contain another prefix than the environment's, since restores replace it.
    """
    is_other = source.has_included or bool(source.found_prefixes)
    files = source.installed.tree.by_path
    unsaved = _unsaved_paths(source) if source.has_included else frozenset()
    return [
        index.encode_block(
            number if not is_other and source.followed.keys().isdisjoint(packed.paths) else index.NO_LAYER,
            [
                index.index_entry(files[path])
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
