"""Each write to a store fails in turn, for want of room or permission: the store is as it was, or as it is to be."""

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
    """A store whose write of that number fails, and all that follow as long as the fault lasts."""

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


def refused(url: str) -> SnapperError:
    return StoreRefused(url, "write", "Read-only file system")


ACTS: dict[str, Callable[[Any, Path], object]] = {
    "pack": lambda store, prefix: pack(store, prefix, "data", jobs=1),
    "prune": lambda store, _: prune.prune(store, prune.RetentionPolicy(last=1), dry=False, grace=-1),
    "tag": lambda store, _: tag.set_tag(store, SnapshotSpec("data"), "v1"),
    "rollback": lambda store, _: rollback.rollback(store, SnapshotSpec("data")),
}


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with an environment at two snapshots, and the environment, changed since."""
    top = tmp_path_factory.mktemp("faults")
    prefix = make_data(top / "data")
    store = open_store(str(top / "store"), create=True)
    for number in range(3):
        (prefix / "which").write_text(f"{number}" * (number + 1))
        if number < 2:
            pack(store, prefix, "data", jobs=1)
    return top


@pytest.mark.parametrize("fault", [InsufficientSpace, refused], ids=["full", "read-only"])
@pytest.mark.parametrize("act", ACTS)
def test_every_write_fails_in_turn(
    act: str, fault: Callable[[str], SnapperError], stocked: Path, tmp_path: Path
) -> None:
    """What is left is a valid store, with the old entry or the new, and doing it again then does it."""
    failures, at = 0, 0
    while True:
        at += 1
        shutil.rmtree(tmp_path, ignore_errors=True)
        shutil.copytree(stocked, tmp_path, symlinks=True)
        plain = open_store(str(tmp_path / "store"))
        before = read_ref(plain, "data").ref
        failing = Failing(plain, tmp_path / "counter", at, fault)
        try:
            ACTS[act](failing, tmp_path / "data")
        except SnapperError as error:
            assert type(error) is type(fault(""))
            failures += 1
        else:
            break
        reader = Reader.of_directory(tmp_path / "store")
        assert reader.check().keys() == {"data"}
        if act != "prune":
            assert read_ref(plain, "data").ref == before
        else:
            assert read_ref(plain, "data").ref.current == before.current
        for lock in (tmp_path / "store").glob("locks/*"):
            lock.unlink()  # as the next command does once this process is no more
        ACTS[act](plain, tmp_path / "data")
        assert Reader.of_directory(tmp_path / "store").check(locks=False).keys() == {"data"}
        assert not verify_store(plain, LayerSample(), jobs=1).problems
    assert failures >= {"tag": 1, "rollback": 1}.get(act, 4)


@pytest.mark.parametrize("fault", [InsufficientSpace, refused], ids=["full", "read-only"])
def test_repairing_fails_in_turn(fault: Callable[[str], SnapperError], stocked: Path, tmp_path: Path) -> None:
    """A damaged layer is replaced by a good one, or by none, and is never taken for good."""
    good = open_store(str(stocked / "store"))
    for at in range(1, 4):
        shutil.rmtree(tmp_path, ignore_errors=True)
        shutil.copytree(stocked, tmp_path, symlinks=True)
        store = open_store(str(tmp_path / "store"))
        layer = next((tmp_path / "store" / "layers").rglob("*.zst"))
        layer.write_bytes(layer.read_bytes()[:-1] + b"\0")
        found = verify_store(store, LayerSample(), jobs=1)
        keys = [each.key for each in found.problems]
        assert keys == [str(layer.relative_to(tmp_path / "store"))]
        failing = Failing(store, tmp_path / "counter", at, fault)
        try:
            repair_objects(failing, keys, {"good": good})
        except SnapperError:
            assert [each.key for each in verify_store(store, LayerSample(), jobs=1).problems] == keys
            repair_objects(store, keys, {"good": good})
        else:
            assert at == 3
        assert not verify_store(store, LayerSample(), jobs=1).problems
