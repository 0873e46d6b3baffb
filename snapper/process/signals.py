"""Defer termination signals while something is done that must not be interrupted halfway."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

#: The signals that ask a process to end: Ctrl-C, `kill` and shutdown, and a terminal that is closed.
TERMINATION_SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


@dataclass
class _Blocks:
    """Counts the threads in an uninterruptible block; once `closed`, no thread can enter one."""

    count: int = 0
    closed: bool = False
    changed: threading.Condition = field(default_factory=threading.Condition)

    @contextmanager
    def entered(self) -> Iterator[None]:
        with self.changed:
            self.changed.wait_for(lambda: not self.closed)
            self.count += 1
        try:
            yield
        finally:
            with self.changed:
                self.count -= 1
                self.changed.notify_all()

    def close(self) -> None:
        """Keep threads from entering a block, and wait until none is in one."""
        with self.changed:
            self.closed = True
            self.changed.wait_for(lambda: not self.count)


_blocks = _Blocks()
os.register_at_fork(after_in_child=_blocks.__init__)  # type: ignore[misc]


def terminate_between_blocks(number: int) -> None:
    """Have the signal end this process as by default, but only while no thread is in a `defer_signals` block.

    Call it before other threads are started.
    """
    signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, (number,))

    def watch() -> None:
        signal.sigwait((number,))
        _blocks.close()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (number,))
        os.kill(os.getpid(), number)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def defer_signals() -> Iterator[None]:
    """Defer termination signals until the block ends. Only the main thread receives any."""
    with _blocks.entered():
        if threading.current_thread() is threading.main_thread():
            with _defer_in_main_thread():
                yield
        else:
            yield


@contextmanager
def _defer_in_main_thread() -> Iterator[None]:
    received: list[int] = []

    def remember(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    handlers = {number: signal.getsignal(number) for number in TERMINATION_SIGNALS}
    try:
        for number, handler in handlers.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, remember)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for first in received[:1]:
            os.kill(os.getpid(), first)
