"""The order in which the layers of several snapshots are unpacked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from snapper.format.model import Layer
from snapper.restoring.schedule import ScheduledLayer, SnapshotLoad, schedule_layers


def load(*sizes: int, rank: int = 0) -> SnapshotLoad:
    layers = tuple(Layer("0" * 64, 1, "0" * 64, size, "files", "", 0, (), None) for size in sizes)
    return SnapshotLoad(rank, layers)


sizes = st.lists(st.integers(1, 1000), max_size=20)


@given(st.lists(st.tuples(sizes, st.integers(0, 3)), max_size=8))
def test_every_layer_is_scheduled_once_by_rank(drawn: list[tuple[list[int], int]]) -> None:
    loads = [load(*layer_sizes, rank=rank) for layer_sizes, rank in drawn]
    scheduled = schedule_layers(loads)
    assert sorted(scheduled) == [
        ScheduledLayer(number, layer)
        for number, snapshot in enumerate(loads)
        for layer in range(len(snapshot.layers))
    ]
    ranks = [loads[item.load].rank for item in scheduled]
    assert ranks == sorted(ranks)


def test_largest_snapshot_and_layer_come_first() -> None:
    loads = [load(5, 50, 5), load(100, 300, 100)]
    assert schedule_layers(loads)[0] == ScheduledLayer(1, 1)
    assert schedule_layers(loads)[-1].load == 1


def test_small_snapshots_do_not_wait_for_a_large_one() -> None:
    """Ten small snapshots next to a huge one are complete once four times their own bytes are scheduled."""
    loads = [load(*[64] * 100), *(load(4, 4) for _ in range(10))]
    scheduled = schedule_layers(loads)
    done = 0
    for item in scheduled[: max(count for count, item in enumerate(scheduled) if item.load) + 1]:
        done += loads[item.load].layers[item.layer].diff_size
    assert done <= 80 * 4 + 2 * 64


def test_layers_of_one_snapshot_come_largest_first() -> None:
    assert [item.layer for item in schedule_layers([load(1, 3, 2)])] == [1, 2, 0]
