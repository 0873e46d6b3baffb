"""Prune: what is kept, what is deleted, and that simultaneous packs lose nothing."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from snapper.commands import pack as packing
from snapper.commands import prune as pruning
from snapper.commands import snapshot_build
from snapper.commands.prune import prune
from snapper.commands.remove import plan_removal, remove_environment
from snapper.commands.retention import RetentionPolicy
from snapper.errors import LayersPruned, LeaseExpired, SnapperError, StoreLocked
from snapper.format.layout import Layout
from snapper.format.model import HistoryEntry, Ref
from snapper.kernels.launch_template import LAUNCH_SCRIPT_TEMPLATE
from snapper.process.identity import boot_id, is_marked, marked, process_start_time
from snapper.process.progress import NullProgress
from snapper.repository import locks
from snapper.repository.locks import boottime, pack_intent, prune_lock
from snapper.repository.refs import advance_ref, environment_names
from snapper.repository.snapshots import has_snapshot, read_snapshot, require_layers
from snapper.repository.specs import SnapshotSpec
from snapper.store import Store, object_files, open_store
from snapper.store.local import LocalStore
from tests.conftest import Machine
from tests.support.environments import make_data
from tests.support.stores import check_store, layer_files, page_files

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

DAY = 24 * 3600

# --- retention --------------------------------------------------------------------------------------------


def digest(number: int) -> str:
    return f"{number:064x}"


def history(*times: str, tags: dict[str, int] | None = None) -> Ref:
    """Return a ref whose snapshots 0, 1, … were packed at these times."""
    steps = tuple(
        HistoryEntry(digest(number), "pack", time, "u", "h", "/p", "", 1, 1, 1, 1)
        for number, time in enumerate(times)
    )
    named = {tag: digest(number) for tag, number in (tags or {}).items()}
    return Ref(1, "e", steps[-1].snapshot, steps, named)


def kept(environment: Ref, **retention: Any) -> list[int]:
    applied = RetentionPolicy(**retention).apply(environment)
    kept = sorted({int(step.snapshot, 16) for step in applied.history})
    assert applied.current == environment.current
    return kept


def test_an_empty_policy_keeps_everything() -> None:
    environment = history("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", tags={"v1": 0})
    assert RetentionPolicy().apply(environment) == environment


def test_keep_the_last_snapshots() -> None:
    environment = history(*[f"2026-01-0{day}T00:00:00Z" for day in range(1, 6)])
    assert kept(environment, last=2) == [3, 4]
    assert kept(environment, last=99) == [0, 1, 2, 3, 4]
    assert kept(environment, last=0) == [4]


def test_keep_the_last_snapshot_of_each_period() -> None:
    environment = history(
        "2025-12-31T23:00:00Z",
        "2026-01-01T01:00:00Z",
        "2026-01-01T02:00:00Z",
        "2026-01-05T00:00:00Z",
        "2026-02-01T00:00:00Z",
        "2026-02-01T10:00:00Z",
    )
    assert kept(environment, daily=3) == [2, 3, 5]
    assert kept(environment, weekly=3) == [2, 3, 5]  # 2025-12-31 and 2026-01-01 are in one week
    assert kept(environment, monthly=2) == [3, 5]
    assert kept(environment, monthly=3, last=2) == [0, 3, 4, 5]
    assert kept(history("not a time", "neither"), weekly=2) == [0, 1]


def test_a_snapshot_that_became_current_again_counts_once() -> None:
    environment = history(*[f"2026-01-0{day}T00:00:00Z" for day in range(1, 4)])
    back = replace(environment.history[0], time="2026-01-04T00:00:00Z", action="rollback")
    again = replace(environment, history=(*environment.history, back), current=back.snapshot)
    assert kept(again, last=2) == [0, 2]


def test_keep_all_tags_or_those_that_match() -> None:
    environment = history(*[f"2026-01-0{day}T00:00:00Z" for day in range(1, 5)], tags={"v1": 0, "try": 1})
    assert kept(environment, last=1) == [0, 1, 3]
    assert kept(environment, last=1, tags=("v*",)) == [0, 3]
    assert RetentionPolicy(last=1, tags=("v*",)).apply(environment).tags == {"v1": digest(0)}


# --- deletion ---------------------------------------------------------------------------------------------


@pytest.fixture
def packed(machine: Machine) -> tuple[Machine, list[str]]:
    """Return a machine with `data` packed four times, each time with another file, and the snapshot ids."""
    prefix = make_data(machine.envs / "data")
    ids = []
    for number in range(4):
        (prefix / "which").write_bytes(os.urandom(5000 + number))
        ids.append(machine.run_json("pack", "data")["snapshot"])
    return machine, ids


def pages_of(store: Path, snapshot_id: str) -> list[dict[str, Any]]:
    """Return the pages of a snapshot, each with its digest and size."""
    document = json.loads((store / "snapshots" / f"{snapshot_id}.json").read_bytes())
    pages: list[dict[str, Any]] = document["packages"] + document["layers"]
    return pages


def backdate(store: Path, seconds: float) -> None:
    """Make all objects in the store older."""
    for path in store.rglob("*.*"):
        status = path.stat()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - int(seconds * 1e9)))


def test_dry_run_lists_what_would_be_deleted_and_changes_nothing(packed: tuple[Machine, list[str]]) -> None:
    machine, ids = packed
    backdate(machine.store, 2 * DAY)
    before = {path: path.stat().st_mtime_ns for path in machine.store.rglob("*")}
    found = machine.run_json("prune", "--keep-last", 2)
    assert found["dry"]
    assert [each["snapshot"] for each in found["dropped"]] == ids[:2]
    assert {path: path.stat().st_mtime_ns for path in machine.store.rglob("*")} == before
    shown = machine.snapper("prune", "--keep-last", 2).out
    assert "drop 2 history entries, remove 0 tags, and delete 2 snapshots and 2 layers" in shown
    done = machine.run_json("prune", "--keep-last", 2, "--yes")
    assert {**done, "dry": True} == found
    assert sorted(done["snapshots"]) == sorted(ids[:2])
    assert len(done["layers"]) == len(done["pages"]) == 2
    needed = {page["digest"] for each in ids[2:] for page in pages_of(machine.store, each)}
    assert {page.stem for page in page_files(machine.store)} == needed
    assert check_store(machine.store) == {"data": ids[-1]}
    assert [each["snapshot"] for each in machine.run_json("log", "data")["steps"]] == ids[:1:-1]
    machine.expect_error(10, "restore", f"data@{ids[0][:8]}", "--prefix", machine.home / "gone")
    machine.run_json("restore", f"data@{ids[2][:8]}", "--prefix", machine.home / "there")
    assert machine.run_json("prune", "--keep-last", 2, "--yes")["size"] == 0


def test_young_objects_are_kept(packed: tuple[Machine, list[str]]) -> None:
    machine, ids = packed
    done = machine.run_json("prune", "--keep-last", 1, "--yes")
    assert (done["snapshots"], done["layers"]) == ([], [])
    assert done["waiting"] == 3 * 3  # a snapshot, a page and a layer each
    assert done["waiting_size"] > 3 * 5000
    assert len(done["dropped"]) == 3
    assert len(layer_files(machine.store)) > 4
    backdate(machine.store, 23 * 3600)
    assert machine.run_json("prune", "--yes")["snapshots"] == []
    backdate(machine.store, 2 * 3600)
    assert len(machine.run_json("prune", "--yes")["snapshots"]) == 3
    assert check_store(machine.store) == {"data": ids[-1]}


@pytest.mark.parametrize("damaged", ["its own", "another's"])
def test_nothing_is_dropped_if_a_kept_snapshot_is_unreadable(
    damaged: str, packed: tuple[Machine, list[str]]
) -> None:
    """The current snapshot is corrupted: the one before it may be the only one that is left."""
    machine, ids = packed
    machine.run_json("tag", "data", "release")
    machine.run_json("pack", "-p", machine.envs / "data", "--name", "other")
    backdate(machine.store, 2 * DAY)
    file = machine.store / (
        "environments/other.json" if damaged == "another's" else f"snapshots/{ids[-1]}.json"
    )
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    before = {path: path.read_bytes() for path in machine.store.rglob("*.*") if path.name != ".lock"}
    for names in ((), ("data",)):
        machine.expect_error(12, "prune", *names, "--keep-last", 1, "--keep-tag", "none", "--yes")
        after = {path: path.read_bytes() for path in machine.store.rglob("*.*") if path.name != ".lock"}
        assert after == before


def test_dropped_entries_and_tags_are_listed(packed: tuple[Machine, list[str]]) -> None:
    machine, ids = packed
    for tag, snapshot_id in (("stable", ids[0]), ("first", ids[1])):
        machine.run_json("tag", f"data@{snapshot_id}", tag)
    for yes in ((), ("--yes",)):
        outcome = machine.snapper("prune", "--keep-last", 1, "--keep-tag", "st*", *yes)
        assert outcome.code == 0
        assert f"history entry data@{ids[1][:12]}" in outcome.out
        assert f"tag data@first ({ids[1][:12]})" in outcome.out
        assert "stable" not in outcome.out
    assert machine.run_json("list")["environments"][0]["tags"] == {"stable": ids[0]}


def test_retention_applies_to_the_named_environments_only(packed: tuple[Machine, list[str]]) -> None:
    machine, ids = packed
    other = make_data(machine.envs / "other")
    for _ in range(2):
        (other / "which").write_bytes(os.urandom(5000))
        last = machine.run_json("pack", "other")["snapshot"]
    done = machine.run_json("prune", "data", "--keep-last", 1, "--grace", "0s", "--yes")
    assert {each["environment"] for each in done["dropped"]} == {"data"}
    assert len(machine.run_json("log", "other")["steps"]) == 2
    assert check_store(machine.store) == {"data": ids[-1], "other": last}
    machine.run_json("remove", "data", "--yes")
    done = machine.run_json("prune", "--grace", "0s", "--yes")
    assert done["snapshots"] == [ids[-1]]
    assert check_store(machine.store) == {"other": last}
    machine.run_json("restore", "other", "--prefix", machine.home / "again")


def test_invalid_arguments_and_corrupted_stores_are_refused(packed: tuple[Machine, list[str]]) -> None:
    machine, ids = packed
    assert machine.expect_error(2, "prune", "--grace", "soon")["type"] == "UsageError"
    assert machine.expect_error(10, "prune", "nothing", "--keep-last", 1, "--yes")["type"] == "NotInStore"
    (machine.store / "snapshots" / f"{ids[-1]}.json").write_bytes(b"{}")
    before = sorted(machine.store.rglob("*"))
    assert machine.expect_error(12, "prune", "--grace", "0s", "--yes")["type"] == "Corrupted"
    assert sorted(machine.store.rglob("*")) == before
    (machine.store / "environments" / "data.json").write_bytes(b"{}")
    assert machine.expect_error(12, "prune", "--grace", "0s", "--yes")["type"] == "Corrupted"
    assert sorted(machine.store.rglob("*")) == before


@pytest.fixture
def decomposed_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """List names as HFS+ does, and ZFS and network file systems may: decomposed (NFD). Files are found by any form."""
    scandir = os.scandir

    class Entry:
        def __init__(self, entry: os.DirEntry[str]) -> None:
            self.is_dir, self.stat = entry.is_dir, entry.stat
            self.name = unicodedata.normalize("NFD", entry.name)

    def decomposed(directory: int) -> object:
        with scandir(directory) as entries:
            return nullcontext([Entry(entry) for entry in entries])

    monkeypatch.setattr(object_files, "os", SimpleNamespace(**{**vars(os), "scandir": decomposed}))


@pytest.mark.parametrize("name", ["r\u00e9sum\u00e9", "\ud55c\uae00"])
@pytest.mark.usefixtures("decomposed_names")
def test_environments_are_found_where_the_file_system_decomposes_names(name: str, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"), create=True)
    packed = packing.pack(store, make_data(tmp_path / "data"), name, jobs=1)
    assert environment_names(store) == (name,)
    assert not prune(store, RetentionPolicy(), dry=False, grace=-1).snapshots
    assert has_snapshot(store, packed.snapshot_id)
    assert SnapshotSpec.parse(unicodedata.normalize("NFD", name)) == SnapshotSpec(name)


def test_nothing_is_pruned_while_an_entry_may_have_another_name(packed: tuple[Machine, list[str]]) -> None:
    """Another program, such as one that synchronizes directories, has renamed an entry, or the file system has."""
    machine, _ = packed
    entries = machine.store / "environments"
    for name in ("conflict (data).json", "re\u0301sume\u0301.json", "data/old.json"):
        other = entries / name
        other.parent.mkdir(exist_ok=True)
        shutil.copy(entries / "data.json", other)
        shown = name.removesuffix(".json")
        before = sorted(machine.store.rglob("[!.]*.*"))
        for option in ("--json", "--yes"):
            outcome = machine.snapper("prune", "--grace", "0s", "--keep-last", 1, "--json", option)
            assert outcome.code == 12
            assert shown in outcome.json["error"]["message"]
            assert sorted(machine.store.rglob("[!.]*.*")) == before
        assert shown in machine.snapper("list").err
        outcome = machine.snapper("restore", "--all")
        assert outcome.code in (3, 12)
        assert shown in outcome.out + outcome.err
        outcome = machine.snapper("push", "--all", "--to", machine.home / "backup")
        assert outcome.code == 12
        assert shown in outcome.err
        other.unlink()
    assert len(machine.run_json("prune", "--grace", "0s", "--keep-last", 1, "--yes")["dropped"]) == 3


def test_leftovers_of_killed_writers_are_removed(packed: tuple[Machine, list[str]]) -> None:
    machine, ids = packed
    layer = layer_files(machine.store)[0]
    (layer.parent / f".{layer.name[:16]}.0123456789abcdef").write_bytes(b"cut o")
    (machine.store / "environments" / f".data.json.{'0' * 16}").write_bytes(b"{")
    (machine.store / "environments" / ".keep").touch()
    assert machine.run_json("prune", "--yes")["left_over"] == 2
    assert check_store(machine.store, killed=True) == {"data": ids[-1]}
    assert {path.name for path in machine.store.rglob(".*")} == {".keep", ".lock"}


# --- simultaneous packs -----------------------------------------------------------------------------------

OPERATIONS = (
    "read",
    "read_versioned",
    "size",
    "put",
    "replace",
    "list_keys",
    "list_objects",
    "modified",
    "delete",
)
assert all(hasattr(LocalStore, name) for name in OPERATIONS)


@dataclass(frozen=True)
class Interrupted:
    """A store in which something happens before the operation with a certain number, in any process."""

    store: Any
    counter: Path
    at: int
    between: Callable[[], None]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = getattr(self.store, name)
        if name in OPERATIONS:
            with self.counter.open("ab") as file:
                file.write(b".")
                number = file.tell()
            if number == self.at:
                self.between()
        return found

    @property
    def operations(self) -> int:
        return self.counter.stat().st_size if self.counter.exists() else 0


@pytest.fixture
def meeting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Interrupted]]:
    """Return a function that makes a store with a removed environment, `old`, whose layers `new` is about to reuse."""
    monkeypatch.setattr(locks, "_MAX_WAIT", 0)
    prefix = make_data(tmp_path / "data")
    pristine = tmp_path / "pristine"
    store = open_store(str(pristine), create=True)
    packing.pack(store, prefix, "old", jobs=1)
    (prefix / "more").write_text("more")
    packing.pack(store, prefix, "current", jobs=1)
    remove_environment(store, plan_removal(store, "old"))
    shutil.rmtree(prefix / ".snapper")
    (prefix / "more").unlink()

    def make(at: int, between: Callable[[Store], object]) -> Interrupted:
        root = tmp_path / f"store{at}"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(pristine, root)
        plain = open_store(str(root))

        def happen() -> None:
            try:
                outcome = str(between(plain))
            except SnapperError as error:
                outcome = type(error).__name__
            (tmp_path / f"outcome{at}").write_text(outcome)

        counter = tmp_path / f"counter{at}"
        counter.unlink(missing_ok=True)
        return Interrupted(plain, counter, at, happen)

    yield make


def prune_everything(store: Store) -> object:
    prune(store, RetentionPolicy(last=0), dry=False, grace=-1)
    return "pruned"


def test_prune_during_any_operation_of_a_pack(meeting: Callable[..., Interrupted], tmp_path: Path) -> None:
    """Whatever objects the pack found in the store, its snapshot is complete, or the pack has to be repeated."""
    outcomes = set()
    prefix = tmp_path / "data"
    at = 1
    while True:
        store = meeting(at, prune_everything)
        shutil.rmtree(prefix / ".snapper", ignore_errors=True)
        try:
            done = packing.pack(store, prefix, "new", jobs=1)
            ended = "packed"
        except (LayersPruned, StoreLocked) as error:
            ended = type(error).__name__
            done = packing.pack(store.store, prefix, "new", jobs=1)
        assert check_store(tmp_path / f"store{at}")["new"] == done.snapshot_id
        if not (tmp_path / f"outcome{at}").exists():
            break
        outcomes.add(((tmp_path / f"outcome{at}").read_text(), ended))
        prune_everything(store.store)
        assert check_store(tmp_path / f"store{at}")["new"] == done.snapshot_id
        at += 1
    assert at > 10
    assert outcomes == {("pruned", "packed"), ("StoreLocked", "packed")}


def test_pack_during_any_operation_of_a_prune(meeting: Callable[..., Interrupted], tmp_path: Path) -> None:
    prefix = tmp_path / "data"
    outcomes = set()
    at = 1
    while True:
        shutil.rmtree(prefix / ".snapper", ignore_errors=True)
        store = meeting(at, lambda plain: packing.pack(plain, prefix, "new", jobs=1).snapshot_id[:0])
        try:
            prune(store, RetentionPolicy(last=0), dry=False, grace=-1)
            ended = "pruned"
        except StoreLocked:
            ended = "StoreLocked"
        current = check_store(tmp_path / f"store{at}")
        if not (tmp_path / f"outcome{at}").exists():
            break
        happened = (tmp_path / f"outcome{at}").read_text() or "packed"
        assert ("new" in current) == (happened == "packed")
        outcomes.add((happened, ended))
        done = packing.pack(store.store, prefix, "new", jobs=1)
        assert check_store(tmp_path / f"store{at}")["new"] == done.snapshot_id
        at += 1
    assert at > 10
    assert outcomes == {("packed", "pruned"), ("StoreLocked", "pruned")}


def test_pack_reusing_layers_of_an_environment_that_is_pruned_meanwhile(
    meeting: Callable[..., Interrupted], tmp_path: Path
) -> None:
    """Its layers are known from `current`, which is removed and pruned during the pack."""

    def remove_and_prune(store: Store) -> object:
        remove_environment(store, plan_removal(store, "current"))
        return prune_everything(store)

    prefix = tmp_path / "data"
    (prefix / "more").write_text("more")
    ends = set()
    at = 1
    while True:
        store = meeting(at, remove_and_prune)
        shutil.rmtree(prefix / ".snapper", ignore_errors=True)
        try:
            done = packing.pack(store, prefix, "new", jobs=1)
            ends.add("packed")
        except LayersPruned:
            ends.add("gone")
            done = packing.pack(store.store, prefix, "new", jobs=1)
        assert check_store(tmp_path / f"store{at}")["new"] == done.snapshot_id
        if not (tmp_path / f"outcome{at}").exists():
            break
        at += 1
    assert ends == {"packed", "gone"}


# --- locks of dead processes ------------------------------------------------------------------------------


def write_lock(store: Path, name: str, **changed: object) -> Path:
    """Write a lock as a dead process left it, with these fields changed."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    fields = {
        "format": 1,
        "action": "prune" if name == "prune" else "pack",
        "user": "someone",
        "host": socket.gethostname(),
        "machine": boot_id(),
        "pid": ended.pid,
        "started": "1",
        "time": "2026-01-01T00:00:00Z",
        **changed,
    }
    file = store / "locks" / f"{name}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(fields))
    return file


