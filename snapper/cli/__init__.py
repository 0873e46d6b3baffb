"""The `snapper` command: parse, call one verb, render."""

from __future__ import annotations

import gc
import io
import math
import os
import signal
import sys
import time
from types import FrameType
from typing import ClassVar

from snapper.process.signals import TERMINATION_SIGNALS


class Command:
    """The command that runs: when it `began`, by the monotonic clock."""

    began: ClassVar[float] = time.monotonic()


def main() -> None:
    """Runs the command line and exits with the documented code."""
    Command.began = time.monotonic()
    gc.set_threshold(1_000_000)  # an environment is some hundred thousand tuples, and no cycles
    for stream, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, stream) is None:  # closed by whoever started us: nothing else may take its descriptor
            setattr(sys, stream, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - open to the end
    for number in TERMINATION_SIGNALS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _Interrupt())
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = "/"  # as login(1) has it for users without a home
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        from snapper.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        from snapper.cli.render import output
        from snapper.errors import Interrupted

        output.print_error(Interrupted(), as_json="--json" in sys.argv)
        code = Interrupted.code
    for number in TERMINATION_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # nothing is left to interrupt but Python's own end
    gc.freeze()  # nothing that is left need be looked through before it is let go of
    sys.exit(code)


class _Interrupt:
    """What a signal does. Those that follow in the same second are taken for the same: timeout(1) and programs
    that pass Ctrl-C on send two, and the second must not cut off what the first has set going.
    """

    last: ClassVar[float] = -math.inf

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        before, _Interrupt.last = self.last, time.monotonic()
        if self.last - before > 1:
            raise KeyboardInterrupt
