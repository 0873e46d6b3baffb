"""Work that may outlive the command that started it: in a session of its own, with its output in the log file."""

from __future__ import annotations

import io
import logging
import os
import pickle
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TextIO, cast

from snapper.errors import SnapperError, WorkerDied
from snapper.process.logs import LogFile, configure_logging
from snapper.process.signals import TERMINATION_SIGNALS
from snapper.process.tracebacks import RemoteError

logger = logging.getLogger(__name__)

Emit = Callable[[object], None]


@dataclass(frozen=True)
class BackgroundReport:
    """The events that the work has emitted so far, and the PID of its process if it continues, None if it ended."""

    events: list[object]
    pid: int | None = None


def run_in_background(
    work: Callable[[Emit], None], until: float, open_log: Callable[[], LogFile]
) -> BackgroundReport:
    """Do the work in a process that may outlive this one; wait for it until the time `until` (monotonic clock).

    The work emits events, which can be pickled, through its argument; its output goes to the log file, or to nowhere if
    that cannot be opened. Raise what it raises, with its traceback, and WorkerDied if its process was killed.
    Interrupting this process interrupts the work.
    """
    read, write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        _run_detached(work, write, open_log)
    os.close(write)
    try:
        with open(read, "rb", buffering=0) as pipe:
            messages, ended = _receive(pipe, until)
    except BaseException:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        raise
    events = [message for message in messages if not isinstance(message, RemoteError)]
    if not ended:
        logger.info("process %d continues in the background", pid)
        return BackgroundReport(events, pid)
    _, status = os.waitpid(pid, 0)
    for message in messages:
        if isinstance(message, RemoteError):
            raise message.restore()
    if status:
        raise WorkerDied(os.waitstatus_to_exitcode(status))
    return BackgroundReport(events)


def _receive(pipe: io.FileIO, until: float) -> tuple[list[object], bool]:
    """Return the messages received until then, and whether the sender has ended."""
    received = bytearray()
    ended = False
    while not ended and (remaining := until - time.monotonic()) > 0:
        ready, _, _ = select.select([pipe], [], [], remaining)
        if ready:
            data = pipe.read(1024 * 1024)
            ended = not data
            received += data or b""
    return list(_unpickle(received)), ended


def _unpickle(received: bytearray) -> Iterator[object]:
    stream = io.BytesIO(received)
    while stream.tell() < len(received):
        try:
            yield pickle.load(stream)
        except (EOFError, pickle.UnpicklingError):  # the deadline came in the middle of a message
            return


def _run_detached(work: Callable[[Emit], None], pipe: int, open_log: Callable[[], LogFile]) -> None:
    """Do the work in the forked process; never return."""
    status = 1
    try:
        os.setsid()
        with _output_to(open_log):
            status = _run(work, pipe)
    except KeyboardInterrupt:
        status = 130
    finally:
        for number in TERMINATION_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        os._exit(status)


def _run(work: Callable[[Emit], None], pipe: int) -> int:
    """Do the work and send its events; return the exit status."""

    def send(message: object) -> None:
        with suppress(BrokenPipeError):  # the command no longer waits
            data = pickle.dumps(message)
            while data:
                data = data[os.write(pipe, data) :]

    logger.info("started in the background")
    try:
        work(send)
        logger.info("finished")
    except Exception as error:
        level = logging.DEBUG if isinstance(error, SnapperError) else logging.ERROR
        logger.log(level, "the background work failed", exc_info=True)
        send(RemoteError.capture(error))
        return 1
    except KeyboardInterrupt:
        logger.warning("interrupted")
        raise
    except BaseException:
        traceback.print_exc()
        raise
    return 0


@contextmanager
def _output_to(open_log: Callable[[], LogFile]) -> Iterator[None]:
    """Redirect the standard streams to the log file, or to nowhere if it cannot be opened."""
    null = os.open(os.devnull, os.O_RDWR)
    try:
        file: LogFile | None = open_log()
    except OSError:
        file = None
    target = file.fileno() if file else null
    os.dup2(null, 0)
    os.dup2(target, 1)
    os.dup2(target, 2)
    if file:
        sys.stdout = sys.stderr = cast(TextIO, file)
    configure_logging(min(logging.getLogger("snapper").getEffectiveLevel(), logging.INFO))
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.close()
