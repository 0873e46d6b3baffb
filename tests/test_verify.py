"""Verification: corruption in stores and in environments on disk is detected, never restored, and repaired."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from scripts.maker import change, make
from snapper.commands import verify as verifying
from snapper.commands.verify import LayerSample, verify_store
from snapper.errors import UsageError
from snapper.store import ObjectInfo, open_store
from snapper.store.local import LocalStore
from tests.conftest import Machine, tree_of
from tests.support.environments import make_data
from tests.support.stores import check_store, layer_files, page_files

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture
def packed(machine: Machine) -> tuple[Machine, Path]:
    """Return a machine with `data` in its store and on its disk, with a file that is split between layers."""
    prefix = make_data(machine.envs / "data")
    with (prefix / "large.bin").open("wb") as file:
        file.write(random.Random(0).randbytes(100_000))
        file.truncate(70 * 1024 * 1024)
    (prefix / "one").write_text("Two names, one file.\n")
    os.link(prefix / "one", prefix / "two")
    machine.run_json("pack", "data")
    return machine, prefix


def test_an_object_that_cannot_be_read_does_not_hide_problems_of_others(packed: tuple[Machine, Path]) -> None:
    """Directories of pages and layers are replaced by links, which are not followed: `push --all` copies the rest."""
    machine, prefix = packed
    before = {*page_files(machine.store), *layer_files(machine.store)}
    (prefix / "one").write_text("changed")
    machine.run_json("pack", "data", "--name", "changed")
    new = sorted({*page_files(machine.store), *layer_files(machine.store)} - before)
    assert len(new) >= 2
    hidden = {file.parent for file in new if not any(other.parent == file.parent for other in before)}
    for directory in hidden:
        directory.rename(machine.home / directory.name)
        directory.symlink_to(machine.home / directory.name)
    outcome = machine.snapper("push", "--all", "--to", machine.home / "other", "--json")
    assert outcome.code == 13
    assert [item["environment"] for item in outcome.json["copied"]] == ["data"]
    assert [item["environment"] for item in outcome.json["failed"]] == ["changed"]
    found = problems(machine, "--data")
    assert {problem["key"] for problem in found} >= {str(each.relative_to(machine.store)) for each in hidden}
    assert any("is a symbolic link" in problem["reason"] for problem in found)
    assert {name for problem in found for name in problem["environments"]} <= {"changed"}


def flip(file: Path, at: int) -> None:
    """Change one bit of the file."""
    data = bytearray(file.read_bytes())
    data[at // 8 % len(data)] ^= 1 << at % 8
    file.write_bytes(data)


def problems(machine: Machine, *arguments: object) -> list[dict[str, Any]]:
    outcome = machine.snapper("verify", *arguments, "--json")
    assert outcome.code == (12 if outcome.json["problems"] else 0), outcome
    reported: list[dict[str, Any]] = outcome.json["problems"]
    return reported


def objects(store: Path) -> list[Path]:
    return sorted(path for path in store.rglob("*.*") if path.is_file())


def test_any_flipped_bit_is_detected_never_restored_and_repaired(packed: tuple[Machine, Path]) -> None:
    """One random bit of each object is flipped in turn."""
    machine, _ = packed
    good = machine.home / "good"
    shutil.copytree(machine.store, good)
    assert problems(machine, "--data") == []
    whole = tree_of(machine.store)
    generator = random.Random(7)
    for file in objects(machine.store):
        key = str(file.relative_to(machine.store))
        flip(file, generator.randrange(file.stat().st_size * 8))
        target = machine.home / "target"
        outcome = machine.snapper("restore", "data", "--prefix", target, "--json")
        assert outcome.code in (10, 12, 13), (key, outcome)
        assert not target.exists(), key
        if key == "snapper.json":
            assert machine.expect_error(13, "verify")["type"] == "NotAStore"
            shutil.copy(good / key, file)
            continue
        (detected,) = problems(machine, "--data")[:1]
        assert detected["key"] == key
        assert detected["environments"] == ["data"]
        if not key.startswith("environments/"):
            outcome = machine.snapper("verify", "--data", "--repair", "--from", good, "--json")
            assert outcome.code == 0, (key, outcome)
            assert [problem["key"] for problem in outcome.json["healed"]] == [key]
        else:
            assert machine.snapper("verify", "--repair", "--from", good).code == 12
            shutil.copy(good / key, file)
        assert tree_of(machine.store) == whole
    assert problems(machine, "--data") == []


def test_missing_truncated_and_stray_objects_are_detected(packed: tuple[Machine, Path]) -> None:
    machine, _ = packed
    good = machine.home / "good"
    shutil.copytree(machine.store, good)
    lost, short, *_ = layer_files(machine.store)
    lost.unlink()
    size = short.stat().st_size
    short.write_bytes(short.read_bytes()[:-1])
    (machine.store / "layers" / "stray").write_text("stray")
    (snapshot,) = (machine.store / "snapshots").iterdir()
    detected = {problem["key"]: problem["reason"] for problem in problems(machine)}
    assert detected[str(lost.relative_to(machine.store))] == "it is missing"
    assert detected[str(short.relative_to(machine.store))] == f"it has {size - 1:,} bytes instead of {size:,}"
    assert detected["layers/stray"] == "it does not belong in a store"
    snapshot.unlink()
    shown = machine.snapper("verify").err
    assert f"snapshots/{snapshot.name}: it is missing (needed by data)" in shown
    outcome = machine.snapper("verify", "--repair", "--from", good, "--json")
    assert outcome.code == 12
    assert len(outcome.json["healed"]) == 3
    assert [problem["key"] for problem in outcome.json["problems"]] == ["layers/stray"]
    (machine.store / "layers" / "stray").unlink()
    assert check_store(machine.store).keys() == {"data"}


def test_ref_that_is_not_canonical_json_is_detected(packed: tuple[Machine, Path]) -> None:
    machine, _ = packed
    entry = machine.store / "environments" / "data.json"
    entry.write_text(json.dumps(json.loads(entry.read_bytes()), indent=1))
    (detected,) = problems(machine)
    assert (detected["key"], detected["reason"]) == ("environments/data.json", "it is not canonical JSON")
    machine.run_json("tag", "data", "v1")
    assert problems(machine) == []


def test_repair_uses_environments_on_disk(packed: tuple[Machine, Path], new_machine: Any) -> None:
    """Both an environment that was packed here and one that was restored elsewhere give the same layers again."""
    machine, prefix = packed
    whole = tree_of(machine.store)
    other = new_machine("two")
    other.run_json("restore", "data", "--envs-dir", other.envs)
    for repairer, prefix_there in ((machine, prefix), (other, other.envs / "data")):
        before = tree_of(prefix_there), tree_of(prefix_there / ".snapper")
        for file in layer_files(machine.store):
            flip(file, 4242)
        detected = problems(repairer, "--data")
        assert len(detected) == len(layer_files(machine.store))
        outcome = repairer.snapper("verify", "--data", "--repair", "--json")
        assert outcome.code == 0, outcome
        assert len(outcome.json["healed"]) == len(detected)
        assert {item["source"] for item in outcome.json["healed"]} == {str(prefix_there)}
        assert tree_of(machine.store) == whole
        assert (tree_of(prefix_there), tree_of(prefix_there / ".snapper")) == before
    (prefix / "one").write_text("An environment keeps its snapshot even if its files have changed since.\n")
    for file in (*page_files(machine.store), *(machine.store / "snapshots").iterdir()):
        file.unlink()
    outcome = machine.snapper("verify", "--repair", "--json")
    assert outcome.code == 0, outcome
    assert tree_of(machine.store) == whole
    flip(layer_files(machine.store)[0], 1)
    shutil.rmtree(prefix)
    shutil.rmtree(other.envs / "data")
    outcome = machine.snapper("verify", "--data", "--repair")
    assert outcome.code == 12
    assert "No good copies were found. Name another store with --from URL" in outcome.err
    assert "Repair them with" not in outcome.err


def test_samples_are_disjoint_and_complete() -> None:
    digests = [f"{random.Random(number).getrandbits(256):064x}" for number in range(100)]
    parts = [LayerSample.parse(f"{number}/7").choose(digests) for number in range(1, 8)]
    assert sorted(digest for part in parts for digest in part) == sorted(digests)
    assert all(parts)
    assert len(LayerSample.parse("5%").choose(digests)) == 5
    assert LayerSample.parse("0.1%").choose(digests) != []
    assert (
        LayerSample.parse("all").choose(digests)
        == LayerSample.parse("100%").choose(digests)
        == sorted(digests)
    )
    for text in ("0%", "101%", "0/7", "8/7", "1/0", "5", "", "x"):
        with pytest.raises(UsageError):
            LayerSample.parse(text)


def test_sample_detects_problems_of_its_layers(packed: tuple[Machine, Path]) -> None:
    machine, _ = packed
    file = layer_files(machine.store)[0]
    flip(file, 99)
    assert problems(machine) == []
    store = open_store(str(machine.store))
    results = [verify_store(store, LayerSample.parse(f"{number}/3"), jobs=1) for number in (1, 2, 3)]
    assert sum(result.read for result in results) == results[0].layers
    assert sum(len(result.problems) for result in results) == 1
    assert machine.snapper("verify", "--data=1%", "--json").json["read"] == 1
    assert machine.expect_error(2, "verify", "--data=9/3")["type"] == "UsageError"


def test_repair_checks_the_same_sample_again(packed: tuple[Machine, Path]) -> None:
    """The second check, for what repaired snapshots and pages need, reads the same layers."""
    machine, _ = packed
    damaged = layer_files(machine.store)
    assert len(damaged) > 2
    good = machine.home / "good"
    shutil.copytree(machine.store, good)
    for file in damaged:
        flip(file, 99)
    shutil.rmtree(good / "layers")
    page_files(machine.store)[0].unlink()
    outcome = machine.snapper("verify", "--data=34%", "--repair", "--from", good, "--json")
    assert outcome.code == 12, outcome
    assert [item["key"].split("/")[0] for item in outcome.json["healed"]] == ["pages"]
    detected = [problem["key"] for problem in outcome.json["problems"]]
    assert len(detected) == outcome.json["read"]
    parts = [LayerSample.parse("34%") for _ in range(8)]
    digests = [f"{random.Random(number).getrandbits(256):064x}" for number in range(100)]
    assert all(part.choose(digests) == part.choose(digests) for part in parts)
    assert len({tuple(part.choose(digests)) for part in parts}) > 1


@dataclass(frozen=True)
class ConcurrentlyChanged(LocalStore):
    """A store that somebody else changes, once, right after the prefix `at` was listed."""

    act: Callable[[], object] = lambda: None
    at: str = "locks/"
    done: list[str] = field(default_factory=list)

    def __reduce__(self) -> tuple[Any, ...]:
        return LocalStore, (self.root,)  # to workers

    def list_objects(self, prefix: str) -> Iterator[ObjectInfo]:
        objects = list(super().list_objects(prefix))
        if prefix == self.at and not self.done:
            self.done.append(prefix)
            self.act()
        return iter(objects)


@pytest.mark.parametrize("at", ["environments/", "snapshots/", "pages/", "layers/", "locks/"])
@pytest.mark.parametrize("what", ["pack", "prune", "remove"])
def test_concurrent_operations_are_not_reported_as_problems(
    what: str, at: str, packed: tuple[Machine, Path]
) -> None:
    machine, prefix = packed
    (prefix / "one").write_text("Another one.\n")
    machine.run_json("pack", "data")
    (prefix / "one").write_text("And another one.\n")
    machine.run_json("pack", "-p", prefix, "--name", "other")
    (prefix / "one").write_text("And the last one.\n")
    commands = {
        "pack": ("pack", "-p", prefix, "--name", "third"),
        "prune": ("prune", "--keep-last", 1, "--grace", "0s", "--yes"),
        "remove": ("remove", "other", "--yes"),
    }
    store = ConcurrentlyChanged(machine.store, lambda: machine.run_json(*commands[what]), at)
    assert verify_store(store, LayerSample(), jobs=1).problems == ()
    assert store.done


def test_unreadable_layer_does_not_hide_other_problems(packed: tuple[Machine, Path]) -> None:
    """An oversized layer and one with a flipped bit are both detected and repaired."""
    machine, _ = packed
    good = machine.home / "good"
    shutil.copytree(machine.store, good)
    whole = tree_of(machine.store)
    first, second, *_ = layer_files(machine.store)
    os.truncate(first, 140 * 1024 * 1024)
    flip(second, 77)
    keys = sorted(str(path.relative_to(machine.store)) for path in (first, second))
    assert sorted(problem["key"] for problem in problems(machine, "--data")) == keys
    machine.run_json("verify", "--data", "--repair", "--from", good)
    assert tree_of(machine.store) == whole


# --- environments on disk ---------------------------------------------------------------------------------


def test_every_kind_of_difference_on_disk_is_detected(packed: tuple[Machine, Path]) -> None:
    machine, _ = packed
    assert machine.run_json("verify", "data")["different"] == []
    restored = machine.home / "elsewhere"
    machine.run_json("restore", "data", "--prefix", restored)
    assert machine.run_json("verify", "--prefix", restored)["different"] == []
    assert "byte for byte" in machine.snapper("verify", "--prefix", restored).out

    share = restored / "share" / "textdata"
    config = share / "config.ini"
    data = config.read_bytes()
    config.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
    with (restored / "large.bin").open("r+b") as large:
        large.seek(69 * 1024 * 1024)
        large.write(b"x")
    (share / "empty").unlink()
    (share / "read only.txt").chmod(0o400)
    (share / "link.txt").unlink()
    (share / "link.txt").symlink_to("/etc/passwd")
    (restored / "two").unlink()
    (restored / "two").write_text("Two names, one file.\n")
    (share / "déjà vu.txt").unlink()
    (share / "déjà vu.txt").mkdir()
    (share / "new").write_text("new")
    script = restored / "bin" / "textdata-home"
    script.write_text(script.read_text().replace(str(restored), str(machine.home / "other")))
    (record,) = (restored / "conda-meta").glob("*.json")
    record.write_text(record.read_text() + " ")
    outcome = machine.snapper("verify", "--prefix", restored, "--json")
    assert outcome.code == 12
    assert {item["path"]: item["what"] for item in outcome.json["different"]} == {
        "bin/textdata-home": "contents",
        f"conda-meta/{record.name}": "contents",
        "large.bin": "contents",
        "share/textdata/config.ini": "contents",
        "share/textdata/déjà vu.txt": "type",
        "share/textdata/empty": "missing",
        "share/textdata/link.txt": "target",
        "share/textdata/new": "extra",
        "share/textdata/read only.txt": "mode",
        "two": "target",
    }
    assert (
        "different contents: share/textdata/config.ini" in machine.snapper("verify", "--prefix", restored).out
    )
    shutil.rmtree(restored / ".snapper")
    assert machine.expect_error(2, "verify", "--prefix", restored)["type"] == "UsageError"
    # conda's record proves the other directory in the script, and nothing says any more that it is none of its own.
    assert len(machine.snapper("verify", "data@~0", "--prefix", restored, "--json").json["different"]) == 9
    assert machine.expect_error(2, "verify", "data", "--repair")["type"] == "UsageError"


def test_directories_replaced_by_links_are_not_followed(packed: tuple[Machine, Path]) -> None:
    machine, prefix = packed
    outside = machine.home / "outside"
    shutil.move(prefix / "share", outside)
    (prefix / "share").symlink_to(outside)
    detected = machine.snapper("verify", "data", "--json").json["different"]
    assert {item["path"] for item in detected if item["what"] == "missing"} >= {"share/textdata/config.ini"}


def test_compiled_modules_may_be_valid_for_another_source_mtime(machine: Machine, tmp_path: Path) -> None:
    """Restoring changes the modification times of files that modules were compiled from."""
    source = tmp_path / "work"
    make("compiled", source)
    change(source, install=["click"])
    assert list(source.glob("lib/python3*/site-packages/click/__pycache__/*.pyc"))
    machine.run_json("pack", "-p", source)
    restored = machine.home / "restored"
    machine.run_json("restore", "work", "--prefix", restored)
    for prefix in (source, restored):
        checked = verifying.verify_environment(open_store(str(machine.store)), prefix)
        assert checked.different == ()
