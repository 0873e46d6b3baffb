"""Color on terminals."""

from __future__ import annotations

import os
import sys
from typing import Literal, TextIO

Style = Literal["bold", "dim", "red", "green", "yellow", "cyan"]

_CODES: dict[Style, int] = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "cyan": 36}


def has_color(stream: TextIO | None = None) -> bool:
    """Return whether the stream (default: stdout) is a terminal that shows colors, and NO_COLOR is not set."""
    stream = stream or sys.stdout
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def styled(text: str, style: Style, stream: TextIO | None = None) -> str:
    """Return the text in that style if the stream (default: stdout) has colors, else the text."""
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if has_color(stream) else text
