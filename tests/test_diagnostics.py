"""Diagnostics: the log file, and tracebacks of unexpected exceptions wherever they are raised."""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from snapper.errors import Corrupted, WorkerDied
from snapper.process import logs
from snapper.process.background import run_in_background
from snapper.settings import log_file
from snapper.settings.log_file import open_log
from tests.conftest import Machine, Outcome, tree_of
from tests.support.environments import make_data
from tests.support.stores import check_store, layer_files

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (\d+) (.*)")
#: The number of another user, who need not exist.
OTHER = 54321

TRACEBACK = "Traceback (most recent call last)"


def parse_lines(log: Path) -> list[tuple[int, str]]:
    """Return the PID and text of every line; check that every line has a time and a PID."""
    matches = [LINE.fullmatch(line) for line in log.read_text().splitlines()]
    assert all(matches), log.read_text()
    return [(int(match[1]), match[2]) for match in matches if match]


def text_of(log: Path) -> str:
    return "\n".join(text for _, text in parse_lines(log))


# --- the log file -----------------------------------------------------------------------------------------


def test_every_line_of_the_log_has_time_and_pid(tmp_path: Path) -> None:
    log = tmp_path / "state" / "snapper.log"
    with open_log(log) as file:
        print("one\ntwo", file=file)
        file.write("thr")
        file.write("ee\nfour")
    assert parse_lines(log) == [(os.getpid(), text) for text in ("one", "two", "three", "four")]


def test_line_breaks_in_messages_forge_no_records(capsys: pytest.CaptureFixture[str]) -> None:
    forged = "2026-01-01T00:00:00.000Z 1 INFO snapper: forged"
    logs.configure_logging(logging.DEBUG)
    try:
        raise ValueError(f"a\n{forged}\x1b[31m")
    except ValueError as error:
        logging.getLogger("snapper.test").info("%s", error, exc_info=True)
    finally:
        logs.configure_logging(logging.WARNING)
    first, *others = capsys.readouterr().err.splitlines()
    assert first.endswith(" INFO snapper.test: a")
    assert sum(forged in line for line in others) == 2
    assert all(line.startswith("  ") for line in others)
    assert not any("\x1b" in line for line in others)


def _write_lines(log: Path, letter: str) -> None:
    with open_log(log) as file:
        for number in range(500):
            print(letter * 300, number, file=file)


def test_lines_of_several_processes_do_not_mix(tmp_path: Path) -> None:
    log = tmp_path / "snapper.log"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_lines, args=(log, letter)) for letter in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    texts = [text for _, text in parse_lines(log)]
    assert sorted(texts) == sorted(f"{letter * 300} {number}" for letter in "abc" for number in range(500))


def test_large_log_is_renamed_when_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_file, "_MAX_SIZE", 100)
    log = tmp_path / "snapper.log"
    with open_log(log) as first:
        print("x" * 200, file=first)
        with open_log(log) as second:
            print("new", file=second)
            print("old", file=first)
    assert [text for _, text in parse_lines(log)] == ["new"]
    assert [text for _, text in parse_lines(tmp_path / "snapper.log.1")] == ["x" * 200, "old"]


# --- background work --------------------------------------------------------------------------------------


def _raise_unexpected(emit: Callable[[object], None]) -> None:
    emit("an event")
    sys.stdout.write("some output\n")
    raise ZeroDivisionError("a bug")


def _raise_corrupted(emit: Callable[[object], None]) -> None:
    raise Corrupted("the layer", "truncated")


def _die(emit: Callable[[object], None]) -> None:
    os._exit(7)


def test_unexpected_exception_of_background_work_reaches_the_parent_and_the_log(tmp_path: Path) -> None:
    log = tmp_path / "snapper.log"
    with pytest.raises(ZeroDivisionError, match="a bug") as caught:
        run_in_background(_raise_unexpected, time.monotonic() + 60, partial(open_log, log))
    assert "in _raise_unexpected\n" in str(caught.value.__cause__)
    assert "some output" in text_of(log)
    assert "in _raise_unexpected\n" in text_of(log)
    assert {pid for pid, _ in parse_lines(log)} != {os.getpid()}


def test_error_of_background_work_reaches_the_parent_with_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(Corrupted, match="truncated") as caught:
        run_in_background(
            _raise_corrupted, time.monotonic() + 60, partial(open_log, tmp_path / "snapper.log")
        )
    assert "in _raise_corrupted\n" in str(caught.value.__cause__)


