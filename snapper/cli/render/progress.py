"""Progress on stderr: a bar on a terminal, else a line every few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from snapper.cli.logs import Verbosity
from snapper.cli.render.text import size
from snapper.process.logs import escape_controls
from snapper.process.progress import NO_PROGRESS, Progress

_SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def reporter(*, quiet: bool) -> Iterator[Progress]:
    """Show progress while the context is active, unless `quiet` or --quiet is given."""
    if quiet or Verbosity.quiet:
        yield NO_PROGRESS
    elif sys.stderr.isatty():
        bar = _Bar()
        try:
            yield bar
        finally:
            bar.done()
    else:
        yield _Lines()


class _Lines:
    """Progress as lines."""

    def __init__(self) -> None:
        self._task, self._total, self._size = "", 0, 0
        self._started = self._written = time.monotonic()

    def start(self, task: str, total: int) -> None:
        self._task, self._total, self._size = task, total, 0
        self._started = self._written = time.monotonic()
        self._write(f"{escape_controls(task)}: {size(total)}")

    def advance(self, size: int) -> None:
        self._size += size
        if time.monotonic() - self._written >= _SECONDS_BETWEEN_LINES:
            self._written = time.monotonic()
            self._write(f"{escape_controls(self._task)}: {self._share()}")

    def note(self, text: str) -> None:
        self._write(escape_controls(text))

    def done(self) -> None:
        seconds = time.monotonic() - self._started
        self._write(f"{escape_controls(self._task)}: done in {seconds:.1f} s")

    def _share(self) -> str:
        done = min(self._size, self._total)  # files may grow while they are read
        share = 100 * done // self._total if self._total else 100
        return f"{share}% ({size(done)} of {size(self._total)})"

    def _write(self, line: str) -> None:
        with suppress(OSError):  # a full disk must not end the work
            print(line, file=sys.stderr, flush=True)


class _Bar:
    """Progress as a bar."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task("", total=None)

    def start(self, task: str, total: int) -> None:
        self._bar.reset(self._task, total=total, description=escape_controls(task))
        self._bar.start()

    def advance(self, size: int) -> None:
        self._bar.advance(self._task, size)

    def note(self, text: str) -> None:
        self._bar.console.print(escape_controls(text), markup=False, highlight=False)

    def done(self) -> None:
        self._bar.stop()
