"""Exceptions that cross process boundaries with their tracebacks, which pickling loses."""

from __future__ import annotations

import pickle
import traceback
from typing import NamedTuple

from snapper.errors import SnapperError


class RemoteTraceback(Exception):
    """The text of a traceback from another process, and the `__cause__` of the exception that was raised there.

    Python prints the text before the traceback of this process.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'

    def __reduce__(self) -> tuple[object, ...]:
        return RemoteTraceback, (self.text,)


class RemoteError(NamedTuple):
    """An exception as it is sent to another process."""

    error: Exception
    traceback: str

    @classmethod
    def capture(cls, error: Exception) -> RemoteError:
        """Return the error and its traceback.

        Replace an error that cannot be sent with a RuntimeError that names its type and message.
        """
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        return cls(error if _survives_pickling(error) else _replacement(error), text)

    def restore(self) -> Exception:
        """Return the error with the other process's traceback as its cause."""
        self.error.__cause__ = RemoteTraceback(self.traceback)
        return self.error


def _survives_pickling(error: Exception) -> bool:
    if isinstance(error, SnapperError):
        return True
    try:
        return type(pickle.loads(pickle.dumps(error))) is type(error)
    except Exception:  # whatever the error's own methods raise
        return False


def _replacement(error: Exception) -> RuntimeError:
    return RuntimeError(f"{type(error).__name__}: {error}")
