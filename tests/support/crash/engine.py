"""Kill commands at random moments, one or two at a time, and check the store and the environment afterwards."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from tests.support.crash.children import Child, Kill
from tests.support.crash.world import NAME, World
from tests.support.reader import Tree


@dataclass(frozen=True)
class Command:
    """A command, and the states that are valid after it was killed.

    `current` are the numbers of the snapshots that may be current, and `trees` those whose files the environment may
    have, None if it may be absent. The last of each is the state after the command has completed. `prepare` sets up
    the world for the command.
    """

    name: str
    arguments: Callable[[World], tuple[str, ...]]
    current: tuple[int, ...] = (2,)
    trees: tuple[int | None, ...] = (2,)
    prepare: Callable[[World], None] = lambda _: None

    @property
    def jobs(self) -> tuple[str, ...]:
        """The option for a single worker, which is faster for such small environments."""
        return () if self.name == "prune" else ("--jobs", "1")


def _remove_environment(world: World) -> None:
    shutil.rmtree(world.prefix)


def _restore_first(world: World) -> None:
    """Restore the first snapshot, so that the environment's index has every file."""
    world.run("restore", f"{NAME}@{world.ids[0]}", "--jobs", "1")
    world.nest()


PRUNE = ("prune", "--keep-last", "1", "--grace", "0s", "--yes")

COMMANDS: Mapping[str, Command] = {
    command.name: command
    for command in (
        Command("pack", lambda _: ("pack", NAME), (2, 3), (3,), lambda world: world.become(3)),
        Command("restore", lambda _: ("restore", NAME), (2,), (None, 2), _remove_environment),
        Command("delta", lambda _: ("restore", NAME), (2,), (0, 2), _restore_first),
        Command("rollback", lambda world: ("rollback", NAME, world.ids[1]), (2, 1), (2, 1), World.nest),
        Command("prune", lambda _: PRUNE),
        Command("import", lambda world: ("import", str(world.archive), "--name", "imported")),
    )
}

#: If both commands prepare the environment, only the first does.
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

#: Exit codes of a command that was not killed, while another one ran: success, or a conflict with the other.
TOLERATED = {0, 3, 11}


class _Duration(NamedTuple):
    steps: int
    seconds: float


class Engine:
    """Runs commands in a world and counts those that were killed."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self._random = random.Random(seed)
        self.killed: Counter[str] = Counter()
        self._measured: dict[str, _Duration] = {}

    def reseed(self, seed: int) -> None:
        """Seed the random numbers of the next run."""
        self._random = random.Random(seed)

    def kill_one(self, name: str) -> None:
        """Kill a command, check the state, and run it again to completion."""
        command, world = COMMANDS[name], self.world
        kill = self._choose_kill(name)
        self._prepare(command)
        child = world.start(command.arguments(world), kill, "one")
        code = child.wait()
        self._check_exit(code, child, {0}, name)
        world.settle()
        self._check_state(command.current, command.trees)
        world.run(*command.arguments(world), *command.jobs)
        self._check_state(command.current[-1:], command.trees[-1:])
        assert world.nested_tree() == world.nested
        world.run("prune", "--grace", "0s", "--yes")
        leftovers = world.leftovers()
        assert not leftovers, f"leftovers: {leftovers}"
        self._check_state(command.current[-1:], command.trees[-1:])

    def kill_pair(self, first: str, second: str) -> None:
        """Kill one of two simultaneous commands, or both; they may report a conflict, but no other error."""
        commands, world = [COMMANDS[first], COMMANDS[second]], self.world
        kills = [self._choose_kill(first), self._choose_kill(second)]
        if self._random.random() < 0.7:
            kills[self._random.randrange(2)] = Kill()
        pause = self._random.random() * self._measure(first).seconds
        self._prepare(commands[0])
        children = [world.start(commands[0].arguments(world), kills[0], "one")]
        time.sleep(pause)
        children.append(world.start(commands[1].arguments(world), kills[1], "two"))
        codes = [child.wait() for child in children]
        # The prune may have removed the snapshot of a rollback.
        tolerated = TOLERATED | ({10, 12} if {first, second} == {"rollback", "prune"} else set())
        for code, child in zip(codes, children, strict=True):
            self._check_exit(code, child, tolerated, f"{first}+{second}")
        current = tuple({number for command in commands for number in command.current})
        trees = tuple(
            {tree for command in (commands if first != "pack" else commands[:1]) for tree in command.trees}
        )
        trees = trees if second not in ("prune", "import") else commands[0].trees
        self._check_state(current, trees)
        world.run("prune", "--grace", "0s", "--yes")
        self._check_state(current, trees)

    def _check_exit(self, code: int, child: Child, tolerated: set[int], name: str) -> None:
        if code == -9:
            self.killed[name] += 1
        else:
            assert code in tolerated, (code, child.output.read_text())
        assert "Traceback" not in child.output.read_text(), child.output.read_text()

    def _check_state(self, current: tuple[int, ...], trees: tuple[int | None, ...]) -> None:
        world = self.world
        found = world.location.reader().check()
        assert found[NAME] in [world.ids[number] for number in current], found
        assert found.get("imported", world.imported) == world.imported
        expected: list[Tree | None] = [None if number is None else world.trees[number] for number in trees]
        tree = world.tree()
        assert tree in expected, difference(tree, expected)

    def _prepare(self, command: Command) -> None:
        self.world.reset()
        command.prepare(self.world)
        self.world.hold()

    def _measure(self, name: str) -> _Duration:
        """Return how many steps and seconds the uninterrupted command takes."""
        if name not in self._measured:
            command = COMMANDS[name]
            self._prepare(command)
            child = self.world.start(command.arguments(self.world), Kill(), "measured")
            code = child.wait()
            assert code == 0, child.output.read_text()
            self._measured[name] = _Duration(child.steps.stat().st_size, time.monotonic() - child.started)
            self._check_state(command.current[-1:], command.trees[-1:])
        return self._measured[name]

    def _choose_kill(self, name: str) -> Kill:
        steps, seconds = self._measure(name)
        if self._random.random() < 0.75:
            return Kill(step=self._random.randint(1, steps))
        return Kill(seconds=self._random.uniform(0.001, seconds))


def difference(tree: Tree | None, expected: list[Tree | None]) -> str:
    """Describe how the tree differs from the expected ones."""
    if tree is None:
        return "the environment is gone"
    lines = []
    for each in expected:
        other = each or {}
        lines.append(str({path for path in tree.keys() | other.keys() if tree.get(path) != other.get(path)}))
    return "neither old nor new: " + " / ".join(lines)
