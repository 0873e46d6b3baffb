"""Find the prefix that an archived environment had.

The archive is not trusted, and nothing in it is executed. A prefix that is found only serves to replace text.
"""

from __future__ import annotations

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
from snapper.environment.embedded import candidate_prefixes, is_prefix
from snapper.format.canonicalize import TEXT_PLACEHOLDER, candidate_originals

#: The prefix for environments that have none, or only placeholders; as short as the shortest of these.
NO_PREFIX = "/snapper-env"

_INTERPRETER = re.compile(rb"#! ?(/[^\n]*?)/(bin/[^/\s]+)[ \n]")
_MAX_FILES = 50
_LONGEST_LINE = 4096

#: How much data is searched at most, in bytes: each file counts once for every candidate.
_MOST_TEXT = 256 << 20
_MOST_BINARIES = 16 << 30


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
    search = OriginSearch(top, _MOST_TEXT)
    for entry in relocated[:_MAX_FILES]:
        proven = search.prove(entry)
        if proven:
            return proven.prefix
    counts = Counter(
        match[1].decode("utf-8", "surrogateescape")
        for path in scripts
        if (match := _INTERPRETER.match(unpacked.read_head(top, path, _LONGEST_LINE)))
        and os.path.lexists(top / os.fsdecode(match[2]))
    )
    return next((path for path, _ in counts.most_common() if is_prefix(path)), NO_PREFIX)


class OriginSearch:
    """Finds the prefixes that conda put into files of packages, as long as it has not searched more than a limit."""

    def __init__(self, top: Path, limit: int = _MOST_BINARIES) -> None:
        self._top = top
        self._remaining = limit

    def prove(self, entry: PathEntry) -> ProvenOrigin | None:
        """Return the prefix in a package's file if the checksum proves that a path in the file is one."""
        try:
            data = unpacked.read(self._top, entry.path)
        except OSError:
            return None
        for prefix in candidate_prefixes(data):
            self._remaining -= len(data)
            if self._remaining < 0:
                return None
            for original in candidate_originals(data, entry.mode, entry.placeholder, prefix):
                if hashlib.sha256(original).hexdigest() == entry.sha256:
                    return ProvenOrigin(prefix, original)
        return None