def test_death_of_background_work_is_reported(tmp_path: Path) -> None:
    with pytest.raises(WorkerDied) as caught:
        run_in_background(_die, time.monotonic() + 60, partial(open_log, tmp_path / "snapper.log"))
    assert caught.value.status == 7


def test_background_work_without_a_log_succeeds(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    log = tmp_path / "file" / "snapper.log"
    report = run_in_background(lambda emit: emit("an event"), time.monotonic() + 60, partial(open_log, log))
    assert (report.events, report.pid) == (["an event"], None)


# --- unexpected exceptions in commands --------------------------------------------------------------------


@dataclass(frozen=True)
class BrokenMachine(Machine):
    """A machine on which snapper has a bug: `patch` are statements that run before the command."""

    patch: str = ""

    def command(self, *arguments: object) -> list[str]:
        script = f"{_FAIL}\n{self.patch}\nfrom snapper.cli.main import main\nmain()"
        return [sys.executable, "-c", script, *map(str, arguments)]

    def snapper(self, *arguments: object, **variables: str) -> Outcome:
        """Run `snapper` to completion, whatever it prints."""
        done = subprocess.run(
            self.command(*arguments),
            env={**self.variables, **variables},
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)


_FAIL = """
def fail(*arguments, **options):
    raise ZeroDivisionError("injected")
def fail_oddly(*arguments, **options):
    raise ZeroDivisionError("injected\\nodd\\x1b[31m")
"""

IN_PACK_WORKER = "from snapper.packing import collect; collect.LayerBuilder = fail"
IN_RESTORE_WORKER = "from snapper.restoring import layer_writer; layer_writer.read_layer = fail"
IN_STORE = "from snapper.store.local import LocalStore; LocalStore.put = LocalStore.replace = fail"


def broken(machine: Machine, patch: str) -> BrokenMachine:
    return BrokenMachine(machine.home, machine.envs, machine.store, patch)


def log_of(machine: Machine) -> Path:
    return machine.home / ".local/state/snapper/snapper.log"


def assert_unexpected(outcome: Outcome, machine: Machine) -> str:
    """Assert that the outcome is the injected exception, reported in one line; return the text of the log file."""
    assert outcome.code == 1, outcome
    assert TRACEBACK not in outcome.err
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("snapper: ")]
    assert line == "snapper: unexpected error: ZeroDivisionError: injected"
    assert str(log_of(machine)) in outcome.err
    text = text_of(log_of(machine))
    assert "in fail\n" in text
    assert "ZeroDivisionError: injected" in text
    return text


@pytest.fixture
def data(machine: Machine) -> Path:
    """The prefix of an environment that has changed since its snapshot was stored."""
    prefix = make_data(machine.envs / "data")
    machine.run_json("pack", "data")
    (prefix / "new").write_text("new")
    return prefix


@pytest.mark.parametrize("patch", [IN_PACK_WORKER, IN_STORE], ids=["worker", "store"])
def test_unexpected_exception_in_pack_changes_nothing(patch: str, machine: Machine, data: Path) -> None:
    before = check_store(machine.store), tree_of(data)
    text = assert_unexpected(broken(machine, patch).snapper("pack", "data"), machine)
    assert "in _run_next\n" in text or patch == IN_STORE
    assert (check_store(machine.store), tree_of(data)) == before
    machine.run_json("pack", "data")


def test_unexpected_exception_in_a_restore_worker_changes_nothing(machine: Machine, data: Path) -> None:
    before = tree_of(data)
    outcome = broken(machine, IN_RESTORE_WORKER).snapper("restore", "data", "--replace")
    text = assert_unexpected(outcome, machine)
    assert "in _run_next\n" in text
    assert tree_of(data) == before
    assert [*data.parent.iterdir()] == [data]
    machine.run_json("restore", "data", "--replace")


def test_unexpected_exception_while_restoring_within_a_budget_is_reported(
    machine: Machine, data: Path
) -> None:
    shutil.rmtree(data)
    command = ("restore", "--all", "--budget", "60", "--envs-dir", machine.envs)
    text = assert_unexpected(broken(machine, IN_RESTORE_WORKER).snapper(*command), machine)
    assert "in _run_next\n" in text
    assert not data.exists()
    machine.run_json(*command)


def test_unexpected_exception_while_rendering_loses_no_result(machine: Machine, data: Path) -> None:
    patch = "from snapper.cli.render import output; output.echo = fail"
    before = check_store(machine.store)
    assert_unexpected(broken(machine, patch).snapper("pack", "data"), machine)
    assert check_store(machine.store) != before
    assert machine.run_json("pack", "data")["unchanged"]


