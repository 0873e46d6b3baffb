"""The entry point of the `snapper` command: streams, signals, and the exit code."""

from __future__ import annotations

import gc
import io
import math
import os
import signal
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING, ClassVar

from snapper.cli.invocation import Invocation
from snapper.process.signals import TERMINATION_SIGNALS

if TYPE_CHECKING:
    from snapper.errors import SnapperError


def main() -> None:
    """Run the command line and exit with the documented code."""
    Invocation.started = time.monotonic()
    gc.set_threshold(1_000_000)  # an environment is hundreds of thousands of tuples without reference cycles
    for stream, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, stream) is None:  # closed by the caller: no other file may take its descriptor
            setattr(sys, stream, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - open until exit
    for number in TERMINATION_SIGNALS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _Interrupt())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if hasattr(os, "geteuid"):  # not on Windows, which _run reports
        from snapper.cli.home import set_home

        sys.unraisablehook = _repeat_interrupt
        set_home()
    try:
        code = _run()
    except KeyboardInterrupt:
        from snapper.errors import Interrupted

        code = _report(Interrupted())
    except Exception as error:
        from snapper.cli import crash

        code = crash.report(error, as_json="--json" in sys.argv)
    for number in TERMINATION_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # only Python's own shutdown is left
    gc.freeze()  # skip the last collection
    sys.exit(code)


def _run() -> int:
    """Run the command line and return the exit code."""
    if sys.platform == "win32":  # which lacks modules that the commands import
        from snapper.errors import UnsupportedPlatform

        return _report(UnsupportedPlatform("Windows"))
    from snapper.cli.app import run

    return run(sys.argv[1:])


def _report(error: SnapperError) -> int:
    """Report an error and return its exit code."""
    from snapper.cli.render import output

    output.print_error(error, as_json="--json" in sys.argv)
    return error.code


class _Interrupt:
    """Raise KeyboardInterrupt for a signal, and ignore those of the following second: timeout(1) and programs that
    forward Ctrl-C send two, and the second must not interrupt the cleanup that the first has started.
    """

    last: ClassVar[float] = -math.inf
    number: ClassVar[int] = signal.SIGINT

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        before, _Interrupt.last, _Interrupt.number = self.last, time.monotonic(), number
        if self.last - before > 1:
            raise KeyboardInterrupt


def _repeat_interrupt(unraisable: sys.UnraisableHookArgs) -> None:
    """Send the last signal again if its KeyboardInterrupt was raised in a destructor or a weakref callback.

    Python discards such exceptions after it has called `sys.unraisablehook`, whose own exceptions it discards as well.
    A timer therefore sends the signal, after this hook has returned.
    """
    if unraisable.exc_type is KeyboardInterrupt:
        _Interrupt.last = -math.inf
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(_Interrupt.number))
        signal.setitimer(signal.ITIMER_REAL, 0.001)
    else:
        sys.__unraisablehook__(unraisable)
