"""The interface through which long operations report their progress. The command line shows bars or lines."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the progress of an operation; sizes are uncompressed bytes."""

    def start(self, task: str, total: int) -> None:
        """Start a task of `total` bytes, in place of the previous one."""

    def advance(self, size: int) -> None:
        """Count `size` more bytes as done."""

    def note(self, text: str) -> None:
        """Show a message to the user."""

    def done(self) -> None:
        """End the task."""


class NullProgress:
    """Reports nothing."""

    def start(self, task: str, total: int) -> None: ...

    def advance(self, size: int) -> None: ...

    def note(self, text: str) -> None: ...

    def done(self) -> None: ...


NO_PROGRESS = NullProgress()
