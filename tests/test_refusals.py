"""Invalid input is refused with a one-sentence message, a hint, and an exit code, and nothing is lost."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest

import snapper
from snapper.errors import NotAnEnvironment, TargetOccupied
from tests.conftest import Machine, tree_of, without_run_records
from tests.support.commands import start_blocked_pack
from tests.support.environments import forget_state, make_data
from tests.support.stores import check_store, edit_ref, layer_files, snapshot_document, write_snapshot
from tests.support.users import Unprivileged, unprivileged

ESCAPES = "\x1b]0;owned\x07\x1b[31mred"


class Packed(NamedTuple):
    """A store with two snapshots of the environment `data`, created once; tests work on copies."""

    store: Path
    snapshots: tuple[str, str]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    top = tmp_path_factory.mktemp("packed")
    machine = Machine(top / "home", top / "home" / "envs", top / "store")
    prefix = make_data(machine.envs / "data")
    first = machine.run_json("pack", "data")["snapshot"]
    (prefix / "notes.txt").write_text("The second snapshot has this.\n")
    second = machine.run_json("pack", "data")["snapshot"]
    shutil.rmtree(machine.home)
    return Packed(machine.store, (first, second))


@pytest.fixture
def stocked(packed: Packed, machine: Machine) -> Machine:
    """A machine with its own copy of that store and no environment."""
    shutil.copytree(packed.store, machine.store)
    return machine


@pytest.fixture
def restored(stocked: Machine) -> Path:
    """The environment of that store, restored on the machine `stocked`."""
    return restore(stocked, "data")


def restore(machine: Machine, reference: str) -> Path:
    (document,) = machine.run_json("restore", reference, "--envs-dir", machine.envs)["restored"]
    return Path(document["prefix"])


@pytest.fixture
def other_user(machine: Machine) -> Unprivileged:
    return unprivileged(machine)


Refused = Callable[..., dict[str, str]]


@pytest.fixture
def refused(machine: Machine) -> Refused:
    """Run `machine.expect_error` and check that it has changed nothing in the home directory and the store.

    With `brief`, run the command only once, with --json; other tests check the text output.
    """

    def run(code: int, *arguments: object, brief: bool = False, **variables: str) -> dict[str, str]:
        home, store = without_run_records(tree_of(machine.home)), tree_of(machine.store)
        if brief:
            outcome = machine.snapper(*arguments, "--json", **variables)
            assert outcome.code == code, outcome
            error: dict[str, str] = outcome.json["error"]
            assert error["message"].isprintable()
        else:
            error = machine.expect_error(code, *arguments, **variables)
        assert error["hint"], error
        assert without_run_records(tree_of(machine.home)) == home
        left = tree_of(machine.store)
        assert left == store or (not store and left.keys() == {"snapper.json"})
        return error

    return run


# --- pack: the environment --------------------------------------------------------------------------------


def test_pack_refuses_a_directory_that_is_not_an_environment(machine: Machine, refused: Refused) -> None:
    plain = machine.home / "plain"
    plain.mkdir()
    (plain / "file").write_text("mine")
    assert "conda-meta" in refused(10, "pack", "-p", plain)["message"]
    assert "conda-meta" in refused(10, "pack", "-p", plain / "file")["message"]
    refused(10, "pack", "-p", machine.home / "missing")
    assert not machine.store.exists()


def test_pack_refuses_an_unknown_name(machine: Machine, refused: Refused) -> None:
    error = refused(10, "pack", "nowhere")
    assert "'nowhere'" in error["message"]
    assert str(machine.envs) in error["hint"]
    assert not machine.store.exists()


def test_pack_refuses_an_ambiguous_name(machine: Machine, refused: Refused) -> None:
    directories = ("one; $(id)", "two")
    for directory in directories:
        (machine.home / directory / "twin" / "conda-meta").mkdir(parents=True)
    (machine.home / ".conda").mkdir(exist_ok=True)
    listed = "".join(f"{machine.home / directory / 'twin'}\n" for directory in directories)
    (machine.home / ".conda" / "environments.txt").write_text(listed)
    error = refused(11, "pack", "twin")
    for directory in directories:
        assert str(machine.home / directory / "twin") in error["message"]
    assert f"-p '{machine.home / directories[0] / 'twin'}'" in error["hint"]  # to be pasted into a shell


@pytest.mark.parametrize(
    "arguments",
    [
        ("pack",),
        ("pack", "data", "-p", "somewhere"),
        ("pack", "data", "--jobs", "0"),
        ("pack", "data", "--level", "99"),
        ("pack", "data", "--nonsense"),
        ("restore",),
        ("restore", "data", "--all"),
        ("restore", "data", "other", "--prefix", "somewhere"),
        ("restore", "data", "--prefix", "somewhere", "--envs-dir", "elsewhere"),
        ("show", "data", "--explicit", "--yaml"),
        ("nonsense",),
    ],
    ids=" ".join,
)
def test_invalid_command_lines_are_usage_errors(arguments: tuple[str, ...], refused: Refused) -> None:
    refused(2, *arguments, brief=arguments[0] != "nonsense")


@pytest.mark.parametrize("name", ["a/b", "..", "a b", ESCAPES, "a" * 300, "\udcff"], ids=ascii)
def test_pack_refuses_an_invalid_name(name: str, machine: Machine, refused: Refused) -> None:
    error = refused(2, "pack", name, brief=True)
    assert "is not a valid environment name" in error["message"]
    assert "--prefix" in error["hint"]
    assert error["message"].isprintable()
    assert not machine.store.exists()


def test_every_command_checks_names(machine: Machine, refused: Refused) -> None:
    prefix = make_data(machine.envs / "data")
    for arguments in (("restore", "a/b"), ("show", "../b"), ("pack", "-p", prefix, "--name", ".hidden")):
        assert "is not a valid environment name" in refused(2, *arguments)["message"]
    assert not machine.store.exists()


def test_no_arguments_print_the_help(machine: Machine) -> None:
    outcome = machine.snapper()
    assert outcome.out.startswith("Usage: ") and "restore" in outcome.out


def test_a_directory_with_an_invalid_name_is_packed_under_another_name(
    machine: Machine, refused: Refused
) -> None:
    prefix = make_data(machine.home / "my env")
    assert "--name" in refused(2, "pack", "-p", prefix)["hint"]
    assert machine.run_json("pack", "-p", prefix, "--name", "mine")["environment"] == "mine"


def test_a_relative_directory_is_packed_under_its_real_name(machine: Machine) -> None:
    make_data(machine.envs / "data")
    assert machine.run_json("pack", "-p", "envs/data/bin/..")["environment"] == "data"


def test_control_characters_of_paths_are_escaped(machine: Machine) -> None:
    plain = machine.home / ESCAPES
    plain.mkdir()
    outcome = machine.snapper("pack", "-p", plain, "--name", "plain")
    assert outcome.code == 10
    assert "\x1b" not in outcome.err + outcome.out
    assert "\\x1b[31mred" in outcome.err


@pytest.mark.parametrize(
    "hidden", ["share/textdata/config.ini", "share/textdata", "conda-meta", "mine/notes.txt"]
)
def test_pack_refuses_files_it_cannot_read(hidden: str, other_user: Unprivileged) -> None:
    prefix = make_data(other_user.envs / "data")
    (prefix / "mine").mkdir()
    (prefix / "mine" / "notes.txt").write_text("mine")
    (prefix / hidden).chmod(0)
    error = other_user.expect_error(1, "pack", "data")
    assert f"cannot read {prefix / hidden}" in error["message"]
    assert str(prefix / hidden) in error["hint"]
    assert not (other_user.store / "environments").exists()
    assert not (other_user.store / "snapshots").exists()
    (prefix / hidden).chmod(0o755)
    other_user.run_json("pack", "data")
    check_store(other_user.store)


def test_pack_refuses_a_record_it_cannot_read(other_user: Unprivileged) -> None:
    prefix = make_data(other_user.envs / "data")
    (record,) = (prefix / "conda-meta").glob("textdata-*.json")
    record.chmod(0)
    assert f"cannot read {record}" in other_user.expect_error(1, "pack", "data")["message"]


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"[]", b"{}", b"\xff\xfe\x00", b"[" * 100_000),
        b'{"name": "x", "version": "1", "files": 5}',
        None,
    ],
    ids=lambda content: ascii(content)[:20],
)
def test_pack_refuses_a_corrupted_record(content: bytes | None, machine: Machine, refused: Refused) -> None:
    record = machine.envs / "data" / "conda-meta" / "broken-1.0-0.json"
    record.parent.mkdir(parents=True)
    if content is None:
        record.mkdir()
    else:
        record.write_bytes(content)
    error = refused(1, "pack", "data", brief=True)
    assert str(record) in error["message"]
    assert "'int' object" not in error["message"]


def test_pack_follows_a_symlink_to_the_records(machine: Machine) -> None:
    prefix = make_data(machine.envs / "data")
    (prefix / "conda-meta").rename(prefix / "elsewhere")
    (prefix / "conda-meta").symlink_to("elsewhere")
    machine.run_json("pack", "data")
    before = tree_of(prefix)
    shutil.rmtree(prefix)
    machine.run_json("restore", "data", "--prefix", prefix)
    assert tree_of(prefix) == before


def append(file: Path) -> None:
    with file.open("ab") as out:
        out.write(b"more")


def touch(file: Path) -> None:
    os.utime(file, ns=(1, 1))


def replace_by_twin(file: Path) -> None:
    twin = file.with_name("twin")
    shutil.copy2(file, twin)
    twin.rename(file)


def become_directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


def become_link(file: Path) -> None:
    file.rename(file.with_name("aside"))
    file.symlink_to("aside")


RELOCATED, PACKAGED, MINE = "bin/textdata-home", "share/textdata/numbers.bin", "mine.bin"


@pytest.mark.parametrize(
    ("change", "path"),
    [
        *((append, PACKAGED), (touch, PACKAGED), (Path.unlink, PACKAGED), (become_link, PACKAGED)),
        *((append, RELOCATED), (replace_by_twin, RELOCATED)),
        *((append, MINE), (become_directory, MINE)),
    ],
)
def test_pack_refuses_a_file_that_changes_while_it_is_read(
    change: Callable[[Path], None], path: str, machine: Machine
) -> None:
    prefix = make_data(machine.envs / "data")
    (prefix / "mine.bin").write_bytes(bytes(10))
    running, held = start_blocked_pack(machine, prefix, "data", "--json")
    change(prefix / path)
    os.close(held)
    outcome = running.finish()
    assert outcome.code == 11, outcome
    error = outcome.json["error"]
    assert error["type"] == "ChangedWhilePacking"
    assert f"{prefix / path} changed" in error["message"]
    assert error["hint"]
    assert check_store(machine.store) == {}


def test_pack_refuses_a_large_file_that_changes_while_it_is_read(machine: Machine) -> None:
    prefix = make_data(machine.envs / "data")
    large = prefix / "large.bin"
    with large.open("wb") as out:
        out.truncate(70 * 1024 * 1024)
    running, held = start_blocked_pack(machine, prefix, "data", "--json")
    append(large)
    os.close(held)
    outcome = running.finish()
    assert outcome.code == 11, outcome
    assert outcome.json["error"]["type"] == "ChangedWhilePacking"
    assert check_store(machine.store) == {}


# --- the store --------------------------------------------------------------------------------------------


def commands(store: object) -> tuple[tuple[object, ...], ...]:
    """A command for each way to open a store."""
    return ("restore", "data", "--store", store), ("list", "--store", store)


def test_a_directory_with_other_files_is_not_a_store(machine: Machine, refused: Refused) -> None:
    prefix = machine.envs / "data"
    (prefix / "conda-meta").mkdir(parents=True)
    foreign = machine.home / "documents"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("mine")
    for store in (foreign, foreign / "thesis.tex"):
        for arguments in (("pack", "-p", prefix, "--store", store), *commands(store)):
            error = refused(13, *arguments, brief=arguments[0] != "pack")
            assert str(store) in error["message"]
            assert "--store" in error["hint"]


@pytest.mark.parametrize("where", ["", "store", "share/deep/store", "../link/store"])
def test_a_store_inside_the_environment_is_refused(where: str, machine: Machine, refused: Refused) -> None:
    """It would be packed into itself and grow with every pack."""
    prefix = machine.envs / "data"
    (prefix / "conda-meta").mkdir(parents=True)
    (machine.envs / "link").symlink_to("data")
    error = refused(2, "pack", "data", "--store", prefix / where, brief=where != "store")
    assert "inside the environment" in error["message"]


@pytest.mark.parametrize("url", ["gopher://store", "http://x/y", "file://host/store", "file://"])
def test_unsupported_store_urls_are_refused(url: str, machine: Machine, refused: Refused) -> None:
    (machine.envs / "data" / "conda-meta").mkdir(parents=True)
    for arguments in (("pack", "data"), ("list",)):
        assert url in refused(13, *arguments, "--store", url, brief=True)["message"]
        assert url in refused(2, *arguments, SNAPPER_STORE=url, brief=True)["message"]


def test_home_directories_of_unknown_users_are_refused(stocked: Machine, refused: Refused) -> None:
    (stocked.envs / "data" / "conda-meta").mkdir(parents=True)
    strange = "~nobody-of-that-name/x"
    for arguments in (
        *commands(strange),
        ("pack", "data", "--store", strange),
        ("pack", "-p", strange),
        ("restore", "data", "-p", strange),
        ("restore", "data", "--envs-dir", strange),
    ):
        assert strange in refused(2, *arguments, brief=True)["message"]


def test_a_missing_store_is_refused(machine: Machine, refused: Refused) -> None:
    for arguments in commands(machine.home / "nowhere"):
        assert str(machine.home / "nowhere") in refused(13, *arguments)["message"]


@pytest.mark.parametrize(
    ("marker", "kind"),
    [
        ('{"format":2}', "UnsupportedFormat"),
        ('{"format":"1"}', "NotAStore"),
        ("[]", "NotAStore"),
        ("", "NotAStore"),
        ("[" * 100_000, "NotAStore"),
    ],
    ids=lambda value: value[:12],
)
def test_a_store_with_an_unsupported_marker_is_refused(
    marker: str, kind: str, stocked: Machine, refused: Refused
) -> None:
    (stocked.store / "snapper.json").write_text(marker)
    error = refused(13, "list", brief=True)
    assert error["type"] == kind
    assert str(stocked.store) in error["message"]


def test_a_store_of_a_newer_format_is_not_written_to(stocked: Machine, refused: Refused) -> None:
    prefix = make_data(stocked.envs / "data")
    (stocked.store / "snapper.json").write_text('{"format":2}')
    for arguments in (("pack", "-p", prefix), ("restore", "data", "--prefix", stocked.home / "new")):
        assert refused(13, *arguments)["type"] == "UnsupportedFormat"


@pytest.mark.parametrize("closed", [".", "snapper.json", "environments"])
def test_a_store_that_cannot_be_read_is_refused(
    closed: str, packed: Packed, other_user: Unprivileged
) -> None:
    shutil.copytree(packed.store, other_user.store)
    (other_user.envs / "data" / "conda-meta").mkdir(parents=True)
    (other_user.store / closed).chmod(0)
    error = other_user.expect_error(13, "list")
    assert str(other_user.store) in error["message"]
    assert "Permission denied" in error["message"]
    for arguments in (("pack", "data"), ("restore", "data")):
        outcome = other_user.snapper(*arguments, "--json")
        assert outcome.code == 13, outcome
        assert outcome.json["error"]["type"] == "StoreRefused"
    (other_user.store / closed).chmod(0o755)
    assert other_user.run_json("list")["environments"][0]["environment"] == "data"


def any_layer(text: str) -> str:
    return re.sub(r"layers/[^: ]*", "layers/...", text)


@pytest.mark.parametrize("closed", [".", "layers", "environments"])
def test_a_store_that_cannot_be_written_is_refused(
    closed: str, packed: Packed, other_user: Unprivileged
) -> None:
    if closed == ".":
        other_user.store.mkdir()
    else:
        shutil.copytree(packed.store, other_user.store)
        shutil.rmtree(other_user.store / "layers")
        (other_user.store / "layers").mkdir()
    prefix = make_data(other_user.envs / "data")
    (prefix / "new").write_text("new")
    (other_user.store / closed).chmod(0o555)
    before = tree_of(other_user.store / "environments")
    plain = other_user.snapper("pack", "-p", prefix)
    outcome = other_user.snapper("pack", "-p", prefix, "--json")
    assert (plain.code, outcome.code) == (13, 13)
    error = outcome.json["error"]
    assert any_layer(error["message"]) in any_layer(plain.err)  # which of them is written first differs
    assert error["hint"] in plain.err
    assert error["type"] == "StoreRefused"
    assert "Permission denied" in error["message"]
    assert tree_of(other_user.store / "environments") == before
    (other_user.store / closed).chmod(0o755)
    other_user.run_json("pack", "-p", prefix)


def test_a_store_in_an_inaccessible_directory_is_refused(other_user: Unprivileged) -> None:
    closed = other_user.home / "closed"
    (closed / "inner").mkdir(parents=True)
    prefix = other_user.envs / "data"
    (prefix / "conda-meta").mkdir(parents=True)
    closed.chmod(0)
    store = closed / "inner" / "store"
    for arguments in (("pack", "-p", prefix, "--store", store), *commands(store)):
        assert "Permission denied" in other_user.expect_error(13, *arguments)["message"]
    closed.chmod(0o755)


# --- restore and show: what is asked for ------------------------------------------------------------------


def test_an_environment_that_is_not_in_the_store_is_not_found(stocked: Machine, refused: Refused) -> None:
    for command in ("restore", "show"):
        error = refused(10, command, "absent")
        assert "'absent'" in error["message"]
        assert "data" in error["hint"]


@pytest.mark.parametrize("snapshot", ["~9", "~2", "~x", "0000", "no-such-tag", "../x", ESCAPES], ids=ascii)
def test_a_snapshot_that_is_not_in_the_store_is_not_found(
    snapshot: str, packed: Packed, stocked: Machine, refused: Refused
) -> None:
    error = refused(10, "show", f"data@{snapshot}", brief=True)
    assert error["message"].isprintable()
    if snapshot not in ("~9", "~2"):
        assert packed.snapshots[1][:12] in error["hint"]


def test_restore_of_a_snapshot_that_is_not_in_the_store_changes_nothing(
    stocked: Machine, refused: Refused
) -> None:
    for snapshot in ("~9", "0000"):
        refused(10, "restore", f"data@{snapshot}", "--envs-dir", stocked.envs)


def test_an_ambiguous_snapshot_id_is_refused(stocked: Machine, refused: Refused) -> None:
    def add_likeness(document: dict[str, Any]) -> None:
        for digit in "01":
            document["history"].insert(0, {**document["history"][0], "snapshot": "beef" + digit * 60})

    edit_ref(stocked.store, "data", add_likeness)
    assert "2 snapshots" in refused(2, "show", "data@beef")["message"]


# --- corruption -------------------------------------------------------------------------------------------


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def make_empty(file: Path) -> None:
    file.write_bytes(b"")


def lengthen(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


@pytest.mark.parametrize("damage", [flip, cut_short, make_empty, lengthen, Path.unlink, become_directory])
def test_a_corrupted_layer_is_not_restored(
    damage: Callable[[Path], None], packed: Packed, stocked: Machine, refused: Refused
) -> None:
    for file in layer_files(stocked.store):
        damage(file)
    error = refused(12, "restore", "data", "--envs-dir", stocked.envs, "--jobs", 1)
    assert error["type"] == "Corrupted"
    assert str(stocked.store) in error["message"]
    assert [*stocked.envs.iterdir()] == []


def test_packing_again_repairs_layers_of_the_wrong_size(stocked: Machine) -> None:
    prefix = restore(stocked, "data")
    whole = tree_of(prefix)
    shutil.rmtree(stocked.store / "snapshots")
    shutil.rmtree(stocked.store / "environments")
    files = layer_files(stocked.store)
    damages: list[Callable[[Path], None]] = [cut_short, make_empty, lengthen, Path.unlink]
    for file, damage in zip(files, damages, strict=False):
        damage(file)
    forget_state(prefix)
    stocked.run_json("pack", "-p", prefix)
    shutil.rmtree(prefix)
    restore(stocked, "data")
    assert tree_of(prefix) == whole


def test_corrupted_objects_can_be_removed_and_packed_again(packed: Packed, stocked: Machine) -> None:
    """The hint suggests this, because objects of the right size are not read when they would be written again."""
    prefix = restore(stocked, "data")
    whole = tree_of(prefix)
    for file in [*layer_files(stocked.store), stocked.store / "snapshots" / f"{packed.snapshots[1]}.json"]:
        file.unlink()
    forget_state(prefix)
    stocked.run_json("pack", "-p", prefix)
    shutil.rmtree(prefix)
    restore(stocked, "data")
    assert tree_of(prefix) == whole


def forged_layer(store: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    """Replace the bytes of one layer, and update everything that refers to them."""
    environment = store / "environments" / f"{name}.json"
    current = json.loads(environment.read_bytes())["current"]
    snapshot = snapshot_document(store, current)
    layer = snapshot["layers"][0]
    stored = change((store / "layers" / layer["digest"][:2] / f"{layer['digest']}.tar.zst").read_bytes())
    layer["digest"], layer["size"] = hashlib.sha256(stored).hexdigest(), len(stored)
    place = store / "layers" / layer["digest"][:2] / f"{layer['digest']}.tar.zst"
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(stored)
    make_current(store, name, write_snapshot(store, snapshot))


def forge_snapshot(store: Path, name: str, data: bytes) -> None:
    """Make a document, valid or not, the current snapshot of the environment."""
    digest = hashlib.sha256(data).hexdigest()
    (store / "snapshots" / f"{digest}.json").write_bytes(data)
    make_current(store, name, digest)


def make_current(store: Path, name: str, digest: str) -> None:
    def point(document: dict[str, Any]) -> None:
        document["current"] = document["history"][-1]["snapshot"] = digest

    edit_ref(store, name, point)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda data: data[:0], id="nothing"),
        pytest.param(lambda data: b"garbage" * len(data), id="garbage"),
        pytest.param(lambda data: data[:-10], id="cut"),
        pytest.param(lambda data: data + data, id="twice"),
    ],
)
def test_a_layer_with_invalid_content_is_not_restored(
    change: Callable[[bytes], bytes], stocked: Machine, refused: Refused
) -> None:
    forged_layer(stocked.store, "data", change)
    error = refused(12, "restore", "data", "--envs-dir", stocked.envs, brief=True)
    assert error["type"] == "Corrupted"
    assert [*stocked.envs.iterdir()] == []


@pytest.mark.parametrize("damage", [flip, cut_short, make_empty])
def test_a_modified_snapshot_is_corrupted(
    damage: Callable[[Path], None], packed: Packed, stocked: Machine, refused: Refused
) -> None:
    damage(stocked.store / "snapshots" / f"{packed.snapshots[1]}.json")
    for command in (("restore", "data", "--envs-dir", stocked.envs), ("show", "data")):
        error = refused(12, *command, brief=damage is not flip)
        assert packed.snapshots[1][:12] in error["message"]
    if damage is flip:
        restore(stocked, "data@~1")


def test_a_missing_snapshot_is_not_found(packed: Packed, stocked: Machine, refused: Refused) -> None:
    (stocked.store / "snapshots" / f"{packed.snapshots[1]}.json").unlink()
    for command in (("restore", "data", "--envs-dir", stocked.envs), ("show", "data")):
        error = refused(10, *command)
        assert packed.snapshots[1][:12] in error["message"]
    restore(stocked, "data@~1")


@pytest.mark.parametrize(
    "document",
    [
        *("", "{}", "garbage", '{"format":1,"layers":[]}', "[" * 100_000),
    ],
    ids=lambda document: document[:12],
)
def test_a_snapshot_that_is_not_a_valid_document_is_corrupted(
    document: str, stocked: Machine, refused: Refused
) -> None:
    forge_snapshot(stocked.store, "data", document.encode())
    assert refused(12, "show", "data", brief=True)["type"] == "Corrupted"


def test_a_snapshot_of_a_newer_format_is_refused(stocked: Machine, refused: Refused) -> None:
    forge_snapshot(stocked.store, "data", b'{"format":2,"segments":{}}')
    for command in (("restore", "data", "--envs-dir", stocked.envs), ("show", "data")):
        error = refused(13, *command)
        assert error["type"] == "UnsupportedFormat"
        assert "format 2" in error["message"]


def change_name(document: dict[str, Any]) -> None:
    document["name"] = "other"


def change_format(document: dict[str, Any]) -> None:
    document["format"] = 2


def drop_history(document: dict[str, Any]) -> None:
    document["history"] = []


def misname_current(document: dict[str, Any]) -> None:
    document["current"] = document["history"][-1]["snapshot"] = "../../../etc/passwd"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (change_name, 12),
        (change_format, 13),
        (drop_history, 12),
        (misname_current, 12),
    ],
)
def test_a_corrupted_entry_is_refused(
    change: Callable[[dict[str, Any]], None], code: int, stocked: Machine, refused: Refused
) -> None:
    edit_ref(stocked.store, "data", change)
    assert "'data'" in refused(code, "show", "data", brief=True)["message"]


def test_a_corrupted_entry_is_not_overwritten(stocked: Machine, refused: Refused) -> None:
    prefix = make_data(stocked.envs / "data")
    stocked.run_json("pack", "-p", prefix, "--name", "healthy")
    (stocked.store / "environments" / "data.json").write_text("garbage")
    for command in (("restore", "data", "--envs-dir", stocked.home), ("pack", "-p", prefix)):
        assert "'data'" in refused(12, *command)["message"]
    listed = stocked.snapper("list")
    assert listed.code == 12
    assert "healthy" in listed.out
    assert "'data'" in listed.err
    document = stocked.snapper("list", "--json")
    assert document.code == 12
    by_name = {entry["environment"]: entry for entry in document.json["environments"]}
    assert by_name["data"]["error"]["code"] == 12
    assert by_name["healthy"]["prefix"] == str(prefix)


def test_a_corrupted_entry_does_not_affect_other_environments(stocked: Machine) -> None:
    prefix = make_data(stocked.envs / "other")
    stocked.run_json("pack", "-p", prefix)
    shutil.rmtree(prefix)
    (stocked.store / "environments" / "data.json").write_text("garbage")
    outcome = stocked.snapper("restore", "--all", "--envs-dir", stocked.envs, "--json")
    assert outcome.code == 12
    assert [each["environment"] for each in outcome.json["restored"]] == ["other"]
    assert [each["environment"] for each in outcome.json["failed"]] == ["data"]
    assert prefix.is_dir()
    plain = stocked.snapper("restore", "--all", "--envs-dir", stocked.envs)
    assert plain.code == 12
    assert "1 already in place, 1 failed" in plain.out


# --- restore: this machine --------------------------------------------------------------------------------


WINDOWS = """
import signal, sys
import platformdirs, typer  # which are for Windows too
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
del signal.SIGHUP
sys.platform = "win32"
sys.argv[0] = "snapper"
from snapper.cli.main import main
main()
"""


def test_windows_is_refused_although_modules_are_missing_there(machine: Machine) -> None:
    """The message is printed even though modules that snapper needs do not exist there."""
    command = [sys.executable, "-c", WINDOWS, "list"]
    done = subprocess.run(command, env=machine.variables, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("snapper: snapper does not run on Windows: ")
    assert "WSL 2" in done.stderr.splitlines()[1]


def test_restore_refuses_an_environment_of_another_platform(
    packed: Packed, stocked: Machine, refused: Refused
) -> None:
    snapshot = snapshot_document(stocked.store, packed.snapshots[1])
    make_current(stocked.store, "data", write_snapshot(stocked.store, {**snapshot, "platform": "osx-arm64"}))
    error = refused(1, "restore", "data", "--envs-dir", stocked.envs)
    assert error["type"] == "PlatformMismatch"
    assert "osx-arm64" in error["message"]
    assert stocked.snapper("show", "data").code == 0


def test_restore_refuses_a_prefix_too_long_for_a_binary(
    pristine: Callable[[str], Path], machine: Machine, refused: Refused
) -> None:
    machine.run_json("pack", "-p", pristine("no-python"), "--name", "tools")
    length = 256 - len(os.fsencode(machine.home)) - 2
    prefix = machine.home / ("d" * (length // 2)) / ("e" * (length - length // 2))
    assert len(str(prefix)) == 256
    error = refused(1, "restore", "tools", "--prefix", prefix)
    assert error["type"] == "PrefixTooLong"
    assert "256 bytes" in error["message"]
    assert "255 bytes" in error["message"]
    fitting = prefix.with_name(prefix.name[:-1])
    machine.run_json("restore", "tools", "--prefix", fitting)
    shown = subprocess.run([fitting / "bin" / "whereami"], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[0] == str(fitting)


@pytest.mark.parametrize("kind", ["file", "link to a directory", "dangling link", "foreign directory"])
def test_restore_refuses_a_target_with_other_files(kind: str, stocked: Machine, refused: Refused) -> None:
    target = stocked.envs / "data"
    elsewhere = stocked.home / "elsewhere"
    if kind == "file":
        target.write_text("mine")
    elif kind == "foreign directory":
        target.mkdir()
        (target / "thesis.tex").write_text("mine")
    else:
        target.symlink_to(elsewhere)
    if kind == "link to a directory":
        elsewhere.mkdir()
    error = refused(11, "restore", "data", "--envs-dir", stocked.envs, "--replace", brief=kind != "file")
    assert error["type"] == "TargetOccupied"
    assert str(target) in error["message"]


def test_restore_keeps_a_symlink_to_an_environment(stocked: Machine, refused: Refused) -> None:
    """For example an environment on a volume, symlinked from the usual location: the symlink is not replaced."""
    link, real = stocked.envs / "data", stocked.home / "volume" / "data"
    link.symlink_to(real)
    stocked.run_json("restore", "data", "--prefix", real)
    (document,) = stocked.run_json("restore", "data", "--envs-dir", stocked.envs)["restored"]
    assert document["present"]
    (real / "mine").write_text("mine")
    for more in ((), ("--replace",)):
        error = refused(11, "restore", "data", "--envs-dir", stocked.envs, *more, brief=True)
        assert f"it is a symlink to {real}" in error["message"]
        assert f"--prefix {real}" in error["hint"]
    stocked.run_json("restore", "data", "--prefix", real, "--replace")
    (document,) = stocked.run_json("restore", "data", "--envs-dir", stocked.envs, "--replace")["restored"]
    assert document["present"]
    assert link.is_symlink()


@pytest.mark.parametrize("below", ["new", "new/deep"])
def test_restore_refuses_a_target_below_a_file(below: str, stocked: Machine, refused: Refused) -> None:
    file = stocked.home / "file"
    file.write_text("mine")
    error = refused(11, "restore", "data", "--prefix", file / below)
    assert f"cannot overwrite {file}: " in error["message"]


def test_restore_uses_an_empty_directory(stocked: Machine) -> None:
    (stocked.envs / "data").mkdir()
    assert restore(stocked, "data") == stocked.envs / "data"


def test_restore_refuses_to_overwrite_another_environment(
    restored: Path, stocked: Machine, refused: Refused
) -> None:
    make_data(stocked.home / "other")
    stocked.run_json("pack", "-p", stocked.home / "other")
    for more in ((), ("--replace",)):
        error = refused(11, "restore", "other", "--prefix", restored, *more)
        assert "'data'" in error["message"]


def test_restore_refuses_to_overwrite_an_environment_of_unknown_origin(
    stocked: Machine, refused: Refused
) -> None:
    make_data(stocked.envs / "data")
    (stocked.envs / "data" / "mine").write_text("mine")
    error = refused(11, "restore", "data", "--envs-dir", stocked.envs)
    assert "--replace" in error["hint"]
    stocked.run_json("restore", "data", "--envs-dir", stocked.envs, "--replace")
    assert not (stocked.envs / "data" / "mine").exists()
    assert (stocked.envs / "data" / "notes.txt").exists()


def add(prefix: Path) -> None:
    (prefix / "mine.py").write_text("mine")


def alter(prefix: Path) -> None:
    (prefix / "notes.txt").write_text("mine")


def remove(prefix: Path) -> None:
    (prefix / "notes.txt").unlink()


@pytest.mark.parametrize("change", [add, alter, remove])
def test_restore_refuses_to_overwrite_local_changes(
    change: Callable[[Path], None], restored: Path, stocked: Machine, refused: Refused
) -> None:
    change(restored)
    for reference in ("data", "data@~1")[: 2 if change is add else 1]:
        error = refused(11, "restore", reference, "--envs-dir", stocked.envs)
        assert "has changed" in error["message"]
        assert "--replace" in error["hint"]
    stocked.run_json("restore", "data@~1", "--envs-dir", stocked.envs, "--replace")
    assert not (restored / "notes.txt").exists()
    assert not (restored / "mine.py").exists()


def test_another_snapshot_replaces_an_unchanged_environment(restored: Path, stocked: Machine) -> None:
    assert (restored / "notes.txt").exists()
    restore(stocked, "data@~1")
    assert not (restored / "notes.txt").exists()
    assert sorted(path.name for path in stocked.envs.iterdir()) == ["data"]


def test_restore_all_keeps_changed_environments_of_the_same_snapshot(
    restored: Path, stocked: Machine
) -> None:
    add(restored)
    before = tree_of(restored)
    document = stocked.run_json("restore", "--all", "--envs-dir", stocked.envs)
    assert [each["present"] for each in document["restored"]] == [True]
    assert tree_of(restored) == before


@pytest.mark.parametrize("where", ["envs", "envs/deep/er"])
def test_restore_refuses_a_directory_it_cannot_write(
    where: str, packed: Packed, other_user: Unprivileged
) -> None:
    shutil.copytree(packed.store, other_user.store)
    other_user.envs.chmod(0o555)
    error = other_user.expect_error(1, "restore", "data", "--envs-dir", other_user.home / where)
    assert error["type"] == "PermissionDenied"
    assert str(other_user.envs) in error["message"]


def test_restore_refuses_a_directory_it_cannot_read(packed: Packed, other_user: Unprivileged) -> None:
    shutil.copytree(packed.store, other_user.store)
    other_user.envs.chmod(0)
    error = other_user.expect_error(1, "restore", "data", "--prefix", other_user.envs / "deep" / "data")
    assert error["type"] == "PermissionDenied"
    assert str(other_user.envs) in error["message"]


def test_a_read_only_environment_is_restored_and_replaced(other_user: Unprivileged) -> None:
    """Environments shared by administrators are often read-only, including their directory."""
    prefix = make_data(other_user.envs / "data")
    for path in [*prefix.rglob("*"), prefix]:
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & 0o555)
    other_user.run_json("pack", "data")
    before = tree_of(prefix), prefix.stat().st_mode | 0o200  # where its owner can always create something
    for path in [prefix, *(each for each in prefix.rglob("*") if each.is_dir() and not each.is_symlink())]:
        path.chmod(0o755)
    shutil.rmtree(prefix)
    for _ in range(2):
        other_user.run_json("restore", "data")
        assert (tree_of(prefix), prefix.stat().st_mode) == before
        other_user.run_json("restore", "data", "--replace")
    (other_user.envs / "data" / "share").chmod(0o755)
    (other_user.envs / "data" / "share" / "mine").write_text("mine")
    other_user.run_json("restore", "data", "--replace")
    assert (tree_of(prefix), prefix.stat().st_mode) == before
    assert sorted(path.name for path in other_user.envs.iterdir()) == ["data"]


# --- kernels ----------------------------------------------------------------------------------------------


def with_kernel(prefix: Path, spec: object, name: str = "textual") -> Path:
    place = prefix / "share/jupyter/kernels" / name
    place.mkdir(parents=True)
    (place / "kernel.json").write_text(json.dumps(spec))
    return prefix


KERNEL = {"argv": ["/bin/true", "-f", "{connection_file}"], "display_name": "Text", "language": "text"}


def kernels_dir(machine: Machine) -> Path:
    return machine.home / ".local/share/jupyter/kernels"


def test_kernels_registered_by_others_are_not_overwritten(machine: Machine) -> None:
    with_kernel(make_data(machine.envs / "data"), KERNEL)
    machine.run_json("pack", "data")
    shutil.rmtree(machine.envs / "data")
    foreign = kernels_dir(machine) / "data-textual"
    foreign.mkdir(parents=True)
    (foreign / "kernel.json").write_text(json.dumps({**KERNEL, "metadata": {}}))
    before = tree_of(foreign)
    (document,) = machine.run_json("restore", "data")["restored"]
    (kernel,) = document["kernels"]
    assert kernel["name"].startswith("data-textual-")
    assert machine.run_json("restore", "data")["restored"][0]["kernels"] == [kernel]
    assert tree_of(foreign) == before


def test_a_kernel_that_cannot_be_registered_makes_the_restore_partial(machine: Machine) -> None:
    with_kernel(make_data(machine.envs / "data"), KERNEL)
    machine.run_json("pack", "data")
    shutil.rmtree(machine.envs / "data")
    kernels_dir(machine).parent.mkdir(parents=True)
    kernels_dir(machine).write_text("not a directory")
    outcome = machine.snapper("restore", "data")
    assert outcome.code == 3, outcome
    assert "could not be registered" in outcome.err
    assert "Set JUPYTER_DATA_DIR" in outcome.err
    assert (machine.envs / "data" / "conda-meta").is_dir()


def test_invalid_kernelspecs_are_ignored(machine: Machine) -> None:
    strange: list[object] = [
        *([], None, 5, {}, {**KERNEL, "argv": []}, {**KERNEL, "argv": "python"}, {**KERNEL, "argv": [5]}),
        {**KERNEL, "metadata": None},
        {**KERNEL, "metadata": []},
        {**KERNEL, "display_name": None, "language": ["x"]},
        {**KERNEL, "display_name": ESCAPES},
    ]
    prefix = make_data(machine.envs / "data")
    for number, spec in enumerate(strange):
        with_kernel(prefix, spec, f"strange{number}")
    with_kernel(prefix, KERNEL, "healthy")
    (prefix / "share/jupyter/kernels/empty").mkdir()
    machine.run_json("pack", "data")
    shutil.rmtree(machine.envs / "data")
    outcome = machine.snapper("restore", "data")
    assert outcome.code == 0, outcome
    assert "\x1b" not in outcome.out
    found = [*kernels_dir(machine).glob("*/kernel.json")]
    assert kernels_dir(machine) / "data-healthy" / "kernel.json" in found
    for file in found:
        assert json.loads(file.read_bytes())["argv"][0] == "/bin/sh"


# --- output -----------------------------------------------------------------------------------------------


def test_a_closed_pipe_ends_the_command_without_a_traceback(stocked: Machine) -> None:
    for arguments in (("list",), ("list", "--json"), ("show", "data", "--json"), ("--help",)):
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(
            stocked.command(*arguments),
            env=stocked.variables,
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        os.close(write)
        assert "BrokenPipe" not in done.stderr
        assert done.returncode == 1


def test_closed_standard_streams_are_tolerated(stocked: Machine) -> None:
    """Some daemons start programs this way; files that are opened must not take the descriptors of the streams."""
    for arguments, code in ((("list",), 0), (("list", "--json"), 0), (("restore", "absent"), 10)):
        for closed in (">&-", "2>&-", "<&- >&- 2>&-"):
            done = subprocess.run(
                ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", *stocked.command(*arguments)],
                env=stocked.variables,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == code, done
            assert "Traceback" not in done.stderr


def test_output_to_a_full_disk_is_an_error(stocked: Machine) -> None:
    with open("/dev/full", "wb") as full:
        for arguments in (("list",), ("list", "--json")):
            done = subprocess.run(
                stocked.command(*arguments),
                env=stocked.variables,
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
            assert done.returncode == 1
            assert "Traceback" not in done.stderr
            assert "No space left" in done.stderr


def test_names_that_the_encoding_lacks_are_escaped(machine: Machine) -> None:
    prefix = make_data(machine.envs / "données")
    assert machine.snapper("pack", "-p", prefix, PYTHONIOENCODING="ascii").code == 0
    assert machine.snapper("list", PYTHONIOENCODING="ascii").code == 0
    assert machine.snapper("show", "données", PYTHONIOENCODING="ascii").code == 0
    assert machine.snapper("show", "données", "--yaml", PYTHONIOENCODING="ascii").code == 0


# --- places -----------------------------------------------------------------------------------------------


def test_users_without_a_home_are_supported(machine: Machine) -> None:
    """For example a user without an entry in the user database, in a container that does not set HOME."""
    as_stranger = ("unshare", "--user", "--map-user=54321")
    if shutil.which("unshare") is None or subprocess.run([*as_stranger, "true"], check=False).returncode:
        pytest.skip("there is no unshare, or it may not make users")
    make_data(machine.envs / "data")
    variables = {name: value for name, value in machine.variables.items() if name != "HOME"}
    elsewhere = {name: value for name, value in variables.items() if name != "SNAPPER_STORE"}
    for arguments, environment, code in (
        (("pack", "data"), variables, 0),
        (("list",), variables, 0),
        (("list",), elsewhere, 13),
        (("pack", "nowhere"), elsewhere, 10),
    ):
        done = subprocess.run(
            [*as_stranger, *machine.command(*arguments)],
            env=environment,
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr
        assert done.returncode == code, done.stderr


def test_a_deleted_working_directory_matters_only_for_relative_paths(machine: Machine) -> None:
    here = machine.home / "here"
    here.mkdir()
    gone = "import os, sys; os.rmdir(os.getcwd()); os.execv(sys.argv[1], sys.argv[1:])"
    make_data(machine.envs / "data")
    for arguments, code in (
        (("pack", "data"), 0),
        (("pack", "-p", "data"), 2),
        (("list", "--store", "x"), 2),
    ):
        done = subprocess.run(
            [sys.executable, "-c", gone, *machine.command(*arguments)],
            env=machine.variables,
            cwd=here,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr
        assert done.returncode == code, done.stderr
        here.mkdir()


def test_environment_that_is_replaced_while_it_is_inspected_is_a_conflict(
    restored: Path, stocked: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another restore removes the directory that was opened."""

    def open_removed(prefix: Path) -> NoReturn:
        raise NotAnEnvironment(str(prefix))

    monkeypatch.setattr("snapper.environment.conda.pin_environment", open_removed)
    with pytest.raises(TargetOccupied, match="it was replaced while it was inspected"):
        snapper.restore(snapper.open_store(str(stocked.store)), "data", prefix=restored, replace=True)


# --- the command line: empty values -------------------------------------------------------------------------


def test_commands_change_nothing_for_an_empty_value(stocked: Machine) -> None:
    stocked.run_json("tag", "data@~1", "v1")
    before = tree_of(stocked.store), tree_of(stocked.home)
    for line, what in {
        ("prune", "--keep-tag", "", "--keep-last", "1", "--yes", "--grace", "0s"): "--keep-tag",
        ("rollback", "data", ""): "SNAPSHOT",
        ("rollback", "data@"): "the snapshot in 'data@'",
        ("restore", "data@", "--replace"): "the snapshot in 'data@'",
        ("restore", "--all", "--except", ""): "--except",
        ("verify", "--data="): "--data",
    }.items():
        error = stocked.expect_error(2, *line)
        assert error["message"] == f"{what} is empty"
        assert error["hint"].startswith("A shell variable may be unset. Give ")
    assert (tree_of(stocked.store), tree_of(stocked.home)) == before
