"""A pool of worker processes for the work that a single Python cannot do fast enough.

Jobs are functions of a context, which every worker holds from its start, and one argument. Workers ignore
Ctrl-C and hang-ups, which are the parent's to handle, and end when their parent does, however it ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import heapq
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Container, Generator, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Generic, NamedTuple, TypeVar

from snapper.errors import SnapperError, WorkerDied
from snapper.interrupts import SIGNALS

C = TypeVar("C")

_MOST_WORKERS = 16
_PR_SET_PDEATHSIG = 1


class _Job(NamedTuple):
    weight: int
    number: int
    function: Callable[[Any, Any], object]
    argument: object


class _Answer(NamedTuple):
    number: int
    result: object
    error: Exception | None


class _Worker(NamedTuple):
    process: BaseProcess
    connection: Connection
    numbers: list[int]


def default_count() -> int:
    """One worker for each processor that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    usable = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(usable, _MOST_WORKERS)


class Workers(Generic[C]):
    """Use as a context manager. Make it before the process has threads: workers are forked where that is safe."""

    def __init__(self, context: C, count: int | None = None) -> None:
        self._context = context
        self._count = count or default_count()
        self._forks = sys.platform == "linux"
        self._workers: list[_Worker] = []
        self._waiting: list[_Job] = []
        self._submitted = 0
        self._ended: Exception = RuntimeError("these workers are stopped")

    def __enter__(self) -> Workers[C]:
        method: Any = multiprocessing.get_context("fork" if self._forks else "spawn")
        inherited: list[Connection] = []
        for _ in range(self._count):
            ours, theirs = method.Pipe()
            inherited.append(ours)
            foreign = inherited if self._forks else []
            process = method.Process(target=_work, args=(theirs, self._context, foreign), daemon=True)
            before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            try:
                process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
            self._workers.append(_Worker(process, ours, []))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop(at_once=kind is not None)

    def _stop(self, *, at_once: bool) -> None:
        for worker in self._workers:
            if at_once:
                worker.process.terminate()
            worker.connection.close()
        for worker in self._workers:
            worker.process.join()
        self._workers.clear()

    def submit(self, function: Callable[[C, Any], object], argument: object, weight: int) -> int:
        """Queues a job, the heaviest to be begun first; returns its number."""
        self._submitted += 1
        heapq.heappush(self._waiting, _Job(-weight, self._submitted, function, argument))
        return self._submitted

    def withdraw(self, numbers: Container[int]) -> frozenset[int]:
        """Takes back those of the jobs that have not been begun, and gives their numbers: they have no result."""
        withdrawn = frozenset(job.number for job in self._waiting if job.number in numbers)
        self._waiting = [job for job in self._waiting if job.number not in withdrawn]
        heapq.heapify(self._waiting)
        return withdrawn

    def results(self) -> Generator[tuple[int, Any], None, None]:
        """The number and result of each job as it is done, until none is left; jobs may be added meanwhile.

        Raises what a job raised, and WorkerDied. When it has raised, no worker is at work any more: after a
        SnapperError those that live take new jobs, after anything else (Ctrl-C, an early close) all are stopped.
        """
        try:
            if self._waiting and not self._workers:
                raise self._ended
            for number, result, error in self._answers():
                if error is not None:
                    raise error
                yield number, result
        except SnapperError:
            self._abandon()
            raise
        except BaseException:
            self._stop(at_once=True)
            raise

    def outcomes(self) -> Generator[tuple[int, Any], None, None]:
        """The number of each job as it is done with its result, or the SnapperError that it has failed with, while
        the others go on; jobs may be added and withdrawn meanwhile. Raises nothing else that users can cause.
        """
        try:
            for number, result, error in self._answers():
                if error is not None and not isinstance(error, SnapperError):
                    raise error
                yield number, result if error is None else error
        except BaseException:
            self._stop(at_once=True)
            raise

    def _answers(self) -> Iterator[_Answer]:
        """What becomes of each job. One that fails is told of before its worker is given another."""
        while True:
            yield from self._hand_out()
            busy = [worker for worker in self._workers if worker.numbers]
            if not busy:
                break
            for worker in self._ready(busy):
                answer = self._receive(worker)
                if answer.error is None:
                    yield from self._hand_out()
                yield answer
        while self._waiting:
            yield _Answer(heapq.heappop(self._waiting).number, None, self._ended)

    def _ready(self, busy: list[_Worker]) -> list[_Worker]:
        """The workers that have answered; waits for one."""
        answered = wait([worker.connection for worker in busy])
        return [worker for worker in busy if worker.connection in answered]

    def _abandon(self) -> None:
        """Forgets what waits, and lets what is under way come to its end."""
        self._waiting.clear()
        for worker in list(self._workers):
            if worker.numbers:
                self._receive(worker)

    def _hand_out(self) -> Iterator[_Answer]:
        """Gives idle workers a job each, and no more: one that is sending its answer does not receive.

        Tells of the jobs whose worker turned out to be gone.
        """
        for worker in list(self._workers):
            if not worker.numbers and self._waiting:
                job = heapq.heappop(self._waiting)
                worker.numbers.append(job.number)
                sent = False
                with contextlib.suppress(OSError):
                    worker.connection.send((job.number, job.function, job.argument))
                    sent = True
                if not sent:
                    yield _Answer(job.number, None, self._death(worker))

    def _receive(self, worker: _Worker) -> _Answer:
        (number,) = worker.numbers
        answer: tuple[int, object, Exception | None] | None = None
        try:
            with contextlib.suppress(EOFError, OSError):
                answer = worker.connection.recv()
        finally:
            worker.numbers.clear()
        return _Answer(*answer) if answer else _Answer(number, None, self._death(worker))

    def _death(self, worker: _Worker) -> WorkerDied:
        """Lets go of a worker that is no more."""
        worker.process.join()
        worker.connection.close()
        self._workers.remove(worker)
        self._ended = WorkerDied(worker.process.exitcode or 0)
        return self._ended


def _work(connection: Connection, context: object, inherited: list[Connection]) -> None:
    for other in inherited:
        other.close()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    _end_with_parent()
    while True:
        try:
            number, function, argument = connection.recv()
        except (EOFError, OSError):
            return
        answer: tuple[int, object, Exception | None]
        try:
            answer = number, function(context, argument), None
        except Exception as error:
            answer = number, None, error
        try:
            connection.send(answer)
        except OSError:
            return


def _end_with_parent() -> None:
    """Has the kernel end this process when its parent is killed, so that it does not finish its job in vain."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        parent = multiprocessing.parent_process()
        if parent and parent.pid != os.getppid():
            sys.exit()
