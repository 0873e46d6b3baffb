"""Kills commands by lot, alone and in pairs, and judges after each what is there."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.support.crash.children import Child, Kill
from tests.support.crash.world import NAME, World
from tests.support.reader import Tree


@dataclass(frozen=True)
class Act:
    """A command. `before` prepares the world for it; `current` are the numbers of snapshots that may be current
    after it was killed, and `trees` those that the environment may be, None where it may be absent. The last of
    each are those after it has ended.
    """

    name: str
    arguments: Callable[[World], tuple[str, ...]]
    current: tuple[int, ...] = (2,)
    trees: tuple[int | None, ...] = (2,)
    before: Callable[[World], None] = lambda _: None

    @property
    def jobs(self) -> tuple[str, ...]:
        """What has the command work alone, which is quicker here."""
        return () if self.name == "prune" else ("--jobs", "1")


def _take_away(world: World) -> None:
    shutil.rmtree(world.prefix)


def _be_first(world: World) -> None:
    """Restored by snapper itself just now, so that its index vouches for every file."""
    world.done("restore", f"{NAME}@{world.ids[0]}", "--jobs", "1")


PRUNE = ("prune", "--keep-last", "1", "--grace", "0s", "--yes")

ACTS: Mapping[str, Act] = {
    act.name: act
    for act in (
        Act("pack", lambda _: ("pack", NAME), (2, 3), (3,), lambda world: world.become(3)),
        Act("restore", lambda _: ("restore", NAME), (2,), (None, 2), _take_away),
        Act("delta", lambda _: ("restore", NAME), (2,), (0, 2), _be_first),
        Act("rollback", lambda world: ("rollback", NAME, world.ids[1]), (2, 1), (2, 1)),
        Act("prune", lambda _: PRUNE),
        Act("import", lambda world: ("import", str(world.archive), "--name", "imported")),
    )
}

#: Of those of which both prepare the environment, the first does.
PAIRS = (
    *(
        ("pack", "prune"),
        ("restore", "prune"),
        ("delta", "prune"),
        ("rollback", "prune"),
        ("import", "prune"),
    ),
    *(("restore", "restore"), ("pack", "pack"), ("rollback", "rollback"), ("prune", "prune")),
    *(("pack", "import"), ("delta", "import"), ("delta", "delta")),
)

#: How a command may end that was not killed, with another one at work: done, or told of the other.
TOLD = {0, 3, 11}


class Engine:
    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.lot = random.Random(seed)
        self.killed: Counter[str] = Counter()
        self._measured: dict[str, tuple[int, float]] = {}

    def again(self, seed: int) -> Engine:
        """The same engine, with a lot of its own for the next run."""
        self.lot = random.Random(seed)
        return self

    def alone(self, name: str) -> None:
        """Kills one command, judges, and has it done after all."""
        act, world = ACTS[name], self.world
        kill = self._kill(name)
        self._prepare(act)
        child = world.begin(act.arguments(world), kill, "one")
        code = child.wait()
        self._judge(code, child, {0}, name)
        self._look(act.current, act.trees)
        world.done(*act.arguments(world), *act.jobs)
        self._look(act.current[-1:], act.trees[-1:])
        world.done("prune", "--grace", "0s", "--yes")
        left = world.left_over()
        assert not left, f"left over: {left}"
        self._look(act.current[-1:], act.trees[-1:])

    def pair(self, one: str, other: str) -> None:
        """Kills one of two commands, or both; they may find each other at work, and nothing else goes wrong."""
        acts, world = [ACTS[one], ACTS[other]], self.world
        kills = [self._kill(one), self._kill(other)]
        if self.lot.random() < 0.7:
            kills[self.lot.randrange(2)] = Kill()
        pause = self.lot.random() * self._measure(one)[1]
        self._prepare(acts[0])
        children = [world.begin(acts[0].arguments(world), kills[0], "one")]
        time.sleep(pause)
        children.append(world.begin(acts[1].arguments(world), kills[1], "two"))
        codes = [child.wait() for child in children]
        # A rollback may find its snapshot pruned.
        told = TOLD | ({10, 12} if {one, other} == {"rollback", "prune"} else set())
        for code, child in zip(codes, children, strict=True):
            self._judge(code, child, told, f"{one}+{other}")
        current = tuple({number for act in acts for number in act.current})
        trees = tuple({tree for act in (acts if one != "pack" else acts[:1]) for tree in act.trees})
        trees = trees if other not in ("prune", "import") else acts[0].trees
        self._look(current, trees)
        world.done("prune", "--grace", "0s", "--yes")
        self._look(current, trees)

    def _judge(self, code: int, child: Child, told: set[int], name: str) -> None:
        if code == -9:
            self.killed[name] += 1
        else:
            assert code in told, (code, child.output.read_text())
        assert "Traceback" not in child.output.read_text(), child.output.read_text()

    def _look(self, current: tuple[int, ...], trees: tuple[int | None, ...]) -> None:
        world = self.world
        found = world.shelf.reader().check()
        assert found[NAME] in [world.ids[number] for number in current], found
        assert found.get("imported", world.imported) == world.imported
        expected: list[Tree | None] = [None if each is None else world.trees[each] for each in trees]
        tree = world.tree()
        assert tree in expected, difference(tree, expected)

    def _prepare(self, act: Act) -> None:
        self.world.reset()
        act.before(self.world)

    def _measure(self, name: str) -> tuple[int, float]:
        """How many steps and seconds the command takes undisturbed."""
        if name not in self._measured:
            act = ACTS[name]
            self._prepare(act)
            child = self.world.begin(act.arguments(self.world), Kill(), "measured")
            code = child.wait()
            assert code == 0, child.output.read_text()
            self._measured[name] = child.steps.stat().st_size, time.monotonic() - child.began
            self._look(act.current[-1:], act.trees[-1:])
        return self._measured[name]

    def _kill(self, name: str) -> Kill:
        steps, seconds = self._measure(name)
        if self.lot.random() < 0.75:
            return Kill(step=self.lot.randint(1, steps))
        return Kill(seconds=self.lot.uniform(0.001, seconds))


def difference(tree: Tree | None, expected: list[Tree | None]) -> str:
    """What is between the old and the new, said shortly."""
    if tree is None:
        return "the environment is gone"
    lines = []
    for each in expected:
        other = each or {}
        lines.append(str({path for path in tree.keys() | other.keys() if tree.get(path) != other.get(path)}))
    return "neither old nor new: " + " / ".join(lines)
