"""What the command line prints where: results, notes, log messages, colors, and completions."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from snapper.store.cache_directory import CacheDirectory
from tests.conftest import Machine
from tests.support.stores import edit_ref


@pytest.fixture
def packed(machine: Machine, pristine: Callable[[str], Path]) -> Machine:
    machine.run_json("pack", "-p", pristine("data"), "-n", "data")
    machine.run_json("tag", "data", "v1")
    return machine


def test_quiet_leaves_results_and_errors(packed: Machine, pristine: Callable[[str], Path]) -> None:
    for options in ([], ["--quiet"]):
        store = packed.home / "-".join(["store", *options])
        outcome = packed.snapper("pack", "-p", pristine("data"), "-n", "data", "--store", store, *options)
        assert outcome.out.startswith("Packed data")
        assert bool(outcome.err) == (not options)
    assert "'absent' is not in the store" in packed.snapper("show", "absent", "-q").err


def test_verbose_logs_to_stderr(packed: Machine, pristine: Callable[[str], Path]) -> None:
    plain = packed.snapper("list")
    assert plain.err == ""
    for arguments, variables, levels in (
        (("-v",), {}, {"INFO"}),
        (("-vv",), {}, {"INFO", "DEBUG"}),
        ((), {"SNAPPER_LOG": "debug"}, {"INFO", "DEBUG"}),
        (("-v",), {"SNAPPER_LOG": "error"}, set[str]()),
    ):
        outcome = packed.snapper(
            "pack", "-p", pristine("data"), "-n", "logged", "--json", *arguments, **variables
        )
        assert outcome.json["environment"] == "logged"
        assert {level for level in ("INFO", "DEBUG") if f" {level} snapper." in outcome.err} == levels


def test_verbosity_options_are_checked(packed: Machine) -> None:
    packed.expect_error(2, "list", "-v", "-q")
    error = packed.expect_error(2, "list", SNAPPER_LOG="loud")
    assert "SNAPPER_LOG" in error["message"] and "debug" in error["hint"]


def test_options_of_a_group_apply_to_its_commands(packed: Machine) -> None:
    assert packed.snapper("kernels", "-q", "list").code == 0
    assert packed.snapper("kernels", "-q", "list", "-v").code == 2


def test_options_before_the_command_are_refused_with_the_right_order(packed: Machine) -> None:
    assert packed.expect_error(2, "--store", "x", "list")["hint"].startswith(
        "Put options of a command after it."
    )


def test_arguments_that_are_too_many_are_named(packed: Machine) -> None:
    assert packed.expect_error(2, "pack", "one", "two", "three")["message"] == "too many arguments: two three"


def test_output_of_both_streams_keeps_its_order(packed: Machine, tmp_path: Path) -> None:
    """In a log, a problem stands below the environment that it concerns."""
    packed.run_json("restore", "data")
    packed.store.rename(packed.store.with_name("elsewhere"))
    with (tmp_path / "log").open("wb") as log:
        command = packed.command("status")
        subprocess.run(command, env=packed.variables, stdout=log, stderr=log, cwd=packed.home, check=False)
    first, *_, last = (tmp_path / "log").read_text().splitlines()
    assert first.startswith("data: ") and last.startswith("  The first snapper pack creates it"), (
        first,
        last,
    )


# --- colors -----------------------------------------------------------------------------------------------


def on_terminal(machine: Machine, *arguments: str, **variables: str) -> str:
    """What a command prints if stdout and stderr are a terminal."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        machine.command(*arguments),
        env={**machine.variables, "TERM": "xterm", **variables},
        cwd=machine.home,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    output = bytearray()
    try:
        while data := os.read(ours, 1 << 16):
            output += data
    except OSError:  # on Linux, what a terminal gives whose other end is closed
        pass
    finally:
        os.close(ours)
    process.wait()
    return output.decode()


def test_terminals_get_colors_unless_no_color_is_set(packed: Machine) -> None:
    for arguments in (("list",), ("--help",), ("show", "absent")):
        assert "\x1b[" in on_terminal(packed, *arguments)
        plain = on_terminal(packed, *arguments, NO_COLOR="1")
        assert "\x1b[3" not in plain
        outcome = packed.snapper(*arguments)
        assert "\x1b" not in outcome.out + outcome.err


