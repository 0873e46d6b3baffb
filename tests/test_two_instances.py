"""Two instances and one store against a model: packs, changes, restores, rollbacks, tags, prunes, and conflicts."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from snapper.commands import rollback, tag
from snapper.commands.pack import pack
from snapper.commands.prune import prune
from snapper.commands.remove import plan_removal, remove_environment
from snapper.commands.restore import RestoreFailure, restore
from snapper.commands.retention import RetentionPolicy
from snapper.errors import (
    ConcurrentUpdate,
    NoEarlierSnapshot,
    NotInStore,
    SnapperError,
    TagExists,
    TargetOccupied,
)
from snapper.repository.refs import read_ref
from snapper.repository.specs import SnapshotSpec
from snapper.restoring.requests import RestoreRequest
from snapper.store import open_store
from tests.support.environments import make_data
from tests.support.reader import Reader

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

NAME = "shared"
TAGS = ("v1", "v2")

#: The files of an environment that are changed: whose they are, and by what, with their contents.
Files = dict[str, str]


@dataclass
class Instance:
    """An instance: the files of its environment, now and when it was last packed or restored."""

    top: Path
    files: Files | None = None
    clean: Files | None = None

    @property
    def prefix(self) -> Path:
        return self.top / "envs" / NAME

    @contextmanager
    def at_home(self) -> Iterator[None]:
        before = os.environ.get("HOME", "")
        os.environ["HOME"] = str(self.top)
        try:
            yield
        finally:
            os.environ["HOME"] = before

    @property
    def is_changed(self) -> bool:
        return self.files != self.clean

    def write(self, path: str, text: str | None) -> None:
        """Change a file. Its time depends on its content, so that equal environments are one snapshot."""
        file = self.prefix / path
        if text is None:
            file.unlink(missing_ok=True)
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        os.utime(file, (1_600_000_000 + sum(text.encode()) * 131 + len(text),) * 2)


@dataclass
class Model:
    """The expected content of the store: the environment's history, oldest first, and the files of each snapshot."""

    history: list[str] = field(default_factory=list)
    rolled: list[bool] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    contents: dict[str, Files] = field(default_factory=dict)

    def move(self, snapshot_id: str, *, rolled: bool = False) -> None:
        self.history.append(snapshot_id)
        self.rolled.append(rolled)

    def line(self) -> list[str]:
        """Return the snapshots that led to the current one, as a stack from which rollbacks take the latest."""
        line: list[str] = []
        for snapshot_id, rolled in zip(self.history, self.rolled, strict=True):
            if rolled and snapshot_id in line:
                while line[-1] != snapshot_id:
                    line.pop()
            elif line[-1:] != [snapshot_id]:
                line.append(snapshot_id)
        return line

    def back(self, count: int) -> str | None:
        """Return the snapshot that `~count` names."""
        line = self.line()
        return line[-1 - count] if count < len(line) else None

    def keep(self, last: int) -> None:
        newest = list(dict.fromkeys(self.history[::-1]))[:last]
        kept = {*newest, self.history[-1], *self.tags.values()}
        pairs = [pair for pair in zip(self.history, self.rolled, strict=True) if pair[0] in kept]
        self.history, self.rolled = [pair[0] for pair in pairs], [pair[1] for pair in pairs]


@dataclass(frozen=True)
class Between:
    """A store in which something happens right before a ref is replaced."""

    store: Any
    before_replace: Callable[[], None]

    def replace(self, key: str, data: bytes, version: str | None) -> None:
        if key.startswith("environments/"):
            self.before_replace()
        self.store.replace(key, data, version)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.store, name)


