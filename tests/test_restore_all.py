"""Restoring all environments of a store: selection, order, time budget, and reports."""

from __future__ import annotations

import os
import re
import resource
import secrets
import shutil
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scripts.maker import make
from snapper import kernels
from snapper.commands.restore import RestoreFailure, RestoreResult, restore
from snapper.errors import InsufficientSpace, TargetOccupied, TooManyFiles
from snapper.format.model import LAYER_SIZE, Layer, Mode, Relocation
from snapper.fs.pinned import PinnedDirectory
from snapper.fs.space import FreeSpace
from snapper.kernels import naming
from snapper.process.identity import is_process_alive
from snapper.repository.specs import SnapshotSpec
from snapper.restoring.requests import RestoreRequest
from snapper.restoring.selection import NamePatterns, rank_names
from snapper.restoring.space import SpaceReservations
from snapper.store import open_store
from tests.conftest import Machine, Outcome, tree_of
from tests.support.commands import start_command, wait_until
from tests.support.environments import make_data
from tests.support.jupyter import kernels_dir, started
from tests.support.kernelspecs import add_kernel
from tests.support.redteam import publisher
from tests.support.s3server import S3Server
from tests.support.stores import layer_files
from tests.support.throttle import Throttle, throttled


def test_names_are_selected_by_patterns_and_ranked() -> None:
    names = ["a1", "a2", "b1", "b2", "c"]
    assert NamePatterns().select(names) == names
    assert NamePatterns(("a*", "c")).select(names) == ["a1", "a2", "c"]
    assert NamePatterns(("[ab]?",), ("*1",)).select(names) == ["a2", "b2"]
    assert NamePatterns((), ("?",)).select(names) == names[:4]
    ranks = rank_names(names, ("c", "b*"), ("a2", "b1", "gone"))
    assert sorted(names, key=lambda name: ranks[name]) == ["c", "b1", "b2", "a2", "a1"]
    assert len(set(rank_names(names, (), ()).values())) == 1


