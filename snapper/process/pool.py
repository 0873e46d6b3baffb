"""A pool of worker processes.

Jobs are functions of a context, which every worker has from its start, and of one argument. Workers ignore Ctrl-C and
hang-ups, which the parent handles, and end when their parent does, however it ends.
"""

from __future__ import annotations

import contextlib
import heapq
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Container, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Generic, NamedTuple, TypeVar

from snapper.errors import SnapperError, WorkerDied
from snapper.process.signals import TERMINATION_SIGNALS
from snapper.process.worker import Prefetch, SharedArg, Task, TaskReport, WorkerSetup, run_worker

C = TypeVar("C")

logger = logging.getLogger(__name__)

_MAX_WORKERS = 16

#: How long workers that are terminated may take to complete what must not be interrupted, in seconds. Then they are
#: killed: C code does not notice that it should end.
_PATIENCE = 5.0

#: The most jobs with a Prefetch that are sent to a worker in advance, and the most bytes that they prefetch.
_MAX_QUEUED = 8
_MAX_PREFETCHED = 24 * 1024 * 1024

#: The same for jobs without a Prefetch: the next one is there when one ends, as long as there are enough for all.
_MAX_QUEUED_PLAIN = 2


class _Job(NamedTuple):
    weight: int
    number: int
    function: Callable[..., object]
    argument: object
    prefetch: Prefetch | None
    label: str

    @property
    def cost(self) -> int:
        return self.prefetch.cost if self.prefetch else 0


class _Answer(NamedTuple):
    number: int
    result: object
    error: Exception | None


@dataclass(eq=False)
class _Worker:
    """A worker as its parent sees it.

    `queued` are the jobs sent to it, the first of which is running; `finishing` are those that it finishes in threads.
    """

    process: BaseProcess
    connection: Connection
    queued: dict[int, _Job] = field(default_factory=dict)
    finishing: dict[int, _Job] = field(default_factory=dict)

    @property
    def busy(self) -> bool:
        return bool(self.queued or self.finishing)

    @property
    def load(self) -> tuple[int, int]:
        """The number of queued jobs, and of the bytes that they prefetch."""
        return len(self.queued), sum(job.cost for job in self.queued.values())

    @property
    def started(self) -> list[_Job]:
        """The jobs that it has started and not ended."""
        return [*list(self.queued.values())[:1], *self.finishing.values()]

    def accepts(self, job: _Job, *, plenty: bool) -> bool:
        """Return whether to send it the job; `plenty` tells that enough jobs wait for other workers."""
        if not self.queued:
            return True
        count, cost = self.load
        if job.prefetch is None:
            return plenty and count < _MAX_QUEUED_PLAIN
        return count < _MAX_QUEUED and cost + job.cost <= _MAX_PREFETCHED


def default_worker_count() -> int:
    """Return one worker per CPU that this process may use, up to a limit."""
    affinity = getattr(os, "sched_getaffinity", None)
    usable = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(usable, _MAX_WORKERS)


