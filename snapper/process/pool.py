"""A pool of worker processes for the work that a single Python cannot do fast enough.

Jobs are functions of a context, which every worker holds from its start, and one argument. Workers ignore
Ctrl-C and hang-ups, which are the parent's to handle, and end when their parent does, however it ends.
"""

from __future__ import annotations

import contextlib
import heapq
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Container, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Generic, NamedTuple, TypeVar

from snapper.errors import SnapperError, WorkerDied
from snapper.process.signals import TERMINATION_SIGNALS
from snapper.process.worker import Prefetch, SharedArg, Task, TaskReport, run_worker

C = TypeVar("C")

_MOST_WORKERS = 16


#: How many jobs, and how many bytes of what is done ahead for them, a worker may have before it.
_MOST_AHEAD = 8
_MOST_AHEAD_BYTES = 24 * 1024 * 1024

#: The same where nothing is done ahead: the next job is at hand when one is over, while there are enough for all.
_MOST_AT_HAND = 2


class _Job(NamedTuple):
    weight: int
    number: int
    function: Callable[..., object]
    argument: object
    ahead: Prefetch | None

    @property
    def cost(self) -> int:
        return self.ahead.cost if self.ahead else 0


class _Answer(NamedTuple):
    number: int
    result: object
    error: Exception | None


@dataclass(eq=False)
class _Worker:
    """A worker as its parent sees it: the jobs that it has before it, of which the first is at work, and those whose
    end is still to come.
    """

    process: BaseProcess
    connection: Connection
    before: dict[int, _Job] = field(default_factory=dict)
    ending: set[int] = field(default_factory=set)

    @property
    def busy(self) -> bool:
        return bool(self.before or self.ending)

    @property
    def load(self) -> tuple[int, int]:
        """How many jobs it has before it, and the bytes of what is done ahead for them."""
        return len(self.before), sum(job.cost for job in self.before.values())

    def takes(self, job: _Job, *, plenty: bool) -> bool:
        """Whether the job may be sent to it; `plenty` if others that become idle would find jobs, too."""
        if not self.before:
            return True
        count, cost = self.load
        if job.ahead is None:
            return plenty and count < _MOST_AT_HAND
        return count < _MOST_AHEAD and cost + job.cost <= _MOST_AHEAD_BYTES


def default_worker_count() -> int:
    """One worker for each processor that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    usable = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(usable, _MOST_WORKERS)


class WorkerPool(Generic[C]):
    """Use as a context manager. Make it before the process has threads: workers are forked where that is safe.

    Arguments of jobs that are `known` by then go with the fork, and need not be sent.
    """

    def __init__(self, context: C, count: int | None = None, known: Sequence[object] = ()) -> None:
        self._context = context
        self._count = count or default_worker_count()
        self._forks = sys.platform == "linux"
        self._known = known if self._forks else ()
        self._numbers = {id(argument): number for number, argument in enumerate(self._known)}
        self._workers: list[_Worker] = []
        self._waiting: list[_Job] = []
        self._submitted = 0
        self._ended: Exception = RuntimeError("the pool is stopped")

    def __enter__(self) -> WorkerPool[C]:
        method: Any = multiprocessing.get_context("fork" if self._forks else "spawn")
        inherited: list[Connection] = []
        for _ in range(self._count):
            ours, theirs = method.Pipe()
            inherited.append(ours)
            foreign = inherited if self._forks else []
            process = method.Process(
                target=run_worker, args=(theirs, self._context, self._known, foreign), daemon=True
            )
            before = signal.pthread_sigmask(signal.SIG_BLOCK, TERMINATION_SIGNALS)
            try:
                process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
            self._workers.append(_Worker(process, ours))
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

    def submit(
        self, function: Callable[..., object], argument: object, weight: int, ahead: Prefetch | None = None
    ) -> int:
        """Queues a job, the heaviest to be begun first, and what can be done ahead for it; returns its number."""
        self._submitted += 1
        heapq.heappush(self._waiting, _Job(-weight, self._submitted, function, argument, ahead))
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
            busy = [worker for worker in self._workers if worker.busy]
            if not busy:
                break
            for worker in self._ready(busy):
                answers = self._receive(worker)
                if all(answer.error is None for answer in answers):
                    yield from self._hand_out()
                yield from answers
        while self._waiting:
            yield _Answer(heapq.heappop(self._waiting).number, None, self._ended)

    def _ready(self, busy: list[_Worker]) -> list[_Worker]:
        """The workers that have reported; waits for one."""
        reported = wait([worker.connection for worker in busy])
        return [worker for worker in busy if worker.connection in reported]

    def _abandon(self) -> None:
        """Forgets what waits, and lets what is under way come to its end."""
        self._waiting.clear()
        for worker in list(self._workers):
            while worker.busy:
                self._receive(worker)

    def _hand_out(self) -> Iterator[_Answer]:
        """Gives a job to each idle worker, and then to those that can have more before them.

        Tells of the jobs whose worker turned out to be gone.
        """
        while self._waiting and self._workers:
            worker = min(self._workers, key=lambda each: each.load)
            plenty = len(self._waiting) > len(self._workers)
            if not worker.takes(self._waiting[0], plenty=plenty):
                break
            job = heapq.heappop(self._waiting)
            worker.before[job.number] = job
            number = self._numbers.get(id(job.argument))
            argument = job.argument if number is None else SharedArg(number)
            order = Task(job.number, job.function, argument, job.ahead and job.ahead.function)
            sent = False
            with contextlib.suppress(OSError):
                worker.connection.send(order)
                sent = True
            if not sent:
                yield from self._lost(worker)

    def _receive(self, worker: _Worker) -> list[_Answer]:
        """What a worker's next report makes known: one job's end, or none, or that of all it had if it is gone."""
        report: TaskReport | None = None
        with contextlib.suppress(EOFError, OSError):
            report = worker.connection.recv()
        if report is None:
            return self._lost(worker)
        worker.before.pop(report.number, None)
        worker.ending.discard(report.number)
        if not report.ended:
            worker.ending.add(report.number)
            return []
        return [_Answer(report.number, report.result, report.error)]

    def _lost(self, worker: _Worker) -> list[_Answer]:
        """What becomes of the jobs of a worker that is no more; those that it had not begun go to others."""
        begun, death = [*list(worker.before)[:1], *worker.ending], self._death(worker)
        for number in begun:
            worker.before.pop(number, None)
        for job in worker.before.values():
            heapq.heappush(self._waiting, job)
        worker.before.clear()
        worker.ending.clear()
        return [_Answer(number, None, death) for number in begun]

    def _death(self, worker: _Worker) -> WorkerDied:
        """Lets go of a worker that is no more."""
        worker.process.join()
        worker.connection.close()
        self._workers.remove(worker)
        self._ended = WorkerDied(worker.process.exitcode or 0)
        return self._ended
