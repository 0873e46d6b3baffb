"""Worker processes: results and errors reach the parent, and no worker outlives its parent."""

from __future__ import annotations

import dataclasses
import gc
import logging
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from snapper import errors
from snapper.errors import Corrupted, SnapperError, UsageError, WorkerDied
from snapper.process import pool as pool_module
from snapper.process import worker
from snapper.process.logs import configure_logging
from snapper.process.pool import WorkerPool, default_worker_count
from snapper.process.worker import Prefetch
from tests.support.jobs import (
    add,
    exit_with,
    fail,
    has_ended,
    kill_worker,
    kill_worker_while_it_answers,
    raise_unexpected,
    return_pid,
    reverse,
    sleep,
    touch,
    wait_for,
    wait_until,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

ROOT = Path(__file__).parent.parent


def all_results(workers: WorkerPool[Any]) -> dict[int, Any]:
    return dict(workers.results())


# --- results ----------------------------------------------------------------------------------------------


def test_every_job_yields_its_result() -> None:
    with WorkerPool(1000, 3) as workers:
        numbers = {workers.submit(add, number, number % 7): number for number in range(100)}
        results = all_results(workers)
    assert results == {job: 1000 + number for job, number in numbers.items()}


def call(_: object, argument: Callable[[], object]) -> object:
    return argument()


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
def test_shared_arguments_are_not_sent_to_forked_workers() -> None:
    """Lambdas cannot be pickled, so they could not be sent."""

    def returning(number: int) -> Callable[[], int]:
        return lambda: number

    shared = [returning(number) for number in range(20)]
    with WorkerPool(None, 2, shared) as workers:
        numbers = {workers.submit(call, function, 1): function() for function in shared}
        numbers[workers.submit(call, os.getppid, 1)] = os.getpid()
        assert all_results(workers) == numbers


def test_without_jobs_there_are_no_results() -> None:
    with WorkerPool(None, 2) as workers:
        assert all_results(workers) == {}


def test_jobs_of_greater_weight_start_first() -> None:
    with WorkerPool(0, 1) as workers:
        for weight in (3, 9, 1, 5, 9):
            workers.submit(add, weight, weight)
        assert [result for _, result in workers.results()] == [9, 9, 5, 3, 1]


def test_pool_starts_the_requested_number_of_processes(tmp_path: Path) -> None:
    with WorkerPool(None, 3) as workers:
        for name in ("a", "b"):
            workers.submit(wait_for, tmp_path / name, 5)
        workers.submit(touch, tmp_path / "a", 1)
        workers.submit(touch, tmp_path / "b", 1)
        assert sorted(all_results(workers).values()) == ["a", "a", "b", "b"]
        for _ in range(20):
            workers.submit(return_pid, None, 1)
        assert os.getpid() not in all_results(workers).values()
    assert 1 <= default_worker_count() <= 16


def test_jobs_can_be_submitted_while_results_arrive() -> None:
    found = []
    with WorkerPool(0, 2) as workers:
        workers.submit(add, 6, 1)
        for _, result in workers.results():
            found.append(result)
            for _ in range(min(result, 2)):
                workers.submit(add, result - 1, 1)
    assert sorted(found) == sorted([6] + [5] * 2 + [4] * 4 + [3] * 8 + [2] * 16 + [1] * 32 + [0] * 32)


def test_pool_can_be_used_repeatedly() -> None:
    with WorkerPool(10, 2) as workers:
        for turn in range(5):
            job = workers.submit(add, turn, 1)
            assert all_results(workers) == {job: 10 + turn}


def test_large_arguments_and_results_do_not_deadlock() -> None:
    data = os.urandom(10_000_000)
    with WorkerPool(None, 2) as workers:
        for _ in range(6):
            workers.submit(reverse, data, 1)
        assert list(all_results(workers).values()) == [data[::-1]] * 6


def test_workers_are_spawned_if_forking_is_not_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = WorkerPool(1000, 2)
    monkeypatch.setattr(workers, "_forks", False)
    with workers:
        jobs = [workers.submit(add, number, 1) for number in range(4)]
        assert all_results(workers) == {job: 1000 + number for number, job in enumerate(jobs)}
        workers.submit(fail, "spawned", 1)
        with pytest.raises(Corrupted, match="spawned"):
            all_results(workers)


def test_spawned_workers_run_no_code_of_the_current_directory(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    for module in ("multiprocessing", "pickle", "socket", "signal", "runpy"):
        (here / f"{module}.py").write_text("import sys; sys.stderr.write('planted code ran')")
    program = tmp_path / "program.py"
    program.write_text(f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from operator import add
from snapper.process.pool import WorkerPool
if __name__ == "__main__":
    workers = WorkerPool(40, 2)
    workers._forks = False
    with workers:
        workers.submit(add, 2, 1)
        print([*workers.results()], end="")
""")
    command = [sys.executable, str(program)]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("[(1, 42)]", "")


# --- errors -----------------------------------------------------------------------------------------------


def test_pool_remains_usable_after_a_snapper_error(tmp_path: Path) -> None:
    with WorkerPool(0, 3) as workers:
        before = {workers.submit(return_pid, None, 9) for _ in range(3)}
        pids = {result for job, result in workers.results() if job in before}
        workers.submit(wait_for, tmp_path / "late", 9)
        workers.submit(fail, "truncated", 8)
        workers.submit(touch, tmp_path / "late", 7)
        for _ in range(10):
            workers.submit(touch, tmp_path / "never", 1)
        with pytest.raises(Corrupted) as caught:
            for _ in workers.results():
                pass
        assert (caught.value.what, caught.value.reason) == ("the layer", "truncated")
        assert all_results(workers) == {}
        jobs = [workers.submit(add, number, 1) for number in range(10)]
        assert all_results(workers) == {job: number for number, job in enumerate(jobs)}
        assert all(not has_ended(each) for each in pids)


def all_errors() -> list[SnapperError]:
    """Return an instance of every error type, with values of the right types in its fields."""
    values: dict[str, object] = {"str": "a\nb", "int": 7, "bool": True, "tuple[str, ...]": ("a", "b")}
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, SnapperError)
    ]
    return [
        kind(*(values[str(field.type)] for field in dataclasses.fields(kind)))  # type: ignore[arg-type]
        for kind in kinds
        if kind is not SnapperError
    ]


@pytest.mark.parametrize("error", all_errors(), ids=lambda error: type(error).__name__)
def test_every_error_survives_pickling(error: SnapperError) -> None:
    other = pickle.loads(pickle.dumps(error))
    assert type(other) is type(error)
    assert (other.message, other.hint, other.code) == (error.message, error.hint, error.code)
    assert str(other) == error.message


def test_unexpected_exception_stops_the_pool(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError, match="a bug"), WorkerPool(None, 2) as workers:
        workers.submit(sleep, tmp_path / "started", 9)
        workers.submit(wait_for, tmp_path / "started", 8)
        workers.submit(raise_unexpected, None, 1)
        for _ in workers.results():
            pass


def test_stopped_pool_refuses_jobs() -> None:
    with WorkerPool(0, 2) as workers:
        workers.submit(raise_unexpected, None, 1)
        with pytest.raises(ZeroDivisionError):
            all_results(workers)
        workers.submit(add, 1, 1)
        with pytest.raises(RuntimeError, match="stopped"):
            all_results(workers)


@pytest.mark.parametrize(("job", "kind"), [(raise_unexpected, ZeroDivisionError), (fail, Corrupted)])
@pytest.mark.parametrize("forks", [True, False], ids=["forked", "spawned"])
def test_error_carries_the_traceback_of_the_worker(
    job: Callable[..., object], kind: type[Exception], forks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = WorkerPool(None, 1)
    monkeypatch.setattr(workers, "_forks", forks and sys.platform == "linux")
    with pytest.raises(kind) as caught, workers:
        workers.submit(job, "a reason", 1)
        all_results(workers)
    shown = "".join(traceback.format_exception(caught.value))
    assert f"in {job.__name__}\n" in shown
    assert "in _run_next\n" in shown
    assert shown.count("Traceback (most recent call last)") == 2


def test_outcome_of_a_failed_job_carries_the_traceback_of_the_worker() -> None:
    with WorkerPool(None, 1) as workers:
        workers.submit(fail, "a reason", 1)
        ((_, error),) = workers.outcomes()
    assert "in fail\n" in str(error.__cause__)


class _Unpicklable(Exception):
    def __init__(self, number: int, reason: str) -> None:
        super().__init__(f"{reason} {number}")


def _raise_unpicklable(_: object, __: object) -> None:
    raise _Unpicklable(7, "reason")


def _return_unpicklable(_: object, __: object) -> object:
    return lambda: None


def test_exception_that_cannot_be_pickled_is_replaced() -> None:
    with (
        pytest.raises(RuntimeError, match="_Unpicklable: reason 7") as caught,
        WorkerPool(None, 1) as workers,
    ):
        workers.submit(_raise_unpicklable, None, 1)
        all_results(workers)
    assert "in _raise_unpicklable\n" in str(caught.value.__cause__)


def test_result_that_cannot_be_pickled_is_an_error() -> None:
    with pytest.raises(Exception, match="pickle"), WorkerPool(None, 1) as workers:
        workers.submit(_return_unpicklable, None, 1)
        all_results(workers)


def _log(_: object, text: str) -> None:
    logger = logging.getLogger("snapper.test")
    logger.debug("not %s", text)
    logger.info(text)


@pytest.mark.parametrize("forks", [True, False], ids=["forked", "spawned"])
def test_workers_log_at_the_level_of_the_parent(
    forks: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    configure_logging(logging.INFO)
    workers = WorkerPool(None, 1)
    monkeypatch.setattr(workers, "_forks", forks and sys.platform == "linux")
    with workers:
        workers.submit(_log, "shown", 1)
        all_results(workers)
    configure_logging(logging.WARNING)
    (line,) = capfd.readouterr().err.splitlines()
    assert re.fullmatch(r"\S+Z \d+ INFO snapper\.test: shown", line)
    assert int(line.split()[1]) != os.getpid()


# --- deaths -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("job", [kill_worker, kill_worker_while_it_answers])
def test_killed_worker_is_reported_and_other_workers_continue(job: Callable[..., object]) -> None:
    with WorkerPool(0, 2) as workers:
        workers.submit(job, signal.SIGKILL, 1)
        with pytest.raises(WorkerDied) as caught:
            all_results(workers)
        assert caught.value.status == -signal.SIGKILL
        assert "signal 9" in caught.value.message
        assert "memory" in caught.value.hint
        assert "--jobs 1" in caught.value.hint
        jobs = [workers.submit(add, number, 1) for number in range(10)]
        assert all_results(workers) == {job: number for number, job in enumerate(jobs)}


def test_pool_without_live_workers_refuses_jobs() -> None:
    with WorkerPool(0, 1) as workers:
        for _ in range(3):
            workers.submit(kill_worker, signal.SIGKILL, 1)
            with pytest.raises(WorkerDied) as caught:
                all_results(workers)
            assert caught.value.status == -signal.SIGKILL


def test_killing_all_workers_is_reported() -> None:
    with WorkerPool(0, 3) as workers:
        for _ in range(6):
            workers.submit(kill_worker, signal.SIGKILL, 1)
        with pytest.raises(WorkerDied):
            all_results(workers)


def test_killed_idle_worker_is_reported() -> None:
    with WorkerPool(0, 1) as workers:
        workers.submit(return_pid, None, 1)
        ((_, number),) = workers.results()
        os.kill(number, signal.SIGKILL)
        wait_until(lambda: has_ended(number))
        workers.submit(reverse, b"x" * 1_000_000, 1)
        with pytest.raises(WorkerDied) as caught:
            all_results(workers)
        assert caught.value.status == -signal.SIGKILL
        gc.collect()  # Python 3.13 warns about the buffer that was not sent if the error still refers to it


def test_report_of_a_killed_worker_says_what_it_was_doing() -> None:
    with WorkerPool(0, 1) as workers:
        workers.submit(kill_worker, signal.SIGKILL, 2, label="extracting numpy")
        workers.submit(kill_worker, signal.SIGKILL, 1, label="extracting scipy")
        with pytest.raises(WorkerDied) as caught:
            all_results(workers)
    assert caught.value.job == "extracting numpy"
    assert caught.value.message.endswith("while extracting numpy")


def test_worker_that_exits_is_reported() -> None:
    with WorkerPool(None, 2) as workers:
        workers.submit(exit_with, 3, 1)
        with pytest.raises(WorkerDied, match="status 3"):
            all_results(workers)


# --- shutdown ---------------------------------------------------------------------------------------------


def test_pool_leaves_no_process() -> None:
    with WorkerPool(None, 3) as workers:
        for _ in range(30):
            workers.submit(return_pid, None, 1)
        pids = set(all_results(workers).values())
    assert pids
    assert all(has_ended(number) for number in pids)


def test_closing_results_stops_running_jobs(tmp_path: Path) -> None:
    with WorkerPool(None, 2) as workers:
        workers.submit(sleep, tmp_path / "started", 9)
        workers.submit(wait_for, tmp_path / "started", 8)
        with closing(workers.results()) as results:
            assert next(results)[1] == "started"
        assert multiprocessing.active_children() == []


def test_exception_in_the_caller_stops_running_jobs(tmp_path: Path) -> None:
    with pytest.raises(KeyError), WorkerPool(None, 2) as workers:
        workers.submit(sleep, tmp_path / "started", 9)
        workers.submit(wait_for, tmp_path / "started", 8)
        for _ in workers.results():
            raise KeyError
    assert multiprocessing.active_children() == []


PARENT = """
import multiprocessing, sys
from pathlib import Path
from snapper.process import pool
from snapper.process.pool import WorkerPool
from tests.support import jobs
from tests.support.jobs import sleep, wait_for
started = Path(sys.argv[1])
pool._PATIENCE = 1
with WorkerPool(None, 3) as workers:
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    workers.submit(getattr(jobs, sys.argv[2]), started, 9)
    workers.submit(wait_for, started, 8)
    workers.submit(sleep, None, 7)
    for _, result in workers.results():
        print(result, flush=True)
"""


@pytest.mark.parametrize(
    ("number", "job"),
    [
        (signal.SIGKILL, "sleep"),
        (signal.SIGTERM, "sleep"),
        (signal.SIGINT, "sleep"),
        (signal.SIGKILL, "search"),
        (signal.SIGINT, "search"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
@pytest.mark.parametrize("whole_group", [False, True], ids=["parent", "group"])
def test_workers_end_with_their_parent(
    tmp_path: Path, number: signal.Signals, job: str, whole_group: bool
) -> None:
    """They do even if they are in C code, which does not notice signals."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, tmp_path / "started", job],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 3
    assert parent.stdout.readline() == "started\n"
    if whole_group:
        os.killpg(parent.pid, number)
    else:
        parent.send_signal(number)
    _, stderr = parent.communicate(timeout=60)
    wait_until(lambda: all(map(has_ended, pids)))
    assert parent.returncode == -number
    assert stderr.count("Traceback") == (number == signal.SIGINT)
    assert "Process" not in stderr


LATE = """
import multiprocessing, os
from snapper.process import pool
from tests.support.jobs import wait_until, sleep
me, work = os.getpid(), pool.run_worker
def late(*arguments):
    wait_until(lambda: os.getppid() != me)
    work(*arguments)
pool.run_worker = late
with pool.WorkerPool(None, 2) as workers:
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    workers.submit(sleep, None, 1)
    workers.submit(sleep, None, 1)
    list(workers.results())
"""


def test_workers_that_start_after_their_parent_was_killed_exit() -> None:
    parent = subprocess.Popen([sys.executable, "-c", LATE], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.kill()
    parent.communicate(timeout=60)
    wait_until(lambda: all(map(has_ended, pids)))


def test_worker_that_is_terminated_before_it_starts_exits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second worker, which already has a job, gets the signal when the first has failed. The job never ends."""
    start = worker.run_worker

    def late(connection: object, setup: object, inherited: list[object]) -> None:
        if len(inherited) == 2:
            wait_until(lambda: signal.SIGTERM in signal.sigpending())
        start(connection, setup, inherited)  # type: ignore[arg-type]

    monkeypatch.setattr(pool_module, "run_worker", late)
    with pytest.raises(ZeroDivisionError), WorkerPool(None, 2) as pool:
        pool.submit(raise_unexpected, None, 2)
        pool.submit(sleep, None, 1)
        list(pool.results())


# --- outcomes ---------------------------------------------------------------------------------------------


def _fail_if_odd(_: None, number: int) -> int:
    if number % 2:
        raise UsageError(f"{number} is odd")
    return number


def _prefetch_nothing(_: None, number: int) -> None:
    """Let jobs be sent to a worker before it has ended others."""


def _kill_worker_if_odd(_: None, number: int, prefetched: None = None) -> int:
    if number % 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_failed_job_does_not_stop_other_jobs() -> None:
    with WorkerPool(None, 2) as workers:
        jobs = {workers.submit(_fail_if_odd, number, 1): number for number in range(20)}
        outcomes = {jobs[number]: outcome for number, outcome in workers.outcomes()}
    assert {number for number, outcome in outcomes.items() if outcome == number} == set(range(0, 20, 2))
    assert all(isinstance(outcomes[number], UsageError) for number in range(1, 20, 2))


def test_killed_worker_fails_only_its_own_job() -> None:
    with WorkerPool(None, 3) as workers:
        jobs = {
            workers.submit(_kill_worker_if_odd, number, 100 - number): number for number in (1, 2, 3, 4, 6)
        }
        outcomes = {jobs[number]: outcome for number, outcome in workers.outcomes()}
        assert {number for number, outcome in outcomes.items() if isinstance(outcome, WorkerDied)} == {1, 3}
        assert {2, 4, 6} <= set(outcomes.values())
        last = workers.submit(_kill_worker_if_odd, 5, 2), workers.submit(_kill_worker_if_odd, 8, 1)
        outcomes = dict(workers.outcomes())
        assert isinstance(outcomes[last[0]], WorkerDied)
        assert outcomes[last[1]] == 8


def test_jobs_that_ended_before_their_worker_died_have_results() -> None:
    """It dies before its reports are read, which is noticed when it is sent another job."""
    with WorkerPool(None, 1) as workers:
        for number in (2, 4, 5):
            workers.submit(_kill_worker_if_odd, number, 10 - number, Prefetch(_prefetch_nothing, 1))
        outcomes = workers.outcomes()
        assert next(outcomes) == (1, 2)
        (worker,) = (each.process.pid for each in workers._workers)
        assert worker is not None
        wait_until(lambda: has_ended(worker))
        last = workers.submit(_kill_worker_if_odd, 6, 1, Prefetch(_prefetch_nothing, 1))
        others = dict(outcomes)
    assert others.pop(2) == 4
    assert isinstance(others.pop(3), WorkerDied)
    assert others == {last: 6}


def test_dead_workers_are_replaced() -> None:
    """However many die, all other jobs end as they would have otherwise."""
    with WorkerPool(None, 2) as workers:
        jobs = {workers.submit(_kill_worker_if_odd, number, 1): number for number in range(20)}
        outcomes = {jobs[number]: outcome for number, outcome in workers.outcomes()}
    assert {number for number, outcome in outcomes.items() if isinstance(outcome, WorkerDied)} == set(
        range(1, 20, 2)
    )
    assert all(outcomes[number] == number for number in range(0, 20, 2))


def test_unexpected_exception_does_not_stop_other_jobs() -> None:
    with WorkerPool(None, 2) as workers:
        failing = workers.submit(raise_unexpected, None, 2)
        jobs = [workers.submit(_fail_if_odd, number, 1) for number in (2, 4)]
        outcomes = dict(workers.outcomes())
    assert isinstance(outcomes[failing], ZeroDivisionError)
    assert [outcomes[job] for job in jobs] == [2, 4]


def test_withdrawn_job_has_no_outcome() -> None:
    with WorkerPool(None, 1) as workers:
        jobs = [workers.submit(_fail_if_odd, number, 100 - number) for number in (2, 4, 6, 8)]
        seen = []
        for number, _ in workers.outcomes():
            seen.append(number)
            if len(seen) == 1:
                assert workers.withdraw(jobs) == set(jobs[3:])  # the second is running, the third is queued
        assert seen == jobs[:3]
