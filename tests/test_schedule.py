"""The order in which layers of several environments are unpacked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from snapper.format.model import Layer
from snapper.restoring.schedule import ScheduledLayer, SnapshotLoad, schedule_layers


def load(*sizes: int, rank: int = 0) -> SnapshotLoad:
    layers = tuple(Layer("0" * 64, 1, "0" * 64, size, "files", "", 1, (), None) for size in sizes)
    return SnapshotLoad(rank, layers)


sizes = st.lists(st.integers(1, 1000), max_size=20)


@given(st.lists(st.tuples(sizes, st.integers(0, 3)), max_size=8))
def test_every_layer_once_and_ranks_in_order(drawn: list[tuple[list[int], int]]) -> None:
    loads = [load(*each, rank=rank) for each, rank in drawn]
    found = schedule_layers(loads)
    assert sorted(found) == [
        ScheduledLayer(number, order)
        for number, each in enumerate(loads)
        for order in range(len(each.layers))
    ]
    ranks = [loads[turn.load].rank for turn in found]
    assert ranks == sorted(ranks)


def test_largest_first() -> None:
    """The largest environment begins, and its largest layer."""
    loads = [load(5, 50, 5), load(100, 300, 100)]
    assert schedule_layers(loads)[0] == ScheduledLayer(1, 1)
    assert schedule_layers(loads)[-1].load == 1


def test_the_smallest_do_not_starve() -> None:
    """Ten small environments beside a huge one are all done when a quarter more than their own bytes are."""
    loads = [load(*[64] * 100), *(load(4, 4) for _ in range(10))]
    found = schedule_layers(loads)
    done = 0
    for turn in found[: max(count for count, turn in enumerate(found) if turn.load) + 1]:
        done += loads[turn.load].layers[turn.layer].diff_size
    assert done <= 80 * 4 + 2 * 64


def test_one_alone_is_done_largest_first() -> None:
    assert [turn.layer for turn in schedule_layers([load(1, 3, 2)])] == [1, 2, 0]
