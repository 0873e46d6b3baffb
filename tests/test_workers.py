"""Worker processes: everything comes back, errors too, and nothing of them is left whatever happens."""

from __future__ import annotations

import dataclasses
import gc
import multiprocessing.connection
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from snapper import errors
from snapper.errors import Corrupted, SnapperError, UsageError, WorkerDied
from snapper.process import pool as pool_module
from snapper.process import worker
from snapper.process.pool import WorkerPool, default_worker_count

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

ROOT = Path(__file__).parent.parent


# --- jobs -------------------------------------------------------------------------------------------------


def add(context: int, number: int) -> int:
    return context + number


def pid(_: object, __: object) -> int:
    return os.getpid()


def fail(_: object, reason: str) -> None:
    raise Corrupted("the layer", reason)


def crash(_: object, __: object) -> None:
    raise ZeroDivisionError("a bug")


def wait_for(_: object, file: Path) -> str:
    """Comes back once the file is there."""
    appeared(file)
    return file.name


def touch(_: object, file: Path) -> str:
    file.touch()
    return file.name


def sleep(_: object, started: Path | None) -> None:
    if started:
        started.touch()
    time.sleep(600)


def be_killed(_: object, number: int) -> None:
    os.kill(os.getpid(), number)


def leave(_: object, status: int) -> None:
    os._exit(status)


def be_killed_while_answering(_: object, __: object) -> bytes:
    """The answer gets half through: what a memory shortage does to a large one."""

    def send(connection: Any, data: bytes) -> None:
        os.write(connection.fileno(), data[:1000])
        os.kill(os.getpid(), signal.SIGKILL)

    multiprocessing.connection.Connection._send = send  # type: ignore[attr-defined]
    return b"x" * 2000


def reverse(_: object, data: bytes) -> bytes:
    return data[::-1]


# --- waiting ----------------------------------------------------------------------------------------------


def eventually(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.005)


def appeared(file: Path) -> None:
    eventually(file.exists)


