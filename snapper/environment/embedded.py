"""The prefix that the files of an environment contain, which need not be the directory they are in."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from snapper.environment.conda import Record
from snapper.fs.pinned import Top
from snapper.fs.small_files import read_beneath


@dataclass(frozen=True)
class ForeignPrefix:
    """The prefix in the files of an environment that is temporarily in another directory.

    `placeholders` maps paths to the placeholders that these files had before the prefix was written into them, and
    `kept` to the prefixes that they contained then.
    """

    prefix: str
    placeholders: Mapping[str, str]
    kept: Mapping[str, str] = field(default_factory=dict)


def embedded_prefix(prefix: Top, records: Iterable[Record]) -> str:
    """Return the prefix as it is written in the environment's files.

    It is how the directory was spelled when packages were installed. If there is a symlink in the path, that can be
    either `prefix` or its real path.
    """
    absolute, real = os.path.abspath(str(prefix)), os.path.realpath(str(prefix))
    if absolute == real:
        return absolute
    entries = (entry for record in records for entry in record.entries)
    for entry in entries:
        if entry.placeholder and entry.mode == "text":
            embedded = _first_contained(prefix, entry.path, (absolute, real))
            if embedded:
                return embedded
    return absolute


def _first_contained(prefix: Top, path: str, texts: Iterable[str]) -> str:
    """Return the first of the texts that the file contains; "" if it contains none or cannot be read."""
    try:
        data = read_beneath(prefix, path)
    except OSError:
        return ""
    return next((text for text in texts if os.fsencode(text) in data), "")
