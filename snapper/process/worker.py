"""What a worker process does: it takes jobs from its connection, and sends back what becomes of each.

One job is at work at a time. What can be done ahead for those that wait, and what is left to do of those whose work
is over, is done by threads meanwhile: they are for what waits on a disk or a network.
"""

from __future__ import annotations

import ctypes
import gc
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

from snapper.process.signals import TERMINATION_SIGNALS, terminate_between_blocks

T = TypeVar("T")

_PR_SET_PDEATHSIG = 1
_THREADS = 8

#: What glibc is told (mallopt(3)): M_ARENA_MAX, M_MMAP_THRESHOLD and M_TRIM_THRESHOLD, these two in bytes. To map each
#: block anew would take less memory still, and more time to clear it.
_ALLOCATION = {-8: 1, -3: 32 * 1024 * 1024, -1: 8 * 1024 * 1024}

#: How many more objects there must be before cycles among them are looked for: hardly any are made here.
_SELDOM = 50_000


class Prefetch(NamedTuple):
    """What is done for a job before its turn, given what the job is given: its result is the job's third argument,
    and takes `cost` bytes until then.
    """

    function: Callable[[Any, Any], object]
    cost: int


@dataclass(frozen=True)
class Deferred(Generic[T]):
    """What a job returns whose work is over but not its end: `finish` waits for it and gives the result."""

    finish: Callable[[], T]


class SharedArg(NamedTuple):
    """An argument that the worker had from its start, by its number."""

    number: int


class Task(NamedTuple):
    """A job as it is sent to a worker."""

    number: int
    function: Callable[..., object]
    argument: object
    ahead: Callable[[Any, Any], object] | None


class TaskReport(NamedTuple):
    """What a worker sends back: the end of a job, or if not `ended`, that another can be begun meanwhile."""

    number: int
    result: object = None
    error: Exception | None = None
    ended: bool = True


class _Turn(NamedTuple):
    order: Task
    prepared: Future[object] | None


def run_worker(
    connection: Connection, context: object, known: Sequence[object], inherited: list[Connection]
) -> None:
    """Works until the connection is closed; `known` are arguments to come, and `inherited` connections of others."""
    for other in inherited:
        other.close()
    ignored = set(TERMINATION_SIGNALS) - {
        signal.SIGTERM
    }  # which may have come already: to ignore it would be to lose it
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    terminate_between_blocks(signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ignored)
    _exit_with_parent()
    _limit_allocator()
    gc.freeze()  # what the parent had need not be looked through, nor be copied for that
    gc.set_threshold(_SELDOM)
    _Worker(connection, context, known).run()


class _Worker:
    def __init__(self, connection: Connection, context: object, known: Sequence[object]) -> None:
        self._connection, self._context, self._known = connection, context, known
        self._turns: SimpleQueue[_Turn | None] = SimpleQueue()
        self._pool = ThreadPoolExecutor(_THREADS)
        self._sending = threading.Lock()

    def run(self) -> None:
        threading.Thread(target=self._receive, daemon=True).start()
        while self._next():
            pass

    def _receive(self) -> None:
        """Takes jobs as they come, also while one is at work, and begins what can be done ahead for them."""
        try:
            while True:
                order: Task = self._connection.recv()
                if isinstance(order.argument, SharedArg):
                    order = order._replace(argument=self._known[order.argument.number])
                ahead = order.ahead
                prepared = self._pool.submit(ahead, self._context, order.argument) if ahead else None
                self._turns.put(_Turn(order, prepared))
        except (EOFError, OSError):
            return
        finally:
            self._turns.put(None)

    def _next(self) -> bool:
        """Does the next job; False where there is none any more. Nothing of it is held when it returns."""
        turn = self._turns.get()
        if turn is None:
            return False
        number, function, argument, _ = turn.order
        try:
            prepared = (turn.prepared.result(),) if turn.prepared else ()
            result = function(self._context, argument, *prepared)
        except Exception as error:
            self._send(TaskReport(number, error=error))
            return True
        if isinstance(result, Deferred):
            self._send(TaskReport(number, ended=False))
            self._pool.submit(self._finish, number, result)
        else:
            self._send(TaskReport(number, result))
        return True

    def _finish(self, number: int, later: Deferred[object]) -> None:
        try:
            report = TaskReport(number, later.finish())
        except Exception as error:
            report = TaskReport(number, error=error)
        self._send(report)

    def _send(self, report: TaskReport) -> None:
        try:
            with self._sending:
                self._connection.send(report)
        except OSError:
            self._turns.put(None)


def _exit_with_parent() -> None:
    """Has the kernel end this process when its parent is killed, so that it does not finish its job in vain."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        parent = multiprocessing.parent_process()
        if parent and parent.pid != os.getppid():
            sys.exit()


def _limit_allocator() -> None:
    """Has all threads take memory from one place, where a block that one has let go of is the next one's, and little
    that nobody uses is kept. By itself, glibc has one for each thread, and layers go through many.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):  # where the C library is another one
            for parameter, value in _ALLOCATION.items():
                ctypes.CDLL(None).mallopt(parameter, value)
