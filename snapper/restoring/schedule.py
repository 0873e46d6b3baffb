"""The order in which a pool of workers unpacks the layers of several snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from snapper.format.model import Layer

#: One byte in this many goes to the smallest snapshot, so that it need not wait for the largest.
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
    """A layer, by its number in the load of that number."""

    load: int
    layer: int


def schedule_layers(loads: Sequence[SnapshotLoad]) -> list[ScheduledLayer]:
    """Return every layer of every load once, in the order to unpack them.

    Loads come by rank. Within a rank, the largest load comes first and its largest layers first, so that no worker is
    still busy with a large one at the end; one byte in four is of the smallest load.
    """
    scheduled: list[ScheduledLayer] = []
    for rank in sorted({load.rank for load in loads}):
        numbers = sorted(
            (number for number, load in enumerate(loads) if load.rank == rank),
            key=lambda number: (-loads[number].size, number),
        )
        queues = [_largest_first(number, loads[number].layers) for number in numbers]
        scheduled += _from_both_ends(queues, loads)
    return scheduled


def _largest_first(load: int, layers: Sequence[Layer]) -> list[ScheduledLayer]:
    numbers = sorted(range(len(layers)), key=lambda number: (-layers[number].diff_size, number))
    return [ScheduledLayer(load, number) for number in numbers]


def _from_both_ends(
    queues: list[list[ScheduledLayer]], loads: Sequence[SnapshotLoad]
) -> list[ScheduledLayer]:
    """Merge queues, largest load first: mostly from the first one, and a share from the last one."""
    scheduled: list[ScheduledLayer] = []
    positions = [0] * len(queues)
    first, last = 0, len(queues) - 1
    sizes = {"large": 0, "small": 0}
    while first <= last:
        small = first < last and _SHARE * sizes["small"] < sizes["small"] + sizes["large"]
        queue = last if small else first
        if positions[queue] < len(queues[queue]):
            item = queues[queue][positions[queue]]
            positions[queue] += 1
            scheduled.append(item)
            sizes["small" if small else "large"] += loads[item.load].layers[item.layer].diff_size
        elif small:
            last -= 1
        else:
            first += 1
    return scheduled