INTENT = f"pack-{'0' * 32}"


def test_locks_of_dead_processes_are_removed(packed: tuple[Machine, list[str]]) -> None:
    machine, _ = packed
    intent = write_lock(machine.store, INTENT)
    lock = write_lock(machine.store, "prune")
    (machine.envs / "data" / "which").write_text("new")
    newest = machine.run_json("pack", "data")["snapshot"]
    assert not lock.exists()
    write_lock(machine.store, "prune")
    assert len(machine.run_json("prune", "--keep-last", 1, "--grace", "0s", "--yes")["dropped"]) == 4
    assert not lock.exists() and not intent.exists()
    assert check_store(machine.store) == {"data": newest}
    assert not list((machine.store / "locks").glob("*.json"))


def test_leftover_trials_are_valid_and_removed(packed: tuple[Machine, list[str]]) -> None:
    machine, _ = packed
    left = machine.store / Layout.new_trial()
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"1")
    machine.run_json("verify")
    machine.run_json("prune", "--yes")
    assert left.exists()
    backdate(machine.store, 2 * 3600)
    machine.run_json("prune", "--yes")
    assert not left.exists()


def test_pack_without_its_intent_publishes_nothing(
    packed: tuple[Machine, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prune may have deleted what its workers wrote, since no intent protected it."""
    machine, ids = packed
    make = snapshot_build.build_snapshot

    def make_and_lose(*arguments: Any) -> Any:
        made = make(*arguments)
        assert made.added
        for lock in (machine.store / "locks").glob("*.json"):
            lock.unlink()
        machine.run_json("prune", "--grace", "0s", "--yes")
        return made

    monkeypatch.setattr(snapshot_build, "build_snapshot", make_and_lose)
    prefix = machine.envs / "data"
    (prefix / "which").write_text("lost")
    with pytest.raises(LeaseExpired):
        packing.pack(open_store(str(machine.store)), prefix, "data", jobs=1)
    assert check_store(machine.store) == {"data": ids[-1]}
    monkeypatch.undo()
    machine.run_json("pack", "data")
    assert machine.run_json("verify", "--data")["problems"] == []


class RecordedNotes(NullProgress):
    """Record the notes to the user."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


HOLDER = f"""
import signal
from snapper.process.identity import marked
with marked({locks._MARK!r}):
    print("ready", flush=True)
    signal.pause()
"""


@pytest.mark.parametrize("step", [3700, -700, 25 * 3600])
def test_locks_of_living_processes_do_not_expire(
    step: int, meeting: Callable[..., Interrupted], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock may be set while they work: at boot, or when a virtual machine is resumed."""
    monkeypatch.setattr(locks, "_MAX_WAIT", 0)
    store = meeting(0, prune_everything).store
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE) as alive:
        assert alive.stdout and alive.stdout.readline()
        holder = {"pid": alive.pid, "started": process_start_time(alive.pid)}
        intent, lock = (write_lock(tmp_path / "store0", name, **holder) for name in (INTENT, "prune"))
        backdate(tmp_path / "store0/locks", step)
        with pytest.raises(StoreLocked, match="locked by a prune"):
            packing.pack(store, tmp_path / "data", "new", jobs=1)
        with pytest.raises(StoreLocked, match="locked by a prune"):
            prune_everything(store)
        lock.unlink()
        with pytest.raises(StoreLocked, match="locked by a pack"):
            prune_everything(store)
        assert intent.exists()
        lock = write_lock(tmp_path / "store0", "prune", **holder)
        alive.kill()
    packing.pack(store, tmp_path / "data", "new", jobs=1)
    assert prune_everything(store) == "pruned"
    assert not intent.exists() and not lock.exists()


def test_locks_that_name_a_process_which_holds_none_expire(
    meeting: Callable[..., Interrupted], tmp_path: Path
) -> None:
    """Whoever may write to the store can name any process, such as the first one of this machine."""
    store = meeting(0, prune_everything).store
    named = {"pid": os.getppid(), "started": process_start_time(os.getppid())}
    intent, lock = (write_lock(tmp_path / "store0", name, **named) for name in (INTENT, "prune"))
    backdate(tmp_path / "store0/locks", 25 * 3600)
    assert prune_everything(store) == "pruned"
    assert not intent.exists() and not lock.exists()


def test_processes_of_other_users_are_not_known_to_hold_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    with marked("held"):
        assert is_marked(os.getpid(), "held") and not is_marked(os.getppid(), "held")
        monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
        assert not is_marked(os.getpid(), "held")
    monkeypatch.undo()
    assert not is_marked(os.getpid(), "held")


def test_prune_that_has_lost_its_lock_deletes_nothing_more(
    meeting: Callable[..., Interrupted], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine has removed it: its clock, or that of the store, was wrong."""
    monkeypatch.setattr(locks, "_CONFIRM_INTERVAL", 0)
    store = meeting(0, prune_everything).store
    monkeypatch.setattr(pruning, "_find_garbage", with_lost_lock(store, pruning._find_garbage))
    before = [*store.list_keys(Layout.SNAPSHOTS), *store.list_keys(Layout.LAYERS)]
    with pytest.raises(LeaseExpired):
        prune_everything(store)
    assert [*store.list_keys(Layout.SNAPSHOTS), *store.list_keys(Layout.LAYERS)] == before


def with_lost_lock(store: Store, find: Callable[..., Any]) -> Callable[..., Any]:
    def find_and_lose(*arguments: Any) -> Any:
        found = find(*arguments)
        assert found.deleted
        store.delete(Layout.PRUNE_LOCK)
        return found

    return find_and_lose


@pytest.mark.parametrize("prefix", [Layout.SNAPSHOTS, Layout.PAGES, Layout.LAYERS])
def test_pack_fails_if_what_it_published_is_missing(
    prefix: str, meeting: Callable[..., Interrupted], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prune that has lost its lock may have deleted it. The next pack stores it again."""
    store = meeting(0, prune_everything).store

    def advance_and_lose(*arguments: Any, **options: Any) -> None:
        advance_ref(*arguments, **options)
        for key in store.list_keys(prefix):
            store.delete(key)

    monkeypatch.setattr(packing, "advance_ref", advance_and_lose)
    with pytest.raises((LayersPruned, LeaseExpired)):
        packing.pack(store, tmp_path / "data", "new", jobs=1)
    monkeypatch.undo()
    packed = packing.pack(store, tmp_path / "data", "new", jobs=1)
    require_layers(store, read_snapshot(store, packed.snapshot_id).layers)


@pytest.mark.parametrize("kind", ["elsewhere", "unreadable"])
def test_locks_that_may_be_held_are_respected_until_they_expire(
    kind: str, packed: tuple[Machine, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, _ = packed
    changes: dict[str, object] = {"machine": "another", "host": "far"}
    intent = write_lock(machine.store, INTENT, **changes)
    if kind == "unreadable":
        intent.write_text("{")
    error = machine.expect_error(11, "prune", "--grace", "0s", "--yes")
    assert error["type"] == "StoreLocked"
    assert ("someone@" in error["message"]) == (kind != "unreadable")
    assert intent.exists()
    backdate(machine.store / "locks", 25 * 3600)
    machine.run_json("prune", "--grace", "0s", "--yes")
    assert not intent.exists()

    monkeypatch.setattr(locks, "_MAX_WAIT", 0)
    lock = write_lock(machine.store, "prune", **changes)
    prefix = machine.envs / "data"
    (prefix / "which").write_text("new")
    told = RecordedNotes()
    with pytest.raises(StoreLocked, match="locked by a prune"):
        packing.pack(open_store(str(machine.store)), prefix, "data", jobs=1, progress=told)
    assert any("waiting for a prune" in note for note in told.notes)
    assert machine.expect_error(11, "prune", "--yes")["type"] == "StoreLocked"
    assert [path.name for path in (machine.store / "locks").glob("*.json")] == ["prune.json"]
    backdate(machine.store / "locks", 3700)
    machine.run_json("pack", "data")
    assert not lock.exists()


@pytest.mark.parametrize("kind", ["link", "large", "deep"])
def test_locks_that_nobody_can_have_written_count_until_they_expire(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path / "store"), create=True)
    intent = tmp_path / "store" / Layout.new_intent()
    prune = tmp_path / "store" / Layout.PRUNE_LOCK
    intent.parent.mkdir()
    contents = {"large": "x" * 1_000_000, "deep": "[" * 4_000, "link": ""}[kind]
    (tmp_path / "elsewhere").write_text(contents)
    for lock in (intent, prune):
        if kind == "link":
            lock.symlink_to(tmp_path / "elsewhere")
        else:
            lock.write_text(contents)
    monkeypatch.setattr(locks, "_MAX_WAIT", 0)
    with pytest.raises(StoreLocked, match="locked by a process: unknown"), locks.prune_lock(store):
        pass
    with pytest.raises(StoreLocked, match="locked by a process: unknown"), pack_intent(store) as declared:
        declared.declare()
    os.utime(prune, (1, 1), follow_symlinks=False)
    with pack_intent(store) as declared:
        declared.declare()
    assert not os.path.lexists(prune)
    with pytest.raises(StoreLocked, match="locked by a process: unknown"), locks.prune_lock(store):
        pass
    times = {"link": 1, "large": 1, "deep": 2**32}  # the last one is in the future
    os.utime(intent, (times[kind], times[kind]), follow_symlinks=False)
    with locks.prune_lock(store):
        assert not intent.is_symlink() and not intent.exists()
    assert (tmp_path / "elsewhere").read_text() == contents
    prune.write_text("{")
    os.utime(prune, (2**32, 2**32))
    with pack_intent(store) as declared:
        declared.declare()
    assert not prune.exists()


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_object_does_not_count_as_a_lock(make: Callable[[Path], None], tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"), create=True)
    lock = tmp_path / "store" / Layout.PRUNE_LOCK
    lock.parent.mkdir()
    make(lock)
    make(tmp_path / "store" / Layout.new_intent())
    with pack_intent(store) as declared:
        declared.declare()
    with locks.prune_lock(store):
        assert lock.is_file()


def test_processes_hidden_from_the_user_are_not_dead() -> None:
    """If /proc shows users only their own processes, locks and waiting kernels treat others as alive."""
    look = """
import os, sys
from snapper.process import identity
os.setgroups([]), os.setgid(65534), os.setuid(65534)
process, started, shells = sys.argv[1], sys.argv[2], sys.argv[3:]
print(os.path.exists(f"/proc/{process}/stat"), identity.is_process_alive(int(process), started))
for shell in shells:
    command = [shell, *(["sh"] if shell == "busybox" else []), "-c", os.environ["LOOK"], "sh", process, started]
    print(os.spawnvp(os.P_WAIT, shell, command) == 0)
"""
    shells = [shell for shell in ("dash", "bash", "busybox", "ksh", "zsh") if shutil.which(shell)]
    own = LAUNCH_SCRIPT_TEMPLATE.partition("snapper_is_alive() {")[2].partition("\n}\n")[0]
    hidden = ["unshare", "-m", "sh", "-c", 'mount -t proc -o hidepid=2 proc /proc && exec "$@"', "sh"]
    able = subprocess.run([*hidden, "true"], capture_output=True, text=True, check=False)
    if able.returncode:
        pytest.skip(f"/proc cannot be mounted so here: {able.stderr.strip()}")
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    for process, alive in ((os.getpid(), True), (ended.pid, False)):
        words = [sys.executable, "-c", look, str(process), process_start_time(os.getpid()), *shells]
        environ = {**os.environ, "LOOK": f'snapper_is_alive() {{{own}\n}}\nsnapper_is_alive "$@"'}
        done = subprocess.run([*hidden, *words], env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["False", *[str(alive)] * (1 + len(shells))]


def test_pack_fails_if_it_takes_longer_than_its_lease(
    packed: tuple[Machine, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, ids = packed
    store = open_store(str(machine.store))
    prefix = machine.envs / "data"
    (prefix / "which").write_text("new")
    now = boottime()
    ticks = iter([now])
    monkeypatch.setattr(locks, "boottime", lambda: next(ticks, now + DAY))
    with pytest.raises(LeaseExpired):
        packing.pack(store, prefix, "data", jobs=1)
    monkeypatch.undo()
    assert check_store(machine.store) == {"data": ids[-1]}
    with pack_intent(store) as intent:
        intent.declare()
        intent.check()
        (machine.store / intent.key).unlink()
        with pytest.raises(LeaseExpired):
            intent.check()


def test_prune_stops_when_it_has_lost_its_lock(
    packed: tuple[Machine, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, ids = packed
    store = open_store(str(machine.store))
    with prune_lock(store) as lock:
        with pytest.raises(StoreLocked), prune_lock(store):
            pass
        lock.check()
        monkeypatch.setattr(locks, "_RENEW_INTERVAL", -1)
        before = (machine.store / "locks" / "prune.json").stat().st_mtime_ns
        lock.check()
        assert (machine.store / "locks" / "prune.json").stat().st_mtime_ns > before
        write_lock(machine.store, "prune", machine="another")
        with pytest.raises(LeaseExpired):
            lock.check()
    assert (machine.store / "locks" / "prune.json").exists()
    assert pruning.prune(store, RetentionPolicy(last=1), dry=True, grace=-1).snapshots == tuple(
        sorted(ids[:3])
    )