def test_space_is_reserved_for_all_snapshots_together(tmp_path: Path) -> None:
    """Two snapshots of which either would fit do not fit together."""
    free = shutil.disk_usage(tmp_path).free
    layer = Layer("0" * 64, 1, "0" * 64, LAYER_SIZE, "files", "", 1, (), None)
    layers = (layer,) * (free * 6 // 10 // LAYER_SIZE)
    space = SpaceReservations()
    space.reserve(tmp_path, layers, "/prefix")
    with pytest.raises(InsufficientSpace) as caught:
        space.reserve(tmp_path, layers, "/prefix")
    assert caught.value.available < free * 5 // 10
    SpaceReservations().reserve(tmp_path, layers, "/prefix")


@pytest.mark.parametrize("mode", ["text", "pyc"])
def test_space_is_reserved_for_prefixes_that_are_longer_than_placeholders(tmp_path: Path, mode: Mode) -> None:
    """Placeholders of 50 bytes are replaced by a prefix of 80, which can make files of nothing else 60% larger."""
    free = shutil.disk_usage(tmp_path).free
    relocation = Relocation(mode, f"/{'p' * 49}", ("file",))
    layer = Layer("0" * 64, 1, "0" * 64, LAYER_SIZE, "files", "", 1, (relocation,), None)
    layers = (layer,) * (free * 8 // 10 // LAYER_SIZE)
    SpaceReservations().reserve(tmp_path, layers, "/" + "q" * 49)
    with pytest.raises(InsufficientSpace) as caught:
        SpaceReservations().reserve(tmp_path, layers, "/" + "q" * 79)
    assert free < caught.value.needed < 2 * free


def test_space_is_reserved_for_directories_that_only_exist_in_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = Layer("0" * 64, 1, "0" * 64, LAYER_SIZE, "files", "", 1000, (), None)
    needed = LAYER_SIZE + 1000 * 2304 + (1000 // 2 + 250) * 4096
    for free, fits in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr("snapper.restoring.space.free_space", lambda _, free=free: FreeSpace(free, None))
        with nullcontext() if fits else pytest.raises(InsufficientSpace):
            SpaceReservations().reserve(tmp_path, [layer], "/prefix")


@pytest.fixture
def three(machine: Machine) -> Machine:
    """A machine whose store has three environments with one kernel each, none of them on disk."""
    for name in ("one", "two", "three"):
        prefix = make_data(machine.envs / name)
        (prefix / "own.txt").write_text(f"of {name}\n" * 1000)
        add_kernel(prefix, "text", argv=["true"], display_name="Text", language="text")
        machine.run_json("pack", name)
        shutil.rmtree(prefix)
    return machine


def restored(document: dict[str, list[dict[str, str]]]) -> list[str]:
    return [entry["environment"] for entry in document["restored"]]


def test_failure_of_one_environment_does_not_stop_the_others(three: Machine) -> None:
    shared = set(layer_files(three.store))
    for environment in ("one", "three"):
        digests = {layer["digest"] for layer in three.run_json("show", environment)["layers"]}
        shared = {file for file in shared if file.name.removesuffix(".tar.zst") not in digests}
    (of_two,) = shared
    good = of_two.read_bytes()
    of_two.write_bytes(b"damaged" + good[7:])
    outcome = three.snapper("restore", "--all")
    assert outcome.code == 12
    assert "2 restored, 0 already in place, 1 failed; 2 kernels" in outcome.out
    assert "snapper: two: layer" in outcome.err
    assert "done in" not in outcome.err
    assert {path.name for path in three.envs.iterdir()} == {"one", "three"}
    document = three.snapper("restore", "--all", "--json").json
    assert sorted(restored(document)) == ["one", "three"]
    (failed,) = document["failed"]
    assert (failed["environment"], failed["code"]) == ("two", 12)

    status = three.run_json("status")["last_restore"]
    assert not status["at_work"]
    conditions = {entry["environment"]: entry["condition"] for entry in status["environments"]}
    assert conditions == {"one": "present", "two": "failed", "three": "present"}
    assert "two: layer" in three.snapper("status").out
    states = {entry["name"]: entry["ready"] for entry in three.run_json("kernels")["kernels"]}
    assert states == {"one-text": True, "two-text": False, "three-text": True}
    assert "waiting" not in three.snapper("kernels", "list").out
    with started(three, "two-text") as kernel:
        kernel.manager.provisioner.process.wait(30)  # type: ignore[union-attr]
        assert "two could not be restored: layer" in kernel.log

    of_two.write_bytes(good)
    assert three.snapper("doctor").code == 3
    three.run_json("restore", "two")
    conditions = {
        entry["environment"]: entry for entry in three.run_json("status")["last_restore"]["environments"]
    }
    assert (conditions["two"]["condition"], conditions["two"]["error"]) == ("restored", "")
    assert conditions["one"]["condition"] == "present"
    assert three.snapper("doctor").code == 0


def problems(outcome: Outcome) -> dict[str, str]:
    """Return the problem of each kernel that was reported, empty if it was registered."""
    return {
        kernel["name"]: kernel["problem"] for entry in outcome.json["restored"] for kernel in entry["kernels"]
    }


def test_invalid_kernels_do_not_stop_other_kernels(machine: Machine) -> None:
    """Kernelspecs, environment variables, and entries in the user's kernels directory may all be invalid."""
    good = {"argv": ["true"], "display_name": "Good", "language": "text"}
    make_data(machine.envs / "last")
    add_kernel(machine.envs / "last", "good", **good)
    machine.run_json("pack", "last")
    odd = make_data(machine.envs / "first")
    for name in ("good", "gone"):
        add_kernel(odd, name, **good)
    machine.run_json("pack", "first")
    machine.run_json("restore", "first")
    shutil.rmtree(odd / "share/jupyter/kernels/gone")
    (kernels_dir(machine) / "first-gone").rename(machine.home / "moved")
    (kernels_dir(machine) / "first-gone").symlink_to(machine.home / "moved")
    deep = "[" * 200_000
    add_kernel(odd, "words", **{**good, "argv": ["true", "\ud800"]})
    add_kernel(odd, "name", **{**good, "display_name": "\ud800"})
    (add_kernel(odd, "deep") / "kernel.json").write_text(deep)
    for name, variables in (("a", '[[1, "x"]]'), ("b", deep)):
        (odd / "etc/conda/env_vars.d").mkdir(parents=True, exist_ok=True)
        (odd / f"etc/conda/env_vars.d/{name}.json").write_text(variables)
    machine.run_json("pack", "first")
    for name in ("first", "last"):
        shutil.rmtree(machine.envs / name)

    outcome = machine.snapper("restore", "--all", "--json")
    assert outcome.code == 3
    assert sorted(restored(outcome.json)) == ["first", "last"]
    reported = problems(outcome)
    assert not reported.pop("last-good")
    assert reported.keys() == {"first-good", "first-words"}
    assert "surrogates not allowed" in reported["first-words"]
    assert not reported["first-good"]
    registered = {file.parent.name for file in kernels_dir(machine).glob("*/*.*")}
    assert registered == {"first-good", "first-words", "last-good"}
    (odd / "etc/conda/env_vars.d/c.json").write_text('{"A": "\\ud800"}')
    reported = problems(machine.snapper("restore", "--all", "--json"))
    assert not reported.pop("last-good")
    assert reported.keys() == {"first-good", "first-words"}
    assert reported["first-words"]
    assert not reported["first-good"]  # no variable can have such a value


def test_an_unexpected_error_in_one_environment_does_not_stop_others(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two", "three"):
        machine.run_json("pack", "-p", make_data(machine.envs / name))
        shutil.rmtree(machine.envs / name)
    register, errors = (
        kernels.Registrar.register,
        {"one": MemoryError(), "two": PermissionError(13, "denied", "/file")},
    )

    def register_or_fail(
        registrar: kernels.Registrar, directory: PinnedDirectory, environment: str
    ) -> tuple[kernels.KernelRegistration, ...]:
        if environment in errors:
            raise errors[environment]
        return register(registrar, directory, environment)

    monkeypatch.setattr(kernels.Registrar, "register", register_or_fail)
    for name, value in machine.variables.items():
        monkeypatch.setenv(name, value)
    requests = [RestoreRequest(SnapshotSpec(name)) for name in ("one", "two", "three")]
    for _ in range(2):  # the second time, all are present
        outcomes = {
            result.environment: result for result in restore(open_store(str(machine.store)), requests)
        }
        messages = {
            name: result.error.message
            for name, result in outcomes.items()
            if isinstance(result, RestoreFailure)
        }
        assert messages == {
            "one": "unexpected error: MemoryError: no details",
            "two": "permission denied: cannot access /file",
        }
        assert isinstance(outcomes["three"], RestoreResult)


def test_registered_kernels_are_read_once_while_environments_are_present(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading them for each environment takes minutes if there are hundreds."""
    for name in ("one", "two", "three"):
        machine.run_json("pack", "-p", make_data(machine.envs / name))
    for name, value in machine.variables.items():
        monkeypatch.setenv(name, value)
    reads: list[tuple[kernels.RegisteredKernel, ...]] = []

    def count() -> tuple[kernels.RegisteredKernel, ...]:
        reads.append(kernels.registered_kernels())
        return reads[-1]

    monkeypatch.setattr(naming, "registered_kernels", count)
    requests = [RestoreRequest(SnapshotSpec(name)) for name in ("one", "two", "three")]
    outcomes = list(restore(open_store(str(machine.store)), requests))
    assert [isinstance(outcome, RestoreResult) and outcome.present for outcome in outcomes] == [True] * 3
    assert len(reads) == 1


def test_snapshots_that_claim_all_space_do_not_stop_the_others(three: Machine) -> None:
    """What their layers are said to have before compression is known to be false only when they are read."""
    free = shutil.disk_usage(three.envs).free
    for claimed in (free - (1 << 20), free // 2, free // 2 - 1, free // 4, 1 << 14):
        layers = [publisher.put_layer(three.store, b"".join(publisher.ENVIRONMENT))]
        sizes = [128 << 20] * (claimed >> 27) + [claimed % (128 << 20)]
        layers += [
            publisher.put_layer(three.store, publisher.file(f"{part}-{claimed}"), diff_size=size)
            for part, size in enumerate(sizes)
        ]
        publisher.put_entry(three.store, f"a{claimed}", publisher.put_snapshot(three.store, layers), "")
    failed = three.snapper("restore", "--all", "--json").json["failed"]
    assert sorted(path.name for path in three.envs.iterdir()) == ["one", "three", "two"]
    assert len(failed) == 5


def restore_nested(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, **sizes: int
) -> list[RestoreResult | RestoreFailure]:
    """Publish environments whose snapshots state these sizes, `team` inside of `base`; restore them to 4 MB of space.

    `base` really has 2 MB.
    """
    for name, value in {**machine.variables, "CONDA_ENVS_PATH": ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("snapper.restoring.space.free_space", lambda directory: FreeSpace(4_000_000, None))
    publisher.make_store(machine.store)
    root = machine.home / "miniconda3"
    for name, size in sizes.items():
        content = b"".join(
            (*publisher.ENVIRONMENT, publisher.file(name, bytes(2_000_000 if name == "base" else 10)))
        )
        layer = publisher.put_layer(machine.store, content, diff_size=size or len(content))
        prefix = {"base": root, "team": root / "envs/team"}.get(name, "")
        publisher.put_entry(machine.store, name, publisher.put_snapshot(machine.store, [layer]), prefix)
    requests = [RestoreRequest(SnapshotSpec(name)) for name in sizes]
    return list(restore(open_store(str(machine.store)), requests))


def test_environments_inside_of_another_one_wait_until_there_is_space_for_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that states nearly the size of `base` makes that wait, and `team` with it, which belongs inside."""
    claim, base, team = restore_nested(machine, monkeypatch, team=0, base=0, claim=1_900_000)
    assert (claim.environment, base.environment, team.environment) == ("claim", "base", "team")
    assert isinstance(claim, RestoreFailure)
    assert isinstance(base, RestoreResult)
    assert isinstance(team, RestoreResult)
    assert team.prefix == str(machine.home / "miniconda3/envs/team")


def test_environments_inside_of_another_one_that_fails_do_not_keep_it_from_being_restored_later(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is never enough space for `base`. What is restored inside of its directory is still there afterwards."""
    base, team = restore_nested(machine, monkeypatch, base=5_000_000, team=0)
    assert (base.environment, team.environment) == ("base", "team")
    assert isinstance(base, RestoreFailure)
    assert isinstance(base.error, InsufficientSpace)
    assert isinstance(team, RestoreResult)
    root = machine.home / "miniconda3"
    assert team.prefix == str(root / "envs/team")
    tree = tree_of(root / "envs/team")
    (root / "own").touch()
    (refused,) = restore_nested(machine, monkeypatch, base=0)
    assert isinstance(refused, RestoreFailure)
    assert isinstance(refused.error, TargetOccupied)
    (root / "own").unlink()
    (base,) = restore_nested(machine, monkeypatch, base=0)
    assert isinstance(base, RestoreResult)
    assert tree_of(root / "envs/team") == tree


@pytest.mark.parametrize(
    ("limit", "size"), [("restoring.engine._MOST_MEMORY", 100_000), ("commands.restore._MOST_MEMORY", 60_000)]
)
def test_snapshot_that_needs_too_much_memory_does_not_stop_the_others(
    machine: Machine, limit: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If all snapshots, or what is kept to complete them, take too much memory, the one with the most is given up."""
    for name, links in (("few", 3), ("many", 200), ("some", 30)):
        publisher.make_store(machine.store)
        layers = [publisher.put_layer(machine.store, b"".join(publisher.ENVIRONMENT))]
        for layer in range(3):
            members = [publisher.link(f"{layer}/{number}", "t" * 100) for number in range(links)]
            layers.append(publisher.put_layer(machine.store, b"".join(members)))
        distributions = [{"name": "x" * 100, "version": f"{number}"} for number in range(links)]
        snapshot = publisher.put_snapshot(machine.store, layers, pip=distributions)
        publisher.put_entry(machine.store, name, snapshot, "")
    monkeypatch.setattr(f"snapper.{limit}", size)
    for name, value in machine.variables.items():
        monkeypatch.setenv(name, value)
    requests = [RestoreRequest(SnapshotSpec(name)) for name in ("few", "many", "some")]
    outcomes = {result.environment: result for result in restore(open_store(str(machine.store)), requests)}
    assert isinstance(outcomes["many"], RestoreFailure)
    assert isinstance(outcomes["many"].error, TooManyFiles)
    assert isinstance(outcomes["few"], RestoreResult)
    assert isinstance(outcomes["some"], RestoreResult)
    assert sorted(path.name for path in machine.envs.iterdir()) == ["few", "some"]


def test_more_environments_are_restored_than_files_can_be_open(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher.make_store(machine.store)
    names = [f"team{number}" for number in range(20)]
    layer = publisher.put_layer(machine.store, b"".join(publisher.ENVIRONMENT))
    for name in names:
        publisher.put_entry(machine.store, name, publisher.put_snapshot(machine.store, [layer]), "")
    for name, value in machine.variables.items():
        monkeypatch.setenv(name, value)
    requests = [RestoreRequest(SnapshotSpec(name)) for name in names]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 50, hard))
    try:
        results = list(restore(open_store(str(machine.store)), requests, jobs=1))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert all(isinstance(result, RestoreResult) for result in results), results
    assert sorted(path.name for path in machine.envs.iterdir()) == sorted(names)


def test_failed_restore_to_another_prefix_keeps_the_kernels(machine: Machine) -> None:
    """Kernels start the existing environment until the other one is complete; without it, they wait for that."""
    add_kernel(
        make_data(machine.envs / "data"),
        "text",
        argv=["/bin/echo", "started"],
        display_name="T",
        language="text",
    )
    machine.run_json("pack", "data")
    machine.run_json("restore", "data")
    before = tree_of(kernels_dir(machine))
    for file in layer_files(machine.store):
        file.write_bytes(b"damaged" + file.read_bytes()[7:])
    assert machine.snapper("restore", "data", "--prefix", machine.home / "copy").code == 12
    assert tree_of(kernels_dir(machine)) == before
    shutil.rmtree(machine.envs / "data")
    assert machine.snapper("restore", "data", "--prefix", machine.home / "copy").code == 12
    launch = (kernels_dir(machine) / "data-text" / "launch.sh").read_text()
    assert f"snapper_prefix={machine.home}/copy\n" in launch


def test_patterns_and_settings_select_and_order_environments(three: Machine) -> None:
    assert restored(three.run_json("restore", "--all", "--only", "t*", "--except", "*ee")) == ["two"]
    assert (
        three.expect_error(10, "restore", "--all", "--only", "four")["hint"]
        == "The store has: one, three, two."
    )
    none_left = three.expect_error(10, "restore", "--all", "--only", "t*", "--except", "*o", "--except", "t*")
    assert "is selected (only: 't*'; except: '*o', 't*')" in none_left["message"]
    assert (
        three.expect_error(2, "restore", "one", "--only", "t*")["message"] == "--only and --except need --all"
    )
    misspelled = three.snapper("restore", "--all", "--only", "one", "--except", "tow", "--except", "x*")
    assert "names tow, but" in misspelled.err
    assert "x*" not in misspelled.err
    three.run_json("config", "set", "except", "one")
    three.run_json("config", "set", "first", "thr*")
    assert restored(three.run_json("restore", "--all")) == ["two", "three"]
    shutil.rmtree(three.envs)
    three.envs.mkdir()
    assert restored(three.run_json("restore", "--all", "--jobs", "1")) == ["three", "two"]
    shutil.rmtree(three.envs / "two")
    shutil.rmtree(three.envs / "three")
    three.run_json("config", "unset", "first")
    used = three.home / ".local/state/snapper/used/two"
    used.touch()
    assert restored(three.run_json("restore", "--all", "--jobs", "1")) == ["two", "three"]


def test_missing_store_is_reported_by_kernels_of_earlier_restores(three: Machine) -> None:
    """They say why their environments are missing."""
    three.run_json("restore", "--all")
    shutil.rmtree(three.envs)
    three.envs.mkdir()
    three.store.rename(three.store.with_name("elsewhere"))
    error = three.expect_error(13, "restore", "--all", "--budget", "20")
    with started(three, "one-text") as kernel:
        assert kernel.manager.provisioner.process.wait(30) == 1  # type: ignore[union-attr]
        assert f"one could not be restored: {error['message']}" in kernel.log
        assert "snapper.log" in kernel.log
    assert three.snapper("status", "--json").json["last_restore"]["error"] == error["message"]


# --- time budget ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slow:
    """A machine with a slow connection to its store; the variables of a fast one are `direct`."""

    machine: Machine
    variables: dict[str, str]
    direct: dict[str, str]
    connection: Throttle

    @property
    def command(self) -> tuple[str, ...]:
        return "restore", "--all", "--envs-dir", str(self.machine.envs)

    def restore(self, *arguments: str) -> Outcome:
        """Restore all."""
        return self.machine.snapper(*self.command, *arguments, **self.variables)

    def last_restore(self) -> dict[str, Any]:
        """Return what `status` reports; it need not wait for its turn on the slow connection."""
        reported: dict[str, Any] = self.machine.run_json("status", **self.direct)["last_restore"]
        return reported

    def status(self) -> str:
        return self.machine.snapper("status", **self.direct).out

    def restore_in_background(self, *arguments: str) -> tuple[Outcome, dict[str, Any]]:
        """Restore all with a budget in which `tiny` cannot be restored; return the outcome and the status.

        Its kernel waits for it. On a busy machine it takes longer until the names of environments are known.
        """
        for budget in (2, 9, 27):
            outcome = self.restore("--budget", str(budget), *arguments)
            status = self.last_restore()
            if (kernels_dir(self.machine) / "tiny-python3").exists():
                return outcome, status
            os.killpg(status["process"], signal.SIGKILL)
        raise AssertionError("the names of the environments were never known in time")


@pytest.fixture(scope="module")
def s3_variables(
    s3_server: S3Server, beside_packages: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """The variables of a store on S3 that has an environment with a kernel and a small one."""
    home = tmp_path_factory.mktemp("s3_variables")
    variables = {
        **s3_server.variables(),
        "SNAPPER_STORE": f"s3://{s3_server.bucket}/slow-{secrets.token_hex(4)}",
        "SNAPPER_CACHE": "off",
    }
    machine = Machine(home, home / "envs", home / "store")
    prefix = beside_packages / "slow"
    make("tiny", prefix, bytecode=False)
    machine.run_json("pack", "-p", prefix, "--name", "tiny", **variables)
    machine.run_json("pack", "-p", make_data(machine.envs / "small"), "--name", "small", **variables)
    return variables


@pytest.fixture
def slow(machine: Machine, s3_variables: dict[str, str]) -> Iterator[Slow]:
    with throttled(s3_variables["AWS_ENDPOINT_URL_S3"], 300_000) as connection:
        throttled_variables = {**s3_variables, "AWS_ENDPOINT_URL_S3": connection.endpoint}
        yield Slow(machine, throttled_variables, s3_variables, connection)


def test_budget_leaves_a_slow_restore_to_the_background(slow: Slow) -> None:
    """The command does not wait; a kernel started then runs as soon as its environment is restored."""
    outcome, status = slow.restore_in_background("--json")
    assert outcome.code == 3, outcome
    background = outcome.json["background"]
    assert "tiny" in background["left"]
    assert sorted([*background["left"], *restored(outcome.json)]) == ["small", "tiny"]
    assert is_process_alive(background["process"], "")
    assert not (slow.machine.envs / "tiny").exists()
    assert status["at_work"]
    assert status["log"] == background["log"]
    assert "tiny: is being restored" in slow.status()
    with started(slow.machine, "tiny-python3") as kernel:
        wait_until(lambda: "waiting for tiny to be restored:" in kernel.log)
        assert kernel.manager.is_alive()
        kernel.manager.interrupt_kernel()
        slow.connection.rate = None
        kernel.wait()
        assert kernel.run("import sys; print(sys.prefix)") == f"{slow.machine.envs}/tiny\n"
    wait_until(lambda: not is_process_alive(background["process"], ""))
    assert "tiny was restored" in Path(background["log"]).read_text()
    assert "2 restored, 0 already in place, 0 failed" in slow.status()
    outcome = slow.restore("--budget", "200", "--json")
    assert outcome.code == 0
    assert all(entry["present"] for entry in outcome.json["restored"])
    assert "background" not in outcome.json


def test_restore_after_a_killed_background_restore_completes(slow: Slow) -> None:
    """No environment is ever incomplete, and kernels do not wait for a dead process."""
    outcome, run = slow.restore_in_background()
    assert outcome.code == 3, outcome
    assert re.search("continuing in the background .*: .*tiny", outcome.out)
    with started(slow.machine, "tiny-python3") as kernel:
        wait_until(lambda: "waiting for tiny" in kernel.log)
        os.killpg(run["process"], signal.SIGKILL)
        assert kernel.manager.provisioner.process.wait(30) == 1  # type: ignore[union-attr]
        assert "the restore of tiny was interrupted" in kernel.log
        assert run["log"] in kernel.log
    assert not (slow.machine.envs / "tiny").exists()
    assert "interrupted" in slow.status()
    slow.connection.rate = None
    outcome = slow.restore("--json")
    assert outcome.code == 0, outcome
    assert sorted(restored(outcome.json)) == ["small", "tiny"]
    assert {path.name for path in slow.machine.envs.iterdir()} == {"small", "tiny"}


def test_budget_bounds_the_wait_for_a_store_that_does_not_answer(slow: Slow) -> None:
    """The time is up before the names of the environments are known."""
    slow.connection.rate = 1
    outcome = slow.restore("--budget", "1", "--json")
    assert outcome.code == 3, outcome
    assert outcome.json["restored"] == outcome.json["background"]["left"] == []
    os.killpg(outcome.json["background"]["process"], signal.SIGKILL)


def test_interrupt_within_the_budget_ends_the_restore(slow: Slow) -> None:
    """Ctrl-C also ends the process that does the work."""
    running = start_command(slow.machine, *slow.command, "--budget", "200", **slow.variables)
    kernel = kernels_dir(slow.machine) / "tiny-python3" / "kernel.json"
    assert running.reaches(kernel.exists)
    work = slow.last_restore()["process"]
    running.send(signal.SIGINT)
    assert running.finish().code == 130
    assert not is_process_alive(work, "")
    assert {path.name for path in slow.machine.envs.iterdir()} <= {"small"}