def test_unexpected_exception_is_json_with_json(machine: Machine, data: Path) -> None:
    outcome = broken(machine, IN_STORE).snapper("pack", "data", "--json")
    assert outcome.code == 1
    assert outcome.json["error"]["type"] == "UnexpectedError"
    assert outcome.json["error"]["message"] == "unexpected error: ZeroDivisionError: injected"
    assert "in fail\n" in text_of(log_of(machine))


def test_traceback_is_printed_if_there_can_be_no_log(machine: Machine, data: Path) -> None:
    shutil.rmtree(machine.home / ".local")
    (machine.home / ".local").write_text("not a directory")
    outcome = broken(machine, IN_STORE).snapper("pack", "data")
    assert outcome.code == 1
    assert "in fail\n" in outcome.err
    assert "snapper: unexpected error: ZeroDivisionError: injected" in outcome.err


def test_traceback_without_a_log_is_escaped(machine: Machine, data: Path) -> None:
    shutil.rmtree(machine.home / ".local")
    (machine.home / ".local").write_text("not a directory")
    outcome = broken(machine, IN_STORE.replace("fail", "fail_oddly")).snapper("pack", "data")
    assert "\x1b" not in outcome.err
    assert "  odd\\x1b[31m" in outcome.err


# --- log levels -------------------------------------------------------------------------------------------


def restore_corrupted(machine: Machine, data: Path, level: str) -> str:
    """Restore a snapshot whose layers are corrupted, which must fail; return what is written to stderr."""
    for layer in layer_files(machine.store):
        layer.write_bytes(layer.read_bytes()[:-1] + b"\0")
    done = subprocess.run(
        machine.command("restore", "data", "--replace"),
        env={**machine.variables, "SNAPPER_LOG": level},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 12, done
    return done.stderr


def test_errors_have_the_traceback_of_the_worker_at_level_debug(machine: Machine, data: Path) -> None:
    stderr = restore_corrupted(machine, data, "debug")
    assert TRACEBACK in stderr
    assert "in _run_next\n" in stderr
    assert "DEBUG snapper.process.pool: started" in stderr


@pytest.mark.parametrize(("level", "shows_phases"), [("info", True), ("warning", False)])
def test_phases_are_logged_at_level_info(
    level: str, shows_phases: bool, machine: Machine, data: Path
) -> None:
    stderr = restore_corrupted(machine, data, level)
    assert TRACEBACK not in stderr
    assert ("INFO snapper.commands.restore: restoring data" in stderr) == shows_phases


def test_background_work_logs_its_phases(machine: Machine, data: Path) -> None:
    shutil.rmtree(data)
    machine.run_json("restore", "--all", "--budget", "60", "--envs-dir", machine.envs)
    text = text_of(log_of(machine))
    assert text.count("INFO snapper.commands.restore: restoring data") == 1
    assert "DEBUG" not in text


def test_importing_snapper_configures_no_logging() -> None:
    script = "import logging, snapper.api; print(logging.root.handlers, logging.getLogger('snapper').level)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == f"[] {logging.NOTSET}\n"


@pytest.mark.parametrize("kind", ["pipe", "link", "hard link", "directory"])
def test_log_is_a_regular_file(tmp_path: Path, kind: str) -> None:
    """Opening a pipe to write waits for a reader, and a link may lead to any file of the user."""
    log, elsewhere = tmp_path / "snapper.log", tmp_path / "elsewhere"
    elsewhere.touch()
    if kind == "pipe":
        os.mkfifo(log)
    elif kind == "link":
        log.symlink_to(elsewhere)
    elif kind == "hard link":
        log.hardlink_to(elsewhere)
    else:
        log.mkdir()
    with pytest.raises(OSError, match=r"."):
        open_log(log)
    assert elsewhere.read_bytes() == b""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
@pytest.mark.parametrize("path", [".local", ".local/state/snapper", ".local/state/snapper/snapper.log"])
def test_log_of_root_is_not_where_a_user_wants_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Root works with the home of a user, who has put a link in place of the log or of a directory above it."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    (elsewhere / "state/snapper").mkdir(parents=True)
    before = tree_of(elsewhere)
    link = home / path
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere / "snapper.log" if path.endswith(".log") else elsewhere)
    for directory, names, files in os.walk(home):
        for name in ("", *names, *files):
            os.chown(Path(directory, name), OTHER, OTHER, follow_symlinks=False)
    monkeypatch.setenv("HOME", str(home))
    with pytest.raises(OSError, match=r"belongs to|is a link of"):
        log_file.log_crash(ValueError("a bug"))
    assert tree_of(elsewhere) == before
