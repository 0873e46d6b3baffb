"""The base class of all errors, and exit codes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from enum import IntEnum
from typing import Any, ClassVar

from snapper.errors.redaction import redact

#: The longest text in the data of an error, in characters: longer than any path.
_LONGEST_TEXT = 4200


class ExitCode(IntEnum):
    """Exit codes of the command line; documented in docs/cli.md and stable."""

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
    """Return `Did you mean 'demo'? ` if one of the known names resembles this one, else an empty string."""
    from difflib import get_close_matches  # noqa: PLC0415 - a slow import, rarely needed

    matches = get_close_matches(name, dict.fromkeys(known), n=1, cutoff=0.55)
    return f"Did you mean {matches[0]!r}? " if matches else ""


class SnapperError(Exception):
    """Base class of all errors that users can meet.

    A subclass is a dataclass whose fields are the error's data, with no generated methods but `__init__`. Its templates
    are filled with the fields; a subclass whose text needs logic overrides `message` or `hint` instead. Errors cross
    process boundaries (a worker raises, the command reports), so they are pickled by field.
    """

    code: ClassVar[ExitCode] = ExitCode.FAILED
    message_template: ClassVar[str] = ""
    hint_template: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Shorten the data, which may quote what others wrote, and remove credentials from URLs in it.

        So this holds for whatever is reported or recorded about an error.
        """
        for name, value in self._values().items():
            if isinstance(value, str):
                shortened = value if len(value) <= _LONGEST_TEXT else f"{value[:_LONGEST_TEXT]}…"
                setattr(self, name, redact(shortened))

    @property
    def message(self) -> str:
        """What happened, and why, in one sentence without a period."""
        return self.message_template.format_map(self._values())

    @property
    def hint(self) -> str:
        """What the user can do; empty if the message says it all."""
        return self.hint_template.format_map(self._values())

    def _values(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]

    def __str__(self) -> str:
        return self.message

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._values()})"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self._values())


def _rebuild(kind: type[SnapperError], values: dict[str, object]) -> SnapperError:
    return kind(**values)
