"""What all errors are, and the exit codes that they stand for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from enum import IntEnum


class ExitCode(IntEnum):
    """What the process ends with; documented in docs/cli.md and kept stable."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    PARTIAL = 3
    NOT_FOUND = 10
    CONFLICT = 11
    INTEGRITY = 12
    STORE = 13
    INTERRUPTED = 130


def suggest_name(name: str, known: Iterable[str]) -> str:
    """`Did you mean 'demo'? ` where a name that there is looks like the one that was given, else nothing."""
    from difflib import get_close_matches  # noqa: PLC0415 - a slow import for what is seldom needed

    found = get_close_matches(name, dict.fromkeys(known), n=1, cutoff=0.55)
    return f"Did you mean {found[0]!r}? " if found else ""


def _rebuild(kind: type[SnapperError], values: dict[str, object]) -> SnapperError:
    return kind(**values)


class SnapperError(Exception):
    """Base of all errors. A subclass is a dataclass: its fields are the data, `message` one sentence.

    Errors cross process borders (a worker raises, the command reports), so they pickle by field.
    """

    code = ExitCode.FAILED

    @property
    def message(self) -> str:
        raise NotImplementedError

    @property
    def hint(self) -> str:
        """What the user can do; empty where the message says it all."""
        return ""

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return _rebuild, (type(self), values)
