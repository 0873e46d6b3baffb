"""Work that may go on when the command that began it has ended: in a session of its own, with a log for output."""

from __future__ import annotations

import io
import os
import pickle
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from snapper.errors import SnapperError, WorkerDied
from snapper.process.signals import TERMINATION_SIGNALS

Emit = Callable[[object], None]


@dataclass
class BackgroundReport:
    """What the work has told so far. `process` is its number where it goes on, None where it has come to its end."""

    told: list[object] = field(default_factory=list)
    process: int | None = None


def run_in_background(work: Callable[[Emit], None], until: float, log: Path) -> BackgroundReport:
    """Does the work in a process that outlives this one, and waits for it until then, by the monotonic clock.

    The work tells what it has to tell through its argument; its output goes to the log. Raises the SnapperError
    that it raised, and WorkerDied where it was killed. Interrupted, the work is too.
    """
    read, write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process == 0:
        os.close(read)
        _be_detached(work, write, log)
    os.close(write)
    try:
        with open(read, "rb", buffering=0) as pipe:
            told, ended = _listen(pipe, until)
    except BaseException:
        os.kill(process, signal.SIGTERM)
        os.waitpid(process, 0)
        raise
    if not ended:
        return BackgroundReport(told, process)
    _, status = os.waitpid(process, 0)
    failures = [each for each in told if isinstance(each, SnapperError)]
    if failures:
        raise failures[0]
    if status:
        raise WorkerDied(os.waitstatus_to_exitcode(status))
    return BackgroundReport(told)


def _listen(pipe: io.FileIO, until: float) -> tuple[list[object], bool]:
    """All that is told until then, and whether it was the end."""
    received = bytearray()
    ended = False
    while not ended and (left := until - time.monotonic()) > 0:
        ready, _, _ = select.select([pipe], [], [], left)
        if ready:
            part = pipe.read(1024 * 1024)
            ended = not part
            received += part or b""
    return list(_unpickled(received)), ended


def _unpickled(received: bytearray) -> Iterator[object]:
    stream = io.BytesIO(received)
    while stream.tell() < len(received):
        try:
            yield pickle.load(stream)
        except (EOFError, pickle.UnpicklingError):  # cut off by the deadline
            return


def _be_detached(work: Callable[[Emit], None], pipe: int, log: Path) -> None:
    """What the process does that was forked; never returns."""
    status = 1
    try:
        os.setsid()
        with _output_to(log):

            def tell(what: object) -> None:
                with suppress(BrokenPipeError):  # nobody waits any more
                    data = pickle.dumps(what)
                    while data:
                        data = data[os.write(pipe, data) :]

            try:
                work(tell)
                status = 0
            except SnapperError as error:
                tell(error)
                status = 0
    except KeyboardInterrupt:
        status = 130
    except BaseException:
        with suppress(OSError):
            traceback.print_exc()
    finally:
        for number in TERMINATION_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        os._exit(status)


@contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """Has the standard streams lead to the log; to nowhere where there can be none."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    target = nowhere
    with suppress(OSError):
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists():
            log.rename(log.with_name(f"{log.name}.1"))
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    os.dup2(nowhere, 0)
    os.dup2(target, 1)
    os.dup2(target, 2)
    yield
    with suppress(OSError):
        sys.stdout.flush()
    with suppress(OSError):
        sys.stderr.flush()