@contextlib.contextmanager
def _root_as_current_directory() -> Iterator[None]:
    """Make the root directory the current one.

    `multiprocessing` starts a spawned worker, and the process that tracks its resources, as `python -c`, which imports
    modules from the current directory. The worker then gets the module search path of its parent, and stays in the
    root directory: all paths that it is given are absolute.
    """
    before = os.open(".", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.chdir("/")
        yield
    finally:
        os.fchdir(before)
        os.close(before)


class WorkerPool(Generic[C]):
    """A pool of `count` workers, by default one per CPU. Use it as a context manager.

    Enter it before the process has threads: workers are forked where that is safe. Arguments of jobs that are
    `shared` are then inherited by the fork, and need not be sent.
    """

    def __init__(self, context: C, count: int | None = None, shared: Sequence[object] = ()) -> None:
        self._context = context
        self._count = count or default_worker_count()
        self._forks = sys.platform == "linux"
        self._shared = shared if self._forks else ()
        self._positions = {id(argument): position for position, argument in enumerate(self._shared)}
        self._workers: list[_Worker] = []
        self._waiting: list[_Job] = []
        self._submitted = 0
        self._stopped = False

    def __enter__(self) -> WorkerPool[C]:
        for _ in range(self._count):
            self._start_worker()
        logger.debug("started %d workers", self._count)
        return self

    def _start_worker(self) -> None:
        method: Any = multiprocessing.get_context("fork" if self._forks else "spawn")
        level = logging.getLogger("snapper").getEffectiveLevel()
        setup = WorkerSetup(self._context, self._shared, level)
        ours, theirs = method.Pipe()
        inherited = [*(worker.connection for worker in self._workers), ours] if self._forks else []
        process = method.Process(target=run_worker, args=(theirs, setup, inherited), daemon=True)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, TERMINATION_SIGNALS)
        try:
            with contextlib.nullcontext() if self._forks else _root_as_current_directory():
                process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        self._workers.append(_Worker(process, ours))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop(terminate=kind is not None)

    def _stop(self, *, terminate: bool) -> None:
        self._stopped = True
        for worker in self._workers:
            if terminate:
                worker.process.terminate()
            worker.connection.close()
        deadline = time.monotonic() + _PATIENCE
        for worker in self._workers:
            if terminate:
                worker.process.join(max(deadline - time.monotonic(), 0))
                worker.process.kill()
            worker.process.join()
        self._workers.clear()

    def submit(
        self,
        function: Callable[..., object],
        argument: object,
        weight: int,
        prefetch: Prefetch | None = None,
        *,
        label: str = "",
    ) -> int:
        """Queue a job and return its number. Jobs of greater weight are started first.

        `label` says what the job does, for the error if its worker dies, such as "extracting numpy".
        """
        self._submitted += 1
        job = _Job(-weight, self._submitted, function, argument, prefetch, label)
        heapq.heappush(self._waiting, job)
        return self._submitted

    def withdraw(self, numbers: Container[int]) -> frozenset[int]:
        """Remove those of the jobs that have not been sent to a worker; return their numbers. They have no result."""
        withdrawn = frozenset(job.number for job in self._waiting if job.number in numbers)
        self._waiting = [job for job in self._waiting if job.number not in withdrawn]
        heapq.heapify(self._waiting)
        return withdrawn

    def results(self) -> Generator[tuple[int, Any], None, None]:
        """Yield the number and result of each job as it ends, until none is left; jobs may be submitted in between.

        Raise what a job raises, with the worker's traceback, and WorkerDied. No job is running then: after a
        SnapperError the workers that are alive accept new jobs, after anything else (Ctrl-C, closing the generator)
        all are stopped.
        """
        try:
            if self._waiting and self._stopped:
                raise RuntimeError("the pool is stopped")
            for number, result, error in self._answers():
                if error is not None:
                    raise error
                yield number, result
        except SnapperError:
            self._abandon()
            raise
        except BaseException:
            self._stop(terminate=True)
            raise

    def outcomes(self) -> Generator[tuple[int, Any], None, None]:
        """Yield the number of each job as it ends, with its result or the exception that it raised.

        Other jobs continue after an exception; jobs may be submitted and withdrawn in between.
        """
        try:
            for number, result, error in self._answers():
                yield number, result if error is None else error
        except BaseException:
            self._stop(terminate=True)
            raise

    def _answers(self) -> Iterator[_Answer]:
        """Yield the result or error of each job. An error is yielded before its worker is sent another job."""
        while True:
            yield from self._send_jobs()
            busy = [worker for worker in self._workers if worker.busy]
            if not busy:
                break
            for worker in self._wait_for_reports(busy):
                answers = self._receive(worker)
                if all(answer.error is None for answer in answers):
                    yield from self._send_jobs()
                yield from answers

    def _wait_for_reports(self, busy: list[_Worker]) -> list[_Worker]:
        reporting = wait([worker.connection for worker in busy])
        return [worker for worker in busy if worker.connection in reporting]

    def _abandon(self) -> None:
        """Drop the jobs that wait, and let those that are running end."""
        self._waiting.clear()
        for worker in list(self._workers):
            while worker.busy:
                self._receive(worker)

    def _send_jobs(self) -> Iterator[_Answer]:
        """Send a job to each idle worker, then more to those that accept them; yield the jobs of dead workers.

        Dead workers are replaced: each has failed at least the job that it had started, so this ends.
        """
        while self._waiting and not self._stopped:
            while len(self._workers) < self._count:
                self._start_worker()
            worker = min(self._workers, key=lambda candidate: candidate.load)
            plenty = len(self._waiting) > len(self._workers)
            if not worker.accepts(self._waiting[0], plenty=plenty):
                break
            job = heapq.heappop(self._waiting)
            worker.queued[job.number] = job
            position = self._positions.get(id(job.argument))
            argument = job.argument if position is None else SharedArg(position)
            task = Task(job.number, job.function, argument, job.prefetch and job.prefetch.function)
            sent = False
            with contextlib.suppress(OSError):
                worker.connection.send(task)
                sent = True
            while not sent and worker in self._workers:  # it may have ended jobs before it died
                yield from self._receive(worker)

    def _receive(self, worker: _Worker) -> list[_Answer]:
        """Receive a worker's next report; return the jobs that it ended, or all started ones if the worker died."""
        report: TaskReport | None = None
        with contextlib.suppress(EOFError, OSError):
            report = worker.connection.recv()
        if report is None:
            return self._bury(worker)
        job = worker.queued.pop(report.number, None)
        worker.finishing.pop(report.number, None)
        if not report.ended:
            if job:
                worker.finishing[report.number] = job
            return []
        return [_Answer(report.number, report.result, report.error and report.error.restore())]

    def _bury(self, worker: _Worker) -> list[_Answer]:
        """Remove a dead worker; return its started jobs as failed, and put the others back into the queue."""
        worker.process.join()
        worker.connection.close()
        self._workers.remove(worker)
        started = worker.started
        label = ", ".join(job.label for job in started if job.label)
        error = WorkerDied(worker.process.exitcode or 0, label)
        logger.debug("worker %s: %s", worker.process.pid, error)
        for job in started:
            worker.queued.pop(job.number, None)
        for job in worker.queued.values():
            heapq.heappush(self._waiting, job)
        worker.queued.clear()
        worker.finishing.clear()
        return [_Answer(job.number, None, error) for job in started]
