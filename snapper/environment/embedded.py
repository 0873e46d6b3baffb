"""The prefix that the files of an environment contain, which need not be the directory they are in."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from snapper.environment.conda import Record


@dataclass(frozen=True)
class ForeignPrefix:
    """The prefix in the files of an environment that is temporarily in another directory.

    `placeholders` maps paths to the placeholders that these files had before the prefix was written into them.
    """

    prefix: str
    placeholders: Mapping[str, str]


def embedded_prefix(prefix: Path, records: Iterable[Record]) -> str:
    """Return the prefix as it is written in the environment's files.

    It is how the directory was spelled when packages were installed. If there is a symlink in the path, that can be
    either `prefix` or its real path.
    """
    given = os.path.abspath(prefix)
    candidates = list(dict.fromkeys((given, os.path.realpath(prefix))))
    if len(candidates) > 1:
        for record in records:
            for entry in record.entries:
                if entry.placeholder and entry.mode == "text":
                    for candidate in candidates:
                        if _contains(prefix / entry.path, candidate):
                            return candidate
    return given


def _contains(file: Path, text: str) -> bool:
    try:
        return os.fsencode(text) in file.read_bytes()
    except OSError:
        return False
