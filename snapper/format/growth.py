"""By how much relocation can make the files of a layer larger."""

from __future__ import annotations

from snapper.format.constraints import path_bytes
from snapper.format.model import Layer

#: By how many bytes relocation may make a layer with short placeholders larger in any case.
_SMALL_GROWTH = 1 << 20

#: What relocation may add to each file besides the prefix, in bytes: a first line for the shell, longer lengths of
#: strings in compiled modules.
_FURTHER_GROWTH = 256


def largest_growth(layer: Layer, prefix: str) -> int:
    """Return by how many bytes relocation to `prefix` can make the files of a layer larger than the layer.

    That is what placeholders that are shorter than the prefix leave possible, but at most the size of the layer and
    1 MiB: no layer that snapper has written comes near that.
    """
    shortest = min(
        (len(group.placeholder.encode()) for group in layer.relocations if group.mode in ("text", "pyc")),
        default=0,
    )
    growth = len(path_bytes(prefix)) - shortest
    if not shortest or growth <= 0:
        return 0
    return min(layer.diff_size // shortest * growth, layer.diff_size + _SMALL_GROWTH)


def tolerated_growth(layer: Layer, prefix: str) -> int:
    """Return the growth in bytes beyond which a layer is refused: `largest_growth`, and a little for each file."""
    return largest_growth(layer, prefix) + layer.members * _FURTHER_GROWTH