class TwoInstances(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.top = Path(tempfile.mkdtemp(prefix="two", dir=memory))
        self.store: Any = open_store(str(self.top / "store"), create=True)
        self.instances = [Instance(self.top / name) for name in ("one", "two")]
        self.model = Model()

    def teardown(self) -> None:
        shutil.rmtree(self.top, ignore_errors=True)

    numbers = st.integers(0, 1)
    paths = st.sampled_from(["mine", "lib/a.py", "share/textdata/config.ini", "share/textdata/numbers.bin"])
    texts = st.none() | st.integers(0, 10**6).map(str)

    @initialize()
    def build(self) -> None:
        """Create the environment on the first instance and pack it several times."""
        make_data(self.instances[0].prefix)
        self.instances[0].files = {}
        for number in range(3):
            self.change_and_pack(0, "mine", str(number))

    @precondition(lambda self: any(each.files is not None for each in self.instances))
    @rule(number=numbers, path=paths, text=texts)
    def change(self, number: int, path: str, text: str | None) -> None:
        instance = self.instances[number]
        if instance.files is None:
            return
        instance.write(path, text)
        instance.files = {**instance.files, path: "" if text is None else f"={text}"}
        if text is None and path in ("mine", "lib/a.py"):
            del instance.files[path]

    @rule(number=numbers)
    def pack(self, number: int) -> None:
        self._pack(self.instances[number], self.store)

    def _pack(self, instance: Instance, store: Any) -> None:
        if instance.files is None:
            return
        with instance.at_home():
            done = pack(store, instance.prefix, NAME, jobs=1)
        known = self.model.contents.setdefault(done.snapshot_id, instance.files)
        assert known == instance.files
        is_current = self.model.history[-1:] == [done.snapshot_id]
        is_earlier = instance.files == instance.clean and done.snapshot_id in self.model.history
        assert done.unchanged == (is_current or is_earlier)
        if not done.unchanged:
            self.model.move(done.snapshot_id)
        instance.clean = instance.files

    @precondition(lambda self: any(each.files is not None for each in self.instances))
    @rule(number=numbers, path=paths, text=texts)
    def change_and_pack(self, number: int, path: str, text: str | None) -> None:
        self.change(number, path, text)
        self.pack(number)

    @rule(number=numbers, path=paths, text=texts)
    def pack_while_the_other_does(self, number: int, path: str, text: str | None) -> None:
        """Both instances have read the same ref: the second to replace it fails, and nothing of the first is lost."""
        instance, other = self.instances[number], self.instances[1 - number]
        self.change(number, path, text)
        happened: list[bool] = []

        def before_replace() -> None:
            if not happened:
                happened.append(True)
                self._pack(other, self.store)

        before = list(self.model.history)
        try:
            with instance.at_home():
                if instance.files is not None:
                    self._pack(instance, Between(self.store, before_replace))
            assert not happened or self.model.history[: len(before)] == before
        except ConcurrentUpdate:
            assert happened and self.model.history != before

    @precondition(lambda self: self.model.history)
    @rule(number=numbers, back=st.integers(0, 4), replace=st.booleans(), by_tag=st.sampled_from(("", *TAGS)))
    def restore(self, number: int, back: int, replace: bool, by_tag: str) -> None:
        instance = self.instances[number]
        if by_tag:
            wanted, snapshot_id = by_tag, self.model.tags.get(by_tag)
        else:
            wanted, snapshot_id = f"~{back}", self.model.back(back)
        error = self._restore(instance, SnapshotSpec(NAME, wanted), replace)
        if snapshot_id is None:
            assert isinstance(error, NotInStore)
            return
        self._restored(instance, snapshot_id, replace, error)

    def _restore(self, instance: Instance, reference: SnapshotSpec, replace: bool) -> SnapperError | None:
        with instance.at_home():
            wanted = RestoreRequest(reference, prefix=instance.prefix, replace=replace)
            (done,) = restore(self.store, [wanted], jobs=1)
        return done.error if isinstance(done, RestoreFailure) else None

    def _restored(
        self, instance: Instance, snapshot_id: str, replace: bool, error: SnapperError | None
    ) -> None:
        gone = instance.clean is not None and not self._is_stored(instance.clean)
        if instance.files is not None and (instance.is_changed or gone) and not replace:
            assert isinstance(error, TargetOccupied), error
            return
        assert error is None, error
        instance.files = instance.clean = self.model.contents[snapshot_id]

    def _is_stored(self, files: Files) -> bool:
        """Return whether the store has a snapshot of these files."""
        named = {*self.model.history, *self.model.tags.values()}
        return any(self.model.contents[each] == files for each in named)

    @precondition(lambda self: self.model.history)
    @rule(number=numbers, replace=st.booleans())
    def roll_back(self, number: int, replace: bool) -> None:
        expected = self.model.back(1)
        instance = self.instances[number]
        local = rollback.LocalRestore(prefix=instance.prefix, replace=replace, jobs=1)
        error: SnapperError | None = None
        try:
            with instance.at_home():
                stored = rollback.rollback(self.store, SnapshotSpec(NAME), local=local).stored
        except NoEarlierSnapshot:
            assert expected is None
            return
        except SnapperError as refusal:
            error = refusal
        assert expected is not None
        self._restored(instance, expected, replace, error)
        if error is None:
            assert stored.snapshot_id == expected
            if not stored.unchanged:
                self.model.move(expected, rolled=True)

    @precondition(lambda self: self.model.history)
    @rule(name=st.sampled_from(TAGS), back=st.integers(0, 2), move=st.booleans())
    def tag(self, name: str, back: int, move: bool) -> None:
        snapshot_id = self.model.back(back)
        if snapshot_id is None:
            return
        taken = self.model.tags.get(name, snapshot_id) != snapshot_id
        try:
            tag.set_tag(self.store, SnapshotSpec(NAME, f"~{back}"), name, move=move)
            assert move or not taken
            self.model.tags[name] = snapshot_id
        except TagExists:
            assert taken and not move

    @precondition(lambda self: self.model.history)
    @rule(last=st.integers(1, 3))
    def prune(self, last: int) -> None:
        prune(self.store, RetentionPolicy(last=last), dry=False, grace=-1)
        self.model.keep(last)
        files = {path.name for path in (self.top / "store" / "snapshots").iterdir()}
        assert files == {f"{each}.json" for each in (*self.model.history, *self.model.tags.values())}

    @precondition(lambda self: len(self.model.history) > 2)
    @rule()
    def remove(self) -> None:
        remove_environment(self.store, plan_removal(self.store, NAME))
        self.model = Model(contents=self.model.contents)
        prune(self.store, RetentionPolicy(), dry=False, grace=-1)

    @invariant()
    def store_matches_the_model(self) -> None:
        found = Reader.of_directory(self.top / "store").check(locks=False)
        if not self.model.history:
            assert found == {}
            return
        assert found == {NAME: self.model.history[-1]}
        environment = read_ref(self.store, NAME).ref
        assert [step.snapshot for step in environment.history] == self.model.history
        assert environment.tags == self.model.tags

    @invariant()
    def environments_match_the_model(self) -> None:
        for instance in self.instances:
            if instance.files is None:
                assert not instance.prefix.exists()
                continue
            for path in ("mine", "lib/a.py"):
                expected = instance.files.get(path)
                file = instance.prefix / path
                assert file.exists() == (expected is not None)
                assert expected is None or file.read_text() == expected[1:]
            for path in ("share/textdata/config.ini", "share/textdata/numbers.bin"):
                file = instance.prefix / path
                changed = instance.files.get(path)
                if changed:
                    assert file.read_text() == changed[1:]
                else:
                    assert file.exists() == (changed is None)
            assert not list(instance.prefix.parent.glob(".*"))


def test_two_instances_share_a_store(request: pytest.FixtureRequest) -> None:
    long = request.config.getoption("--long")
    run_state_machine_as_test(
        TwoInstances,
        settings=settings(
            max_examples=200 if long else 6,
            stateful_step_count=40,
            suppress_health_check=list(HealthCheck),
        ),
    )
