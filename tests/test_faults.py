"""Every write to a store fails in turn, for lack of space or permission: the store is in its old or new state."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from snapper.commands import prune, rollback, tag
from snapper.commands.pack import pack
from snapper.commands.repair import repair_objects
from snapper.commands.retention import RetentionPolicy
from snapper.commands.verify import LayerSample, verify_store
from snapper.errors import InsufficientSpace, SnapperError, StoreRefused
from snapper.repository.refs import read_ref
from snapper.repository.specs import SnapshotSpec
from snapper.store import open_store
from tests.support.environments import make_data
from tests.support.reader import Reader

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

WRITES = ("put", "replace", "delete")


@dataclass(frozen=True)
class Failing:
    """A store whose write number `at`, counted from 1, and all later ones fail."""

    store: Any
    counter: Path
    at: int
    fault: Callable[[str], SnapperError]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in WRITES:
            with self.counter.open("ab") as file:
                file.write(b".")
                number = file.tell()
            if number >= self.at:
                raise self.fault(self.store.url)
        return getattr(self.store, name)


def read_only(url: str) -> SnapperError:
    return StoreRefused(url, "write", "Read-only file system")


OPERATIONS: dict[str, Callable[[Any, Path], object]] = {
    "pack": lambda store, prefix: pack(store, prefix, "data", jobs=1),
    "prune": lambda store, _: prune.prune(store, RetentionPolicy(last=1), dry=False, grace=-1),
    "tag": lambda store, _: tag.set_tag(store, SnapshotSpec("data"), "v1"),
    "rollback": lambda store, _: rollback.rollback(store, SnapshotSpec("data")),
}


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two snapshots of an environment, and the environment, changed since."""
    top = tmp_path_factory.mktemp("faults")
    prefix = make_data(top / "data")
    store = open_store(str(top / "store"), create=True)
    for number in range(3):
        (prefix / "which").write_text(f"{number}" * (number + 1))
        if number < 2:
            pack(store, prefix, "data", jobs=1)
    return top


@pytest.mark.parametrize("fault", [InsufficientSpace, read_only], ids=["full", "read-only"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_store_stays_valid_whichever_write_fails(
    operation: str, fault: Callable[[str], SnapperError], stocked: Path, tmp_path: Path
) -> None:
    """The store stays valid with the old ref or the new one, and repeating the operation succeeds."""
    failures, at = 0, 0
    while True:
        at += 1
        shutil.rmtree(tmp_path, ignore_errors=True)
        shutil.copytree(stocked, tmp_path, symlinks=True)
        plain = open_store(str(tmp_path / "store"))
        before = read_ref(plain, "data").ref
        failing = Failing(plain, tmp_path / "counter", at, fault)
        try:
            OPERATIONS[operation](failing, tmp_path / "data")
        except SnapperError as error:
            assert type(error) is type(fault(""))
            failures += 1
        else:
            break
        reader = Reader.of_directory(tmp_path / "store")
        assert reader.check().keys() == {"data"}
        if operation != "prune":
            assert read_ref(plain, "data").ref == before
        else:
            assert read_ref(plain, "data").ref.current == before.current
        for lock in (tmp_path / "store").glob("locks/*"):
            lock.unlink()  # as the next command does after this process has ended
        OPERATIONS[operation](plain, tmp_path / "data")
        assert Reader.of_directory(tmp_path / "store").check(locks=False).keys() == {"data"}
        assert not verify_store(plain, LayerSample(), jobs=1).problems
    assert failures >= {"tag": 1, "rollback": 1}.get(operation, 4)


@pytest.mark.parametrize("fault", [InsufficientSpace, read_only], ids=["full", "read-only"])
def test_failed_repair_can_be_repeated(
    fault: Callable[[str], SnapperError], stocked: Path, tmp_path: Path
) -> None:
    """A corrupted layer is replaced by an intact one or stays; it is never taken for intact."""
    intact = open_store(str(stocked / "store"))
    for at in range(1, 4):
        shutil.rmtree(tmp_path, ignore_errors=True)
        shutil.copytree(stocked, tmp_path, symlinks=True)
        store = open_store(str(tmp_path / "store"))
        layer = next((tmp_path / "store" / "layers").rglob("*.zst"))
        layer.write_bytes(layer.read_bytes()[:-1] + b"\0")
        result = verify_store(store, LayerSample(), jobs=1)
        keys = [problem.key for problem in result.problems]
        assert keys == [str(layer.relative_to(tmp_path / "store"))]
        failing = Failing(store, tmp_path / "counter", at, fault)
        try:
            repair_objects(failing, keys, {"intact": intact})
        except SnapperError:
            assert [problem.key for problem in verify_store(store, LayerSample(), jobs=1).problems] == keys
            repair_objects(store, keys, {"intact": intact})
        else:
            assert at == 3
        assert not verify_store(store, LayerSample(), jobs=1).problems
