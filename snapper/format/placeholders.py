"""Placeholders of snapper's own in programs that no package explains."""

from __future__ import annotations

from snapper.format.model import Layer

#: How placeholders in programs begin that no package explains; those for short prefixes are a part of this.
_OWN_PLACEHOLDER = "/snapper_"


def is_own_placeholder(placeholder: str) -> bool:
    """Return whether the placeholder of a program is one of snapper's own, for programs that no package explains.

    It is where the loader reads it. 0.1.0 put it into all strings, and uses those of earlier snapshots again.
    """
    return placeholder[: len(_OWN_PLACEHOLDER)] == _OWN_PLACEHOLDER[: len(placeholder)]


def paths_for_loader(layer: Layer) -> frozenset[tuple[str, str]]:
    """Return split programs that have a placeholder only where their loader reads it, and the placeholder.

    They are in a group of the mode `link`, too, which 0.1.0 does not make.
    """
    marked = {
        (path, group.placeholder)
        for group in layer.relocations
        if group.mode == "link" and is_own_placeholder(group.placeholder)
        for path in group.paths
    }
    binary = (group for group in layer.relocations if group.mode == "binary") if marked else ()
    return frozenset((path, group.placeholder) for group in binary for path in group.paths) & marked
