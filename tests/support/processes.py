"""Run functions in forked processes: several at the same moment, or as a user without privileges."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

forking = multiprocessing.get_context("fork")

_NOBODY = 65534


@contextmanager
def limited_cpu_time(seconds: float = 60) -> Iterator[None]:
    """Fail if this process uses that much CPU time, which does not depend on what else the machine does.

    Choose inputs for which this is a small fraction or a large multiple of what is needed.
    """

    def fail(_number: int, _frame: object) -> None:
        raise AssertionError(f"this took more than {seconds} s of CPU time")

    before = signal.signal(signal.SIGVTALRM, fail)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def run_simultaneously(count: int, action: Callable[..., Any], *arguments: object) -> list[Any]:
    """Run the action in several processes that start it at the same moment; return their results in any order.

    The action gets the number of its process first, then the arguments.
    """
    barrier = forking.Barrier(count)
    answers = forking.SimpleQueue()

    def run(number: int) -> None:
        barrier.wait(120)
        answers.put(action(number, *arguments))

    processes = [forking.Process(target=run, args=(number,)) for number in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * count
    return [answers.get() for _ in processes]


def run_as_nobody(action: Callable[[], Any]) -> Any:
    """Return what the action returns or raises in a process without privileges."""
    return run_as(_NOBODY, action)


def run_as(user: int, action: Callable[[], Any]) -> Any:
    """Return what the action returns or raises in a process of a user and group with this number, if root runs this."""
    answers = forking.SimpleQueue()

    def run() -> None:
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
        try:
            answers.put(action())
        except BaseException as error:
            answers.put(error)

    process = forking.Process(target=run)
    process.start()
    process.join(120)
    assert process.exitcode == 0
    return answers.get()
