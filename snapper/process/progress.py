"""What long work reports to. Silent by default; the command line gives bars or lines."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives how far a piece of work is; bytes are those of the files, uncompressed."""

    def start(self, task: str, total: int) -> None:
        """A task of `total` bytes begins; it replaces the one before."""

    def advance(self, size: int) -> None:
        """`size` more bytes are done."""

    def note(self, text: str) -> None:
        """Something happened that the user should read."""

    def done(self) -> None:
        """The task has ended."""


class NullProgress:
    """Reports nothing."""

    def start(self, task: str, total: int) -> None: ...

    def advance(self, size: int) -> None: ...

    def note(self, text: str) -> None: ...

    def done(self) -> None: ...


NO_PROGRESS = NullProgress()
