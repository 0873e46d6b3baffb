"""Work that a signal must not cut off in the middle, because what it does cannot be seen half done."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

#: What asks a process to end: Ctrl-C, `kill` and the system's shutdown, a terminal that goes away.
TERMINATION_SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


@dataclass
class _Blocks:
    """How many threads are in a block that must come to its end, and whether no other may be entered any more."""

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
        """Waits until no thread is in a block, and keeps all from entering one."""
        with self.changed:
            self.closed = True
            self.changed.wait_for(lambda: not self.count)


_blocks = _Blocks()
os.register_at_fork(after_in_child=_blocks.__init__)  # type: ignore[misc]


def terminate_between_blocks(number: int) -> None:
    """Has the signal end this process as it does by default, but while no thread is in an `uninterrupted` block.

    To be called before there are other threads.
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
    """Puts such signals off until the block is done. Threads other than the main one get none of them."""
    with _blocks.entered():
        if threading.current_thread() is threading.main_thread():
            with _defer_in_main_thread():
                yield
        else:
            yield


@contextmanager
def _defer_in_main_thread() -> Iterator[None]:
    caught: list[int] = []

    def remember(number: int, _frame: FrameType | None) -> None:
        caught.append(number)

    before = {number: signal.getsignal(number) for number in TERMINATION_SIGNALS}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, remember)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for first in caught[:1]:
            os.kill(os.getpid(), first)