def gone(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def everything(workers: WorkerPool[Any]) -> dict[int, Any]:
    return dict(workers.results())


# --- results ----------------------------------------------------------------------------------------------


def test_every_job_has_its_result() -> None:
    with WorkerPool(1000, 3) as workers:
        numbers = {workers.submit(add, number, number % 7): number for number in range(100)}
        results = everything(workers)
    assert results == {job: 1000 + number for job, number in numbers.items()}


def call(_: object, argument: Callable[[], object]) -> object:
    return argument()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are not forked")
def test_known_arguments_need_not_be_sent() -> None:
    """As could not be done with these: a lambda does not pickle."""

    def says(number: int) -> Callable[[], int]:
        return lambda: number

    known = [says(number) for number in range(20)]
    with WorkerPool(None, 2, known) as workers:
        numbers = {workers.submit(call, each, 1): each() for each in known}
        numbers[workers.submit(call, os.getppid, 1)] = os.getpid()
        assert everything(workers) == numbers


def test_no_jobs_no_results() -> None:
    with WorkerPool(None, 2) as workers:
        assert everything(workers) == {}


def test_the_heaviest_is_begun_first() -> None:
    with WorkerPool(0, 1) as workers:
        for weight in (3, 9, 1, 5, 9):
            workers.submit(add, weight, weight)
        assert [result for _, result in workers.results()] == [9, 9, 5, 3, 1]


def test_workers_are_other_processes_and_as_many_as_asked_for(tmp_path: Path) -> None:
    with WorkerPool(None, 3) as workers:
        for name in ("a", "b"):
            workers.submit(wait_for, tmp_path / name, 5)
        workers.submit(touch, tmp_path / "a", 1)
        workers.submit(touch, tmp_path / "b", 1)
        assert sorted(everything(workers).values()) == ["a", "a", "b", "b"]
        for _ in range(20):
            workers.submit(pid, None, 1)
        assert os.getpid() not in everything(workers).values()
    assert 1 <= default_worker_count() <= 16


def test_jobs_are_added_while_results_come() -> None:
    found = []
    with WorkerPool(0, 2) as workers:
        workers.submit(add, 6, 1)
        for _, result in workers.results():
            found.append(result)
            for _ in range(min(result, 2)):
                workers.submit(add, result - 1, 1)
    assert sorted(found) == sorted([6] + [5] * 2 + [4] * 4 + [3] * 8 + [2] * 16 + [1] * 32 + [0] * 32)


def test_a_pool_is_used_again_and_again() -> None:
    with WorkerPool(10, 2) as workers:
        for turn in range(5):
            job = workers.submit(add, turn, 1)
            assert everything(workers) == {job: 10 + turn}


def test_large_arguments_and_results_pass_both_ways_at_once() -> None:
    data = os.urandom(10_000_000)
    with WorkerPool(None, 2) as workers:
        for _ in range(6):
            workers.submit(reverse, data, 1)
        assert list(everything(workers).values()) == [data[::-1]] * 6


def test_processes_are_spawned_where_forking_is_not_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = WorkerPool(1000, 2)
    monkeypatch.setattr(workers, "_forks", False)
    with workers:
        jobs = [workers.submit(add, number, 1) for number in range(4)]
        assert everything(workers) == {job: 1000 + number for number, job in enumerate(jobs)}
        workers.submit(fail, "spawned", 1)
        with pytest.raises(Corrupted, match="spawned"):
            everything(workers)


# --- errors -----------------------------------------------------------------------------------------------


def test_an_error_comes_through_and_the_pool_goes_on(tmp_path: Path) -> None:
    with WorkerPool(0, 3) as workers:
        before = {workers.submit(pid, None, 9) for _ in range(3)}
        pids = {result for job, result in workers.results() if job in before}
        workers.submit(wait_for, tmp_path / "late", 9)
        workers.submit(fail, "it is torn", 8)
        workers.submit(touch, tmp_path / "late", 7)
        for _ in range(10):
            workers.submit(touch, tmp_path / "never", 1)
        with pytest.raises(Corrupted) as caught:
            for _ in workers.results():
                pass
        assert (caught.value.what, caught.value.reason) == ("the layer", "it is torn")
        assert everything(workers) == {}
        jobs = [workers.submit(add, number, 1) for number in range(10)]
        assert everything(workers) == {job: number for number, job in enumerate(jobs)}
        assert all(not gone(each) for each in pids)


def all_errors() -> list[SnapperError]:
    """One of each kind, its fields filled with values of their types."""
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
def test_every_error_crosses_the_border(error: SnapperError) -> None:
    other = pickle.loads(pickle.dumps(error))
    assert type(other) is type(error)
    assert (other.message, other.hint, other.code) == (error.message, error.hint, error.code)
    assert str(other) == error.message


def test_a_bug_comes_through_and_stops_the_pool(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError, match="a bug"), WorkerPool(None, 2) as workers:
        workers.submit(sleep, tmp_path / "started", 9)
        workers.submit(wait_for, tmp_path / "started", 8)
        workers.submit(crash, None, 1)
        for _ in workers.results():
            pass


def test_a_stopped_pool_does_not_swallow_jobs() -> None:
    with WorkerPool(0, 2) as workers:
        workers.submit(crash, None, 1)
        with pytest.raises(ZeroDivisionError):
            everything(workers)
        workers.submit(add, 1, 1)
        with pytest.raises(RuntimeError, match="stopped"):
            everything(workers)


# --- deaths -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("job", [be_killed, be_killed_while_answering])
def test_a_killed_worker_is_told_and_the_others_go_on(job: Callable[..., object]) -> None:
    with WorkerPool(0, 2) as workers:
        workers.submit(job, signal.SIGKILL, 1)
        with pytest.raises(WorkerDied) as caught:
            everything(workers)
        assert caught.value.status == -signal.SIGKILL
        assert "signal 9" in caught.value.message
        assert "memory" in caught.value.hint
        assert "--jobs 1" in caught.value.hint
        jobs = [workers.submit(add, number, 1) for number in range(10)]
        assert everything(workers) == {job: number for number, job in enumerate(jobs)}


def test_when_the_last_worker_is_killed_no_job_is_taken() -> None:
    with WorkerPool(0, 1) as workers:
        for _ in range(3):
            workers.submit(be_killed, signal.SIGKILL, 1)
            with pytest.raises(WorkerDied) as caught:
                everything(workers)
            assert caught.value.status == -signal.SIGKILL


def test_all_are_killed_at_once() -> None:
    with WorkerPool(0, 3) as workers:
        for _ in range(6):
            workers.submit(be_killed, signal.SIGKILL, 1)
        with pytest.raises(WorkerDied):
            everything(workers)


def test_an_idle_worker_that_was_killed_is_noticed() -> None:
    with WorkerPool(0, 1) as workers:
        workers.submit(pid, None, 1)
        ((_, number),) = workers.results()
        os.kill(number, signal.SIGKILL)
        eventually(lambda: gone(number))
        workers.submit(reverse, b"x" * 1_000_000, 1)
        with pytest.raises(WorkerDied) as caught:
            everything(workers)
        assert caught.value.status == -signal.SIGKILL
        gc.collect()  # Python 3.13 complains on stderr of the buffer that was not sent, if the error still holds it


def test_a_worker_that_leaves_is_told() -> None:
    with WorkerPool(None, 2) as workers:
        workers.submit(leave, 3, 1)
        with pytest.raises(WorkerDied, match="status 3"):
            everything(workers)


# --- the end ----------------------------------------------------------------------------------------------


def test_no_process_is_left_at_the_end() -> None:
    with WorkerPool(None, 3) as workers:
        for _ in range(30):
            workers.submit(pid, None, 1)
        pids = set(everything(workers).values())
    assert pids
    assert all(gone(number) for number in pids)


def test_an_early_close_stops_what_is_under_way(tmp_path: Path) -> None:
    with WorkerPool(None, 2) as workers:
        workers.submit(sleep, tmp_path / "started", 9)
        workers.submit(wait_for, tmp_path / "started", 8)
        with closing(workers.results()) as results:
            assert next(results)[1] == "started"
        assert multiprocessing.active_children() == []


def test_an_error_of_the_caller_stops_what_is_under_way(tmp_path: Path) -> None:
    with pytest.raises(KeyError), WorkerPool(None, 2) as workers:
        workers.submit(sleep, tmp_path / "started", 9)
        workers.submit(wait_for, tmp_path / "started", 8)
        for _ in workers.results():
            raise KeyError
    assert multiprocessing.active_children() == []


PARENT = """
import multiprocessing, sys
from pathlib import Path
from snapper.process.pool import WorkerPool
from tests.test_workers import sleep, wait_for
started = Path(sys.argv[1])
with WorkerPool(None, 3) as workers:
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    workers.submit(sleep, started, 9)
    workers.submit(wait_for, started, 8)
    workers.submit(sleep, None, 7)
    for _, result in workers.results():
        print(result, flush=True)
"""


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: signal.Signals(number).name
)
@pytest.mark.parametrize("whole_group", [False, True], ids=["parent", "group"])
def test_workers_end_with_their_parent(tmp_path: Path, number: signal.Signals, whole_group: bool) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, tmp_path / "started"],
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
    began = time.monotonic()
    if whole_group:
        os.killpg(parent.pid, number)
    else:
        parent.send_signal(number)
    _, complaints = parent.communicate(timeout=30)
    eventually(lambda: all(map(gone, pids)))
    assert time.monotonic() - began < 10
    assert parent.returncode == -number
    assert complaints.count("Traceback") == (number == signal.SIGINT)
    assert "Process" not in complaints