# --- completion -------------------------------------------------------------------------------------------


def completed(machine: Machine, line: str, **variables: str) -> list[str]:
    words = line.split(" ")
    outcome = machine.snapper(
        **{
            "_SNAPPER_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
            **variables,
        }
    )
    assert outcome.err == ""
    return outcome.out.split()


def test_completion_of_commands_environments_tags_and_settings(packed: Machine) -> None:
    (packed.envs / "local" / "conda-meta").mkdir(parents=True)
    assert completed(packed, "snapper re") == ["restore", "remove"]
    assert completed(packed, "snapper restore d") == ["data"]
    assert completed(packed, "snapper show data@") == ["data@v1"]
    assert completed(packed, "snapper pack l") == ["local"]
    assert completed(packed, "snapper status ") == ["data", "local"]
    assert completed(packed, "snapper config get cache") == ["cache", "cache_size", "caches"]
    # As bash passes what it has split at the @, and replaces from there on:
    for words, tags in (
        ("data @", ["@v1"]),
        ("data @ v", ["@v1"]),
        ("data @ x", []),
        ("data @ v1 data @", ["@v1"]),
    ):
        split = f"snapper diff {words}".replace(" ", "\n")
        assert completed(packed, split, COMP_CWORD=str(split.count("\n"))) == tags
    other = packed.home / "other"
    packed.run_json("push", "data", "--to", other)
    assert completed(packed, f"snapper show --store {other} ") == ["data"]


def test_completion_suggests_nothing_that_a_shell_would_evaluate(packed: Machine) -> None:
    edit_ref(packed.store, "data", lambda ref: ref["tags"].update({"v$(id)": ref["current"]}))
    for name in ("data$(id)", "data;id", "data`id`", "data\\\nid"):
        (packed.envs / name / "conda-meta").mkdir(parents=True)
        (packed.store / "environments" / f"{name}.json").write_text("{}")
    assert completed(packed, "snapper status d") == ["data"]
    assert completed(packed, "snapper show data@") == ["data@v1"]


def test_completion_of_a_store_on_s3_reads_the_cache_only(machine: Machine) -> None:
    cached = machine.home / "cache" / "bucket-0123456789ab"
    CacheDirectory(str(cached.parent), cached.name).make()
    (cached / "environments").mkdir()
    (cached / "environments.json").write_text('["environments/team.json"]')
    (cached / "environments" / "mine.json").write_text('{"tags": {"v2": "x"}}')
    (machine.home / "cache" / "other-0123456789ab" / "environments").mkdir(parents=True)
    variables = {
        "SNAPPER_STORE": "s3://bucket/envs",
        "SNAPPER_CACHE": str(machine.home / "cache"),
        "AWS_ENDPOINT_URL": "http://192.0.2.1",
    }
    assert completed(machine, "snapper restore ", **variables) == ["mine", "team"]
    assert completed(machine, "snapper restore mine@", **variables) == ["mine@v2"]
    (cached / "environments.json").write_text('["environments/\\u001b[2J.json", "team", 1]')
    (cached / "environments" / "mine.json").write_text('{"tags": {"\\u001b[2J": "x", "v3": "y"}}')
    assert completed(machine, "snapper restore ", **variables) == ["mine"]
    assert completed(machine, "snapper restore mine@", **variables) == ["mine@v3"]
    for file in (cached / "environments.json", cached / "environments" / "mine.json"):
        file.unlink()
        os.mkfifo(file)
    assert completed(machine, "snapper restore mine@", **variables) == []


def test_completion_never_fails(machine: Machine) -> None:
    for store in (machine.home / "missing", "gopher://x", "s3://", machine.home / "\udcff"):
        assert completed(machine, "snapper restore ", SNAPPER_STORE=str(store)) == []
    file = machine.home / ".config/snapper/config.toml"
    file.parent.mkdir(parents=True)
    file.write_text("not TOML")
    assert completed(machine, "snapper restore ") == []
    file.chmod(0o666)  # a command would warn
    assert completed(machine, "snapper restore ") == []
    machine.store.mkdir()
    (machine.store / "environments").write_text("not a directory")
    file.unlink()
    assert completed(machine, "snapper restore ") == []
    assert completed(machine, "snapper restore x@") == []
