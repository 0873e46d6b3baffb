"""Find the prefix that an archived environment had.

The archive is not trusted, and nothing in it is executed. A prefix that is found only serves to replace text.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from snapper.archives import unpacked
from snapper.environment.conda import PathEntry
from snapper.environment.conda_unpack import PrefixRecord
from snapper.environment.embedded import candidate_prefixes, search_work
from snapper.environment.prefixes import is_prefix
from snapper.format.canonicalize import TEXT_PLACEHOLDER, candidate_originals

#: The prefix for environments that have none, or only placeholders; as short as the shortest of these.
NO_PREFIX = "/snapper-env"

_INTERPRETER = re.compile(rb"#! ?(/[^\n]*?)/(bin/[^/\s]+)[ \n]")
_MAX_FILES = 50
_LONGEST_LINE = 4096

#: How much is searched at most for one prefix of an archive, and how much work all of its files are, in bytes: each
#: file counts once for every candidate.
_MOST_SEARCHED = 256 << 20
_MOST_WORK = 32 << 30


class ProvenOrigin(NamedTuple):
    """A prefix in a file, proven by a checksum, and the file as its package has it."""

    prefix: str
    original: bytes


def archived_prefix(records: Iterable[PrefixRecord], entries: Mapping[str, PathEntry]) -> str:
    """Return the prefix at which an archive with `conda-unpack` was made.

    That is the most frequent placeholder of text files other than their package's own.
    """
    counts = Counter(
        record.placeholder
        for record in records
        if record.mode == "text"
        and (record.path not in entries or entries[record.path].placeholder != record.placeholder)
    )
    for path, _ in counts.most_common():
        if is_prefix(path):
            return NO_PREFIX if path.startswith(TEXT_PLACEHOLDER) else path
    return NO_PREFIX


def destination_prefix(top: Path, entries: Mapping[str, PathEntry], scripts: Iterable[str]) -> str:
    """Return the prefix that an archive without `conda-unpack` was made for (`--dest-prefix`).

    That is a prefix with which a package's file has the checksum in its record, or else that of most scripts.
    """
    relocated = [entry for entry in entries.values() if entry.placeholder and entry.sha256]
    relocated.sort(key=lambda entry: (entry.mode != "text", entry.size or 0))
    limit = WorkLimit(_MOST_SEARCHED)
    for entry in relocated[:_MAX_FILES]:
        proven = find_origin(top, entry, limit)
        if proven:
            return proven.prefix
    counts = Counter(
        match[1].decode("utf-8", "surrogateescape")
        for path in scripts
        if (match := _INTERPRETER.match(unpacked.read_head(top, path, _LONGEST_LINE)))
        and os.path.lexists(top / os.fsdecode(match[2]))
    )
    return next((path for path, _ in counts.most_common() if is_prefix(path)), NO_PREFIX)


class WorkLimit:
    """Limits the work for one archive, as `search_work` counts it."""

    def __init__(self, limit: int = _MOST_WORK) -> None:
        self._remaining = limit

    def is_reached(self, data: bytes, prefix: str) -> bool:
        """Count the work to replace a prefix in data, and return whether it is too much."""
        self._remaining -= search_work(data, prefix)
        return self._remaining < 0

    def check(self, file: Path, data: bytes, prefix: str) -> None:
        """Count the work to replace a prefix in a file; raise OSError, with EFBIG, if it is too much."""
        if self.is_reached(data, prefix):
            raise OSError(
                errno.EFBIG, "to replace prefixes in it and the other files takes too long", str(file)
            )


def find_origin(top: Path, entry: PathEntry, limit: WorkLimit) -> ProvenOrigin | None:
    """Return the prefix in a package's file if the checksum proves that a path in the file is one."""
    try:
        data = unpacked.read(top, entry.path)
    except OSError:
        return None
    for prefix in candidate_prefixes(data):
        if limit.is_reached(data, prefix):
            return None
        for original in candidate_originals(data, entry.mode, entry.placeholder, prefix):
            if hashlib.sha256(original).hexdigest() == entry.sha256:
                return ProvenOrigin(prefix, original)
    return None
