"""Commands about an environment's history: log, diff, status, tag, rollback, remove."""

from __future__ import annotations

import getpass
import os
import pty
import shutil
import socket
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scripts.maker import change, make
from tests.conftest import Machine, tree_of
from tests.support.environments import make_data
from tests.support.stores import check_store, edit_ref, snapshot_document
from tests.support.users import unprivileged

ESCAPES = "\x1b]0;owned\x07\x1b[31mred"


def add_distribution(prefix: Path, name: str, version: str) -> None:
    """Write what `pip install` leaves of a package without code."""
    metadata = prefix / "lib" / f"{name}-{version}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\n")
    (metadata / "RECORD").write_text(f"{metadata.name}/METADATA,,\n{metadata.name}/RECORD,,\n")


def names(changes: dict[str, list[dict[str, str]]]) -> dict[str, list[str]]:
    """Return the changes in a short form."""
    return {
        kind: [f"{each['manager']} {each['name']} {each['before']}>{each['after']}" for each in listed]
        for kind, listed in changes.items()
    }


def test_package_changes_in_log_diff_and_status(machine: Machine) -> None:
    """Packages of conda and pip are added, removed and changed; another copy of the environment is not affected."""
    prefix = machine.envs / "work"
    make("tiny", prefix, bytecode=False)
    change(prefix, install=["six", "click ==8.1.7"], bytecode=False)
    first = machine.run_json("pack", "work")
    assert machine.run_json("status", "work")["environments"][0]["condition"] == "unchanged"
    change(prefix, install=["tabulate", "click >8.1.7"], remove=["six"], bytecode=False)
    add_distribution(prefix, "Some.Thing", "1.0")
    (click,) = [path.name for path in (prefix / "conda-meta").glob("click-*.json")]
    (tabulate,) = [path.name for path in (prefix / "conda-meta").glob("tabulate-*.json")]
    now = {
        "added": ["pip Some.Thing >1.0", f"conda tabulate >{tabulate.split('-')[1]}"],
        "removed": [f"conda six {six_version(first)}>"],
        "changed": [f"conda click 8.1.7>{click.split('-')[1]}"],
    }

    (drifted,) = machine.run_json("status", "work")["environments"]
    assert drifted["condition"] == "changed"
    assert names(drifted["packages"]) == now
    assert f"conda-meta/{tabulate}" in drifted["drift"]["added"]
    assert names(machine.run_json("diff", "work")["packages"]) == now

    second = machine.run_json("pack", "work", "--message", f"more {ESCAPES}")
    newest, oldest = machine.run_json("log", "work")["steps"]
    assert oldest["changes"] is None
    assert names(newest["changes"]) == now
    assert newest["user"], newest["host"] == (getpass.getuser(), socket.gethostname())
    assert newest["added_size"] == second["added_size"] > 0
    assert newest["prefix"] == str(prefix)
    assert newest["current"] and not oldest["current"]
    assert machine.run_json("log", "work", "-n", 1)["steps"] == [newest]
    assert names(machine.run_json("diff", "work@~1", "work")["packages"]) == now
    backwards = names(machine.run_json("diff", "work", "work@~1")["packages"])
    assert backwards["removed"] == [each.replace(">", "") + ">" for each in now["added"]]

    plain = machine.snapper("log", "work").out
    assert "\x1b" not in plain
    assert "more \\x1b]0;owned" in plain
    assert "+ Some.Thing 1.0 (pip)" in plain


def six_version(packed: dict[str, Any]) -> str:
    snapshot = snapshot_document(Path(packed["store"]), packed["snapshot"])
    return str(next(each["version"] for each in snapshot["packages"] if each["name"] == "six"))


@pytest.fixture
def two(machine: Machine) -> tuple[Machine, Path, str, str]:
    """Return a machine with `data`, packed twice: with a file changed, one removed, and one added."""
    prefix = make_data(machine.envs / "data")
    return machine, prefix, *pack_twice(machine, prefix)


