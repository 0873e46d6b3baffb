"""The worker process: it receives jobs over a connection and sends back their results.

It runs one job at a time. At the same time, threads prefetch what the next jobs need, and finish jobs that returned a
Deferred, for work that waits for a disk or a network.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, Generic, NamedTuple, TypeVar

from snapper.process.logs import configure_logging
from snapper.process.signals import TERMINATION_SIGNALS, terminate_between_blocks
from snapper.process.tracebacks import RemoteError

T = TypeVar("T")

_PR_SET_PDEATHSIG = 1
_THREADS = 8

#: Parameters for mallopt(3): M_ARENA_MAX, and M_MMAP_THRESHOLD and M_TRIM_THRESHOLD in bytes. Mapping every block
#: separately would use even less memory, but take more time to clear it.
_ALLOCATION = {-8: 1, -3: 32 * 1024 * 1024, -1: 8 * 1024 * 1024}

#: The threshold of new objects at which the garbage collector runs. Workers create hardly any reference cycles.
_GC_THRESHOLD = 50_000


class Prefetch(NamedTuple):
    """A function that is called in a thread, with a job's context and argument, before the job's turn.

    Its result is passed to the job as third argument, and takes `cost` bytes of memory until then.
    """

    function: Callable[[Any, Any], object]
    cost: int


@dataclass(frozen=True)
class Deferred(Generic[T]):
    """Returned by a job to let the next one start; `finish` is called in a thread and returns the job's result."""

    finish: Callable[[], T]


class SharedArg(NamedTuple):
    """A reference, by its position, to an argument that the worker has had from its start."""

    position: int


class Task(NamedTuple):
    """A job as it is sent to a worker."""

    number: int
    function: Callable[..., object]
    argument: object
    prefetch: Callable[[Any, Any], object] | None


class TaskReport(NamedTuple):
    """The worker's report on a job: its result or error, or, if not `ended`, that the next job can start."""

    number: int
    result: object = None
    error: RemoteError | None = None
    ended: bool = True


class WorkerSetup(NamedTuple):
    """What a worker is started with: the context of all jobs, shared arguments, and the level of log records."""

    context: object
    shared: Sequence[object]
    log_level: int


class _Turn(NamedTuple):
    task: Task
    prefetched: Future[object] | None


def run_worker(connection: Connection, setup: WorkerSetup, inherited: list[Connection]) -> None:
    """Run jobs until the connection is closed.

    `inherited` are the connections of other workers that a fork has copied; they are closed.
    """
    for other in inherited:
        other.close()
    # SIGTERM may be pending already: ignoring it would lose it.
    ignored = set(TERMINATION_SIGNALS) - {signal.SIGTERM}
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    terminate_between_blocks(signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ignored)
    _exit_with_parent()
    _limit_allocator()
    gc.freeze()  # the parent's objects need not be examined, nor be copied for that
    gc.set_threshold(_GC_THRESHOLD)
    if not logging.getLogger("snapper").hasHandlers():  # spawned, not forked
        configure_logging(setup.log_level)
    _Worker(connection, setup).run()


class _Worker:
    def __init__(self, connection: Connection, setup: WorkerSetup) -> None:
        self._connection, self._setup = connection, setup
        self._turns: SimpleQueue[_Turn | None] = SimpleQueue()
        self._threads = ThreadPoolExecutor(_THREADS)
        self._sending = threading.Lock()

    def run(self) -> None:
        threading.Thread(target=self._receive, daemon=True).start()
        while self._run_next():
            pass

    def _receive(self) -> None:
        """Receive jobs, also while one is running, and start prefetching for them."""
        try:
            while True:
                task: Task = self._connection.recv()
                if isinstance(task.argument, SharedArg):
                    task = task._replace(argument=self._setup.shared[task.argument.position])
                prefetch = task.prefetch
                future = (
                    self._threads.submit(prefetch, self._setup.context, task.argument) if prefetch else None
                )
                self._turns.put(_Turn(task, future))
        except (EOFError, OSError):
            return
        finally:
            self._turns.put(None)

    def _run_next(self) -> bool:
        """Run the next job; return False if there is none any more. No reference to the job is kept."""
        turn = self._turns.get()
        if turn is None:
            return False
        number, function, argument, _ = turn.task
        try:
            prefetched = (turn.prefetched.result(),) if turn.prefetched else ()
            result = function(self._setup.context, argument, *prefetched)
        except Exception as error:
            self._send(TaskReport(number, error=RemoteError.capture(error)))
            return True
        if isinstance(result, Deferred):
            self._send(TaskReport(number, ended=False))
            self._threads.submit(self._finish, number, result)
        else:
            self._send(TaskReport(number, result))
        return True

    def _finish(self, number: int, deferred: Deferred[object]) -> None:
        try:
            report = TaskReport(number, deferred.finish())
        except Exception as error:
            report = TaskReport(number, error=RemoteError.capture(error))
        self._send(report)

    def _send(self, report: TaskReport) -> None:
        try:
            with self._sending:
                self._connection.send(report)
        except OSError:
            self._turns.put(None)
        except Exception as error:  # the result cannot be pickled; nothing has been sent
            self._send(TaskReport(report.number, error=RemoteError.capture(error)))


def _exit_with_parent() -> None:
    """Have the kernel kill this process if its parent is killed, instead of finishing a useless job.

    SIGTERM would have to wait for the interpreter, which C code may not return to for hours. What this leaves behind is
    what killing the parent leaves behind, too: temporary files, which the next command removes.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        parent = multiprocessing.parent_process()
        if parent and parent.pid != os.getppid():
            sys.exit()


def _limit_allocator() -> None:
    """Have all threads share one memory arena, and return unused memory to the system early.

    By default, glibc has one arena per thread, and layers are passed between many.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library
            for parameter, value in _ALLOCATION.items():
                ctypes.CDLL(None).mallopt(parameter, value)
