"""What a look at the machine or a store has found, for people who ask what is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["good", "note", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: how it is, in a sentence, and what to do about it where there is something.

    A `note` is worth knowing, a `warning` will matter some day, and with a `problem` something does not work.
    """

    level: Level
    title: str
    detail: str
    hint: str = ""