def pack_twice(machine: Machine, prefix: Path, change: Callable[[], None] = lambda: None) -> tuple[str, str]:
    """Pack, remove a file, add one, change one, make another change, and pack again; return the snapshots."""
    (prefix / "goes").write_text("away")
    first = machine.run_json("pack", "data")["snapshot"]
    (prefix / "goes").unlink()
    (prefix / "comes").symlink_to("elsewhere")
    (prefix / "share/textdata/config.ini").write_text("altered")
    change()
    return first, machine.run_json("pack", "data")["snapshot"]


def test_changed_files_in_diff(machine: Machine) -> None:
    """Changes are shown between two snapshots, and to the environment on disk, with its index and without."""
    prefix = make_data(machine.envs / "data")
    large = prefix / "large.bin"
    large.write_bytes(b"begin")
    os.truncate(large, 130 * 1024 * 1024)
    linked, copied = prefix / "linked", prefix / "copied"
    for path in (linked, copied):
        path.write_text(path.name)
        os.link(path, prefix / f"{path.name}-again")

    def change() -> None:
        os.truncate(large, 65 * 1024 * 1024)
        linked.write_text("both names have it")
        copied.unlink()
        copied.write_text("copied")

    first, _ = pack_twice(machine, prefix, change)
    changed = ["large.bin", "linked", "linked-again", "share/textdata/config.ini"]
    files = {"added": ["comes"], "removed": ["goes"], "changed": changed}

    def found(*arguments: object) -> object:
        return machine.run_json("diff", *arguments, "--files")["files"]

    assert found("data@~1", "data") == files
    assert found("data", "data@~1") == {**files, "added": ["goes"], "removed": ["comes"]}
    document = machine.run_json("diff", "data@~1", "data")
    assert document["files"] is None
    assert document["altered"]["added"] == ["share/textdata/config.ini"]

    assert found("data") == {"added": [], "removed": [], "changed": []}
    (prefix / "comes").unlink()
    (prefix / "mine").write_text("mine")
    here = {"added": ["mine"], "removed": ["comes"], "changed": []}
    assert found("data") == here
    shutil.rmtree(prefix / ".snapper")
    assert found("data") == here
    elsewhere = machine.home / "elsewhere"
    machine.run_json("restore", f"data@{first[:8]}", "--prefix", elsewhere)
    assert found("data", "--prefix", elsewhere) == {**files, "added": ["goes"], "removed": ["comes"]}
    plain = machine.snapper("diff", "data", "--files")
    assert "+ mine" in plain.out and "- comes" in plain.out


def test_rollback_step_by_step(two: tuple[Machine, Path, str, str], new_machine: Any) -> None:
    machine, prefix, first, second = two
    (prefix / "third").write_text("third")
    third = machine.run_json("pack", "data")["snapshot"]
    (prefix / "mine").write_text("not packed")
    error = machine.expect_error(11, "rollback", "data")
    assert error["type"] == "TargetOccupied"
    assert machine.run_json("show", "data")["snapshot"] == third
    (prefix / "mine").unlink()

    done = machine.run_json("rollback", "data", "-m", "broken")
    assert (done["before"], done["snapshot"], done["unchanged"]) == (third, second, False)
    assert not (prefix / "third").exists()
    assert machine.run_json("status", "data")["environments"][0]["condition"] == "unchanged"
    newest = machine.run_json("log", "data")["steps"][0]
    assert (newest["action"], newest["message"], newest["added_size"]) == ("rollback", "broken", 0)
    assert newest["prefix"] == str(prefix)
    assert done["seconds"] > 0
    assert machine.run_json("show", "data@~1")["snapshot"] == first
    assert "has 1 snapshot before the current one" in machine.expect_error(10, "show", "data@~2")["message"]
    packed = next(step for step in machine.run_json("log", "data")["steps"][1:] if step["snapshot"] == second)
    assert packed["time"].replace("T", " ").removesuffix("Z") in machine.snapper("list").out

    other = new_machine("two")
    assert other.run_json("restore", "data", "--envs-dir", other.envs)["restored"][0]["snapshot"] == second
    assert other.run_json("rollback", "data", "--store-only")["snapshot"] == first
    assert (other.envs / "data" / "comes").is_symlink()
    error = machine.expect_error(10, "rollback", "data")
    assert error["type"] == "NoEarlierSnapshot"
    (behind,) = machine.run_json("status", "data")["environments"]
    assert (behind["current"], behind["condition"]) == (first, "unchanged")
    assert machine.run_json("rollback", "data", third[:8])["snapshot"] == third
    assert (prefix / "third").exists()
    assert machine.run_json("rollback", "data", third)["unchanged"]
    assert check_store(machine.store) == {"data": third}
    assert [each["action"] for each in machine.run_json("log", "data")["steps"]][::-1] == [
        *["pack"] * 3,
        *["rollback"] * 3,
    ]


