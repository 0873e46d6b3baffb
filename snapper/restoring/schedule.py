"""In which order the layers of several snapshots are unpacked by one pool of workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

from snapper.format.model import Layer

#: One byte in so many is of the smallest snapshots, so that they do not wait for the largest to be done.
_SHARE = 4


@dataclass(frozen=True)
class SnapshotLoad:
    """The layers that one snapshot still needs; loads of a lower `rank` come first."""

    rank: int
    layers: tuple[Layer, ...]

    @property
    def size(self) -> int:
        return sum(layer.diff_size for layer in self.layers)


class ScheduledLayer(NamedTuple):
    """The layer of that order in the load of that number is next."""

    load: int
    order: int


def select_names(names: Sequence[str], only: Sequence[str], except_: Sequence[str]) -> list[str]:
    """Those of the names that one of the patterns in `only` fits, all where there is none, and none of `except_`."""

    def fits(name: str, patterns: Sequence[str]) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in patterns)

    return [name for name in names if (not only or fits(name, only)) and not fits(name, except_)]


def rank_names(names: Sequence[str], first: Sequence[str], used: Sequence[str]) -> dict[str, int]:
    """Which environments come before which: those that `first` has patterns of, in its order; then those `used`, in
    their order; then the others, which have one rank.
    """
    order = list(dict.fromkeys(name for pattern in first for name in names if fnmatchcase(name, pattern)))
    order += [name for name in used if name in names and name not in order]
    return {name: order.index(name) if name in order else len(order) for name in names}


def schedule_layers(loads: Sequence[SnapshotLoad]) -> list[ScheduledLayer]:
    """Every layer of every load, each once.

    Ranks come one after the other. Within one, the largest load is first and its largest layers, so that no
    worker is left alone with one at the end; beside it, one byte in four is of the smallest load.
    """
    ordered: list[ScheduledLayer] = []
    for rank in sorted({load.rank for load in loads}):
        numbers = sorted(
            (number for number, load in enumerate(loads) if load.rank == rank),
            key=lambda number: (-loads[number].size, number),
        )
        ordered += _from_both_ends(
            [_largest_first(number, loads[number].layers) for number in numbers], loads
        )
    return ordered


def _largest_first(number: int, layers: Sequence[Layer]) -> list[ScheduledLayer]:
    orders = sorted(range(len(layers)), key=lambda order: (-layers[order].diff_size, order))
    return [ScheduledLayer(number, order) for order in orders]


def _from_both_ends(
    queues: list[list[ScheduledLayer]], loads: Sequence[SnapshotLoad]
) -> list[ScheduledLayer]:
    ordered: list[ScheduledLayer] = []
    taken = [0] * len(queues)
    first, last = 0, len(queues) - 1
    sizes = {"large": 0, "small": 0}
    while first <= last:
        small = first < last and _SHARE * sizes["small"] < sizes["small"] + sizes["large"]
        which = last if small else first
        if taken[which] < len(queues[which]):
            turn = queues[which][taken[which]]
            taken[which] += 1
            ordered.append(turn)
            sizes["small" if small else "large"] += loads[turn.load].layers[turn.order].diff_size
        elif small:
            last -= 1
        else:
            first += 1
    return ordered