LATE = """
import multiprocessing, os
from snapper.process import pool
from tests.test_workers import eventually, sleep
me, work = os.getpid(), pool.run_worker
def late(*arguments):
    eventually(lambda: os.getppid() != me)
    work(*arguments)
pool.run_worker = late
with pool.WorkerPool(None, 2) as workers:
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    workers.submit(sleep, None, 1)
    workers.submit(sleep, None, 1)
    list(workers.results())
"""


def test_workers_that_begin_after_their_parent_was_killed_end() -> None:
    parent = subprocess.Popen([sys.executable, "-c", LATE], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.kill()
    parent.communicate(timeout=30)
    eventually(lambda: all(map(gone, pids)))


def test_a_worker_that_is_told_to_end_before_it_begins_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of them, which has a job already, when the first has done its own."""
    begin = worker.run_worker

    def late(connection: object, context: object, known: object, inherited: list[object]) -> None:
        if len(inherited) == 2:
            eventually(lambda: signal.SIGTERM in signal.sigpending())
        begin(connection, context, known, inherited)  # type: ignore[arg-type]

    monkeypatch.setattr(pool_module, "run_worker", late)
    began = time.monotonic()
    with pytest.raises(ZeroDivisionError), WorkerPool(None, 2) as pool:
        pool.submit(crash, None, 2)
        pool.submit(sleep, None, 1)
        list(pool.results())
    assert time.monotonic() - began < 30


# --- outcomes ---------------------------------------------------------------------------------------------


def _fails_if_odd(_: None, number: int) -> int:
    if number % 2:
        raise UsageError(f"{number} is odd")
    return number


def _is_killed_if_odd(_: None, number: int) -> int:
    if number % 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_one_that_fails_does_not_stop_the_others() -> None:
    with WorkerPool(None, 2) as workers:
        jobs = {workers.submit(_fails_if_odd, number, 1): number for number in range(20)}
        outcomes = {jobs[number]: outcome for number, outcome in workers.outcomes()}
    assert {number for number, outcome in outcomes.items() if outcome == number} == set(range(0, 20, 2))
    assert all(isinstance(outcomes[number], UsageError) for number in range(1, 20, 2))


def test_a_worker_that_is_killed_takes_its_job_alone_with_it() -> None:
    with WorkerPool(None, 3) as workers:
        jobs = {workers.submit(_is_killed_if_odd, number, 100 - number): number for number in (1, 2, 3, 4, 6)}
        outcomes = {jobs[number]: outcome for number, outcome in workers.outcomes()}
        assert {number for number, outcome in outcomes.items() if isinstance(outcome, WorkerDied)} == {1, 3}
        assert {2, 4, 6} <= set(outcomes.values())
        last = workers.submit(_is_killed_if_odd, 5, 2), workers.submit(_is_killed_if_odd, 8, 1)
        assert [type(outcome) for _, outcome in workers.outcomes()] == [WorkerDied, WorkerDied]
        assert len(set(last)) == 2


def test_what_is_withdrawn_has_no_outcome() -> None:
    with WorkerPool(None, 1) as workers:
        jobs = [workers.submit(_fails_if_odd, number, 100 - number) for number in (2, 4, 6, 8)]
        seen = []
        for number, _ in workers.outcomes():
            seen.append(number)
            if len(seen) == 1:
                assert workers.withdraw(jobs) == set(jobs[3:])  # the second is at work, the third at hand
        assert seen == jobs[:3]
