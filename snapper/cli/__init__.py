"""The `snapper` command: parse, call one verb, render."""

from __future__ import annotations

import io
import os
import signal
import sys
from types import FrameType

from snapper.interrupts import SIGNALS


def main() -> None:
    """Runs the command line and exits with the documented code."""
    for number in SIGNALS:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _interrupt)
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = "/"  # as login(1) has it for users without a home
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        from snapper.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        from snapper.cli import render
        from snapper.errors import Interrupted

        render.error(Interrupted(), as_json="--json" in sys.argv)
        code = Interrupted.code
    sys.exit(code)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
