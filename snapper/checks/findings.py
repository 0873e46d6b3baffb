"""What checks of the machine or a store have found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["good", "note", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """The result of one check: a sentence, and a hint what to do about it, if anything.

    A `note` is worth knowing, a `warning` can become a problem later, a `problem` means that something does not work.
    """

    level: Level
    title: str
    detail: str
    hint: str = ""