def test_rollback_of_a_base_environment(machine: Machine) -> None:
    """What is in its directory but not part of it stays: other environments, and the package cache."""
    prefix = make_data(machine.home / "miniconda")
    for file in ("pkgs/urls.txt", "pkgs/cached", "envs/other/conda-meta/history", "envs/other/precious"):
        (prefix / file).parent.mkdir(parents=True, exist_ok=True)
        (prefix / file).write_text(file)
    machine.run_json("pack", "-p", prefix, "--name", "base")
    (prefix / "new").write_text("new")
    machine.run_json("pack", "-p", prefix, "--name", "base")
    before = tree_of(prefix)
    machine.run_json("rollback", "base", "--prefix", prefix)
    assert tree_of(prefix) == {path: entry for path, entry in before.items() if path != "new"}


def test_rollback_is_copied_to_other_stores(machine: Machine, tmp_path: Path) -> None:
    """A rollback is a history entry like others: it is copied, and does not change a store that has newer entries."""
    prefix, other = make_data(machine.envs / "data"), tmp_path / "other"

    def pack(text: str, store: Path) -> str:
        (prefix / "mine").write_text(text)
        return str(machine.run_json("pack", "data", "--store", store)["snapshot"])

    def push(source: Path, target: Path, name: str = "data") -> bool:
        (copied,) = machine.run_json("push", name, "--store", source, "--to", target)["copied"]
        return not copied["present"]

    first = pack("first", machine.store)
    assert machine.expect_error(10, "push", "data", "dta", "--to", other)["type"] == "NotInStore"
    assert not other.exists()
    assert push(machine.store, other)
    pack("second", machine.store)
    assert push(machine.store, other)
    assert machine.run_json("rollback", "data", "--store-only")["snapshot"] == first
    assert push(machine.store, other)
    assert check_store(other) == {"data": first}
    assert machine.run_json("log", "data", "--store", other)["steps"][0]["action"] == "rollback"
    assert not push(machine.store, other)

    third = pack("third", other)
    assert not push(machine.store, other)
    assert check_store(other) == {"data": third}
    assert push(other, machine.store)
    machine.expect_error(10, "show", "data@~2")
    assert not push(other, machine.store, "data@~1")
    assert check_store(machine.store) == {"data": third}

    pack("fourth", other)
    machine.run_json("rollback", "data", "--store-only", "-m", "not in the same second as the other")
    error = machine.expect_error(11, "push", "data", "--to", other)
    assert error["type"] == "Diverged"

    machine.run_json("pack", "-p", machine.envs / "data", "--name", "zebra")
    (machine.store / "environments" / "broken.json").write_text("{}")
    outcome = machine.snapper("push", "--all", "--to", other, "--json")
    assert outcome.code == 12, outcome
    assert [each["environment"] for each in outcome.json["copied"]] == ["zebra"]
    failed = {each["environment"]: each["type"] for each in outcome.json["failed"]}
    assert failed == {"broken": "Corrupted", "data": "Diverged"}
    assert machine.snapper("push", "--all", "--to", other).code == 12


def test_compiled_modules_without_sources_are_files_of_the_user(machine: Machine) -> None:
    """Unlike those in __pycache__, they are packed and compared."""
    prefix = make_data(machine.envs / "data")
    site = prefix / "lib" / "python3.11" / "site-packages"
    (site / "__pycache__").mkdir(parents=True)
    for name in ("module.py", "core.pyc", "__pycache__/gone.cpython-311.pyc"):
        (site / name).write_bytes(b"one")
    first = machine.run_json("pack", "data")["snapshot"]
    (site / "module.py").write_bytes(b"another")
    machine.run_json("pack", "data")
    for name in (
        "module.cpython-311.pyc",
        "module.cpython-311.opt-1.pyc",
        "module.cpython-311-pytest-8.3.2.pyc",
    ):
        (site / "__pycache__" / name).write_bytes(b"made by Python")
    (status,) = machine.run_json("status", "-p", prefix)["environments"]
    assert status["condition"] == "unchanged"
    for name in ("core.pyc", "__pycache__/gone.cpython-311.pyc", "new.pyc"):
        (site / name).write_bytes(b"two, or three")
        (status,) = machine.run_json("status", "-p", prefix)["environments"]
        assert status["condition"] == "changed", name
        machine.expect_error(11, "restore", f"data@{first[:8]}", "-p", prefix)
        machine.run_json("pack", "data")
    assert machine.run_json("verify", "-p", prefix)["different"] == []
    (site / "extra.pyc").write_bytes(b"extra")
    found = machine.snapper("verify", "-p", prefix, "--json")
    assert (found.code, len(found.json["different"])) == (12, 1)


def test_tags_name_the_same_snapshot_until_they_are_moved(two: tuple[Machine, Path, str, str]) -> None:
    machine, _, first, second = two
    assert machine.run_json("tag", "data@~1", "v1")["snapshot"] == first
    assert machine.run_json("tag", "data@~1", "v1")["before"] == first
    error = machine.expect_error(11, "tag", "data", "v1")
    assert error["type"] == "TagExists"
    assert first[:12] in error["message"]
    assert machine.run_json("show", "data@v1")["snapshot"] == first
    assert machine.run_json("tag", "data", "v1", "--move")["before"] == first
    assert machine.run_json("show", "data@v1")["snapshot"] == second
    assert machine.run_json("log", "data")["steps"][0]["tags"] == ["v1"]
    for name in ("../v", "", "a" * 200, "beef", "x/y"):
        assert machine.expect_error(2, "tag", "data", name)["type"] == "UsageError"
    assert machine.expect_error(10, "tag", "data", "v2", "--delete")["type"] == "NotInStore"
    machine.run_json("tag", "data", "v1", "--delete")
    machine.expect_error(10, "show", "data@v1")
    machine.expect_error(2, "tag", "data@~1", "v1", "--delete")
    check_store(machine.store)


def test_tags_in_an_entry_cannot_stand_for_an_id(two: tuple[Machine, Path, str, str]) -> None:
    machine, _, first, second = two

    def forge(entry: dict[str, Any]) -> None:
        entry["tags"] = {first: second, first[:12]: second, "beef": second}

    edit_ref(machine.store, "data", forge)
    assert machine.run_json("show", f"data@{first}")["snapshot"] == first
    assert machine.run_json("show", f"data@{first[:12]}")["snapshot"] == first
    machine.expect_error(10, "show", "data@beef")


def test_remove_asks_for_confirmation(two: tuple[Machine, Path, str, str]) -> None:
    machine, prefix, _, _ = two
    before, here = tree_of(machine.store), tree_of(prefix)
    error = machine.expect_error(2, "remove", "data")
    assert "--yes" in error["hint"]
    assert "2 snapshots" in error["message"]
    code, asked = answer(machine, "n")
    assert code == 1
    assert "Remove data and its history" in asked
    assert "Nothing was removed." in asked
    assert tree_of(machine.store) == before
    code, _ = answer(machine, "y")
    assert code == 0
    assert machine.run_json("list")["environments"] == []
    machine.expect_error(10, "remove", "data", "--yes")
    assert tree_of(prefix) == here
    assert check_store(machine.store) == {}
    machine.run_json("pack", "data")


def answer(machine: Machine, text: str) -> tuple[int, str]:
    """Run `snapper remove data` on a terminal and answer its question; return the exit code and the output."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        machine.command("remove", "data"),
        env=machine.variables,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = b""
    try:
        while data := os.read(ours, 1024):
            shown += data
            if shown.endswith(b"[y/N]: "):
                os.write(ours, text.encode() + b"\n")
    except OSError:  # the terminal of a process that has ended
        pass
    os.close(ours)
    return process.wait(60), shown.decode()


def test_corrupted_entries_can_be_removed(two: tuple[Machine, Path, str, str]) -> None:
    machine = two[0]
    (machine.store / "environments" / "data.json").write_text("{")
    machine.expect_error(12, "log", "data")
    machine.run_json("remove", "data", "--yes")
    assert check_store(machine.store) == {}


def test_log_of_a_history_with_a_missing_snapshot(two: tuple[Machine, Path, str, str]) -> None:
    machine, _, first, _ = two
    (machine.store / "snapshots" / f"{first}.json").unlink()
    newest, _ = machine.run_json("log", "data")["steps"]
    assert newest["changes"] is None
    assert newest["error"]["type"] == "NotInStore"
    machine.expect_error(10, "rollback", "data")
    assert "changes unknown" in machine.snapper("log", "data").out


def test_status_and_restore_agree(machine: Machine, tmp_path: Path) -> None:
    """They agree on environments packed under another name, packed to another store, or no longer known to conda."""
    prefix, other = make_data(machine.envs / "data"), tmp_path / "other"
    first = machine.run_json("pack", "data")["snapshot"]
    machine.run_json("pack", "data", "--name", "twin")
    assert machine.run_json("status", "twin")["environments"][0]["prefix"] == str(prefix)
    twin, same = machine.run_json("status")["environments"][::-1]
    assert [(each["environment"], each["prefix"], each["condition"]) for each in (twin, same)] == [
        ("twin", str(prefix), "unchanged"),
        ("data", str(prefix), "unchanged"),
    ]
    assert machine.run_json("restore", "data")["restored"][0]["present"]

    (prefix / "mine").write_text("mine")
    second = machine.run_json("pack", "data", "--name", "twin")["snapshot"]
    status = machine.snapper("status", "--json")
    told = {each["environment"]: each for each in status.json["environments"]}
    assert (status.code, told["twin"]["snapshot"], told["twin"]["stored"]) == (3, second, True)
    assert told["data"]["error"] == machine.expect_error(11, "restore", "data")
    assert f"snapper pack -p {prefix} --name twin" in told["data"]["error"]["hint"]

    (prefix / "mine").write_text("for another store")
    machine.run_json("pack", "data", "--store", other)
    (here,) = (each for each in machine.run_json("status")["environments"] if each["environment"] == "data")
    assert (here["current"], here["stored"]) == (first, False)
    empty = tmp_path / "yet another"
    machine.run_json("push", "twin", "--to", empty)
    assert f"snapper pack -p {prefix} --store '{empty}'" in machine.snapper("status", "--store", empty).out
    assert "which is not in the store" in machine.expect_error(11, "restore", "data")["message"]
    assert f"snapper restore data -p {prefix} --replace" in machine.snapper("status").out
    machine.run_json("restore", "data", "--prefix", prefix, "--replace")
    assert machine.run_json("status", "data")["environments"][0]["stored"]

    outside = machine.home / "outside" / "data"
    machine.run_json("restore", "data", "--prefix", outside)
    (machine.home / ".conda" / "environments.txt").unlink()
    (found,) = machine.run_json("status", CONDA_ENVS_PATH="", SNAPPER_ENVS_DIR=str(outside.parent))[
        "environments"
    ][:1]
    assert (found["environment"], found["prefix"], found["condition"]) == ("data", str(outside), "unchanged")


def test_status_of_all_environments(two: tuple[Machine, Path, str, str], new_machine: Any) -> None:
    machine, prefix, _, second = two
    make_data(machine.envs / "never")
    machine.run_json("restore", "data", "--prefix", machine.envs / "copy")
    (machine.envs / "copy" / "mine").write_text("mine")
    found = machine.run_json("status")["environments"]
    assert [(each["prefix"], each["condition"]) for each in found] == [
        (str(machine.envs / "copy"), "changed"),
        (str(prefix), "unchanged"),
    ]
    (never,) = machine.run_json("status", "never")["environments"]
    assert (never["condition"], never["snapshot"]) == ("unknown", None)
    assert machine.expect_error(10, "status", "nowhere")["type"] == "EnvironmentNotFound"

    fresh = new_machine("fresh")
    there = {"SNAPPER_ENVS_DIR": str(fresh.envs)}
    (absent,) = fresh.run_json("status", **there)["environments"]
    assert (absent["environment"], absent["condition"], absent["current"]) == ("data", "absent", second)
    assert fresh.run_json("status", "data", **there)["environments"] == [absent]
    assert "snapper restore data" in fresh.snapper("status", **there).out
    make_data(fresh.envs / "data")
    in_the_way = fresh.expect_error(11, "restore", "data", **there)
    outcome = fresh.snapper("status", "--json", **there)
    assert (outcome.code, outcome.json["environments"][0]["error"]) == (3, in_the_way)

    edit_ref(machine.store, "data", lambda document: document.update(format=99))
    assert machine.snapper("status", "--json").code == 3
    outcome = machine.snapper("status", "--store", machine.home / "nothing", "--json")
    assert outcome.code == 3
    assert outcome.json["store_error"]["type"] == "NotAStore"
    assert outcome.json["environments"][0]["condition"] == "changed"


def test_pack_says_whose_snapshot_it_replaces(
    machine: Machine, new_machine: Callable[[str], Machine]
) -> None:
    """Two users restore one snapshot and pack one after the other; the second pack does not build on the first."""
    prefix = make_data(machine.envs / "data")
    assert machine.run_json("pack", "data")["first"]
    other = replace(new_machine("other"), store=machine.store)
    other.run_json("restore", "data", "--envs-dir", other.envs)
    (prefix / "mine").write_text("mine")
    mine = machine.run_json("pack", "data")
    assert (mine["first"], mine["replaced"]) == (False, None)
    outcome = other.snapper("pack", "data")  # unchanged: this must not take back what was published since
    assert outcome.code == 0
    assert f"the store has {mine['snapshot'][:12]}, which is newer" in outcome.err
    assert machine.run_json("log", "data")["steps"][0]["snapshot"] == mine["snapshot"]
    (other.envs / "data" / "theirs").write_text("theirs")
    outcome = other.snapper("pack", "data")
    assert outcome.code == 0
    assert mine["snapshot"][:12] in outcome.err and "snapper rollback data" in outcome.err
    assert [each["snapshot"] for each in machine.run_json("log", "data")["steps"]][1] == mine["snapshot"]
    (prefix / "mine").write_text("mine again")
    assert machine.run_json("pack", "data")["replaced"]["user"]
    assert machine.run_json("pack", "data")["replaced"] is None


def test_status_warns_of_a_missing_store(machine: Machine) -> None:
    assert machine.snapper("status").code == 0  # it has not been created yet
    make_data(machine.envs / "data")
    machine.run_json("pack", "data")
    machine.store.rename(machine.home / "elsewhere")
    outcome = machine.snapper("status", "--json")
    assert (outcome.code, outcome.json["store_error"]["type"]) == (3, "NotAStore")
    assert outcome.json["environments"][0]["condition"] == "unchanged"
    assert "this is its first environment" in machine.snapper("pack", "data").out


def test_rollback_refused_by_the_store_says_what_was_done(machine: Machine) -> None:
    prefix = make_data(machine.envs / "data")
    first = machine.run_json("pack", "data")["snapshot"]
    (prefix / "more").write_text("more")
    machine.run_json("pack", "data")
    user = unprivileged(machine)
    (machine.store / "environments").chmod(0o555)
    outcome = user.snapper("rollback", "data")
    (machine.store / "environments").chmod(0o755)
    assert outcome.code == 13
    assert f"{prefix} was restored to {first[:12]}, but the store was not changed" in outcome.err
    for top in ("layers", "pages", "environments", "locks"):
        (machine.store / top).mkdir(exist_ok=True)
        (machine.store / top).chmod(0o555)
    lines = user.snapper("doctor", "--store", machine.store).out.splitlines()
    answers = [line.rpartition(": ")[2] for line in lines if "add" in line or "update" in line]
    assert answers
    assert "allowed" not in answers
    for top in ("layers", "pages", "environments", "locks"):
        (machine.store / top).chmod(0o755)
