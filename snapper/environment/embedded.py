"""The prefixes that the files of an environment contain. They need not be the directory that it is in.

It may have been installed through a link, in a container, or somewhere else and then moved, copied, or unpacked. A few
small files show that: those into which conda wrote the prefix, according to its records, scripts, and kernelspecs.

Anybody may have written these files. A prefix that they contain is only used to replace text in the environment, but
no directory that holds more than environments is accepted.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from snapper.environment.conda import PathEntry, Record
from snapper.environment.conda_unpack import CONDA_UNPACK, read_prefix_records
from snapper.environment.prefix_claims import ClaimedPrefixes, PrefixClaim
from snapper.environment.prefixes import is_acceptable, is_prefix, spellings
from snapper.environment.tree import File
from snapper.format.canonicalize import candidate_originals
from snapper.format.constraints import path_bytes
from snapper.format.paths import contains_path
from snapper.format.shebang import program_of
from snapper.fs.pinned import PinnedDirectory
from snapper.fs.small_files import read_beneath

_LARGEST_TEXT = 64 << 10
_LARGEST_BINARY = 4 << 20
_LARGEST_SCRIPT = 256 << 10

#: How many files of each kind are read.
_MAX_TRIED = 4  # of a package
_MAX_TEXTS = 200  # packages
_MAX_BINARIES = 8  # packages
_MAX_SCRIPTS = 300
_MAX_KERNELS = 50
_MAX_ARCHIVED = 16
_MAX_ARCHIVED_PREFIXES = 4

#: How much data is searched for unknown prefixes at most, in bytes: each file counts once for every candidate.
_MOST_SEARCHED = 128 << 20

#: How many bytes are searched in about the time that an occurrence of a prefix takes.
_PER_OCCURRENCE = 2048

_PATH = re.compile(rb"/[^\s\0\"'`=:;,<>|&()\[\]{}$*?#]{1,4095}")
_PATH_WITH_SPACES = re.compile(rb"[\"'=] ?(/[^\n\0\"'=]{1,1023})")
#: The beginning of such a text that is a normal path: without `//`, `/./`, `/../`, and control characters.
_NORMAL = re.compile(rb"(?:/(?!\.{0,2}(?:/|\Z))[^/\x00-\x1f\x7f]+(?=/|\Z))*")
_MAX_MATCHES = 5000  # of each pattern in one file
_MAX_CANDIDATES = 500
_MAX_COMPONENTS = 32

_KERNELSPEC = re.compile(r"share/jupyter/kernels/[^/]+/kernel\.json\Z")
#: Where scripts and kernelspecs are.
_DIRECTORIES = ("bin/", "share/jupyter/kernels/")


@dataclass(frozen=True)
class EmbeddedPrefixes:
    """The prefixes that were `found` in files, the most frequent first; none if no file contains any.

    If the environment is an unpacked archive, `archived` are those for which it was made, which conda-unpack may have
    left in files. Until that has run, programs have `placeholders`, by path.
    """

    found: tuple[str, ...] = ()
    archived: tuple[str, ...] = ()
    placeholders: Mapping[str, str] = field(default_factory=dict)

    def with_paths_of(self, directory: Path, recorded: Iterable[str] = ()) -> tuple[str, ...]:
        """Return all prefixes that files may contain, the most frequent first, with the paths of the directory.

        `recorded` are those that snapper has recorded earlier, the most frequent first. Files in which no prefix is
        looked for may contain them.
        """
        return tuple(dict.fromkeys((*self.found, *recorded, *spellings(directory), *self.archived)))


def find_prefixes(
    directory: PinnedDirectory,
    records: Sequence[Record],
    files: Collection[File],
    recorded: Collection[str] = (),
) -> EmbeddedPrefixes:
    """Find the prefixes in the environment's files; `recorded` are those that snapper has recorded earlier."""
    paths = {file.path for file in files if file.path.startswith(_DIRECTORIES) and file.type == "file"}
    relocated = [[entry for entry in record.entries if entry.placeholder] for record in records]
    search = _Search(directory, {entry.placeholder for entries in relocated for entry in entries})
    search.read_package_files(relocated)
    archived, placeholders = search.read_archive(relocated) if CONDA_UNPACK in paths else ((), {})
    packaged = _packaged_files(paths, records)
    generated = {path for path, is_generated in packaged.items() if is_generated}
    scripts = {path for path in (paths - packaged.keys()) | generated if path.startswith("bin/")}
    search.read_scripts(scripts, generated)
    search.read_kernelspecs(paths)
    claimed = ClaimedPrefixes(directory, search.claims, records, files)
    accepted = claimed.accepted(spellings(directory.path), search.counts, recorded)
    counts = search.counts + Counter(claim.prefix for claim in search.claims if claim.prefix in accepted)
    return EmbeddedPrefixes(tuple(prefix for prefix, _ in counts.most_common()), archived, placeholders)


def candidate_prefixes(data: bytes) -> Iterator[str]:
    """Yield the absolute paths in the data, and their parents."""
    seen: set[bytes] = set()
    for pattern in (_PATH, _PATH_WITH_SPACES):
        for match in islice(pattern.finditer(data), _MAX_MATCHES):
            parts = _beginning(match[match.lastindex or 0]).split(b"/")
            for count in range(min(len(parts), _MAX_COMPONENTS), 1, -1):
                path = b"/".join(parts[:count])
                if path in seen:  # so are its parents
                    break
                seen.add(path)
                yield path.decode("utf-8", "surrogateescape")
            if len(seen) > _MAX_CANDIDATES:
                return


def search_work(data: bytes, prefix: str) -> int:
    """Return how much work it is to replace a prefix in data, in bytes that are searched in the same time."""
    return len(data) + _PER_OCCURRENCE * data.count(path_bytes(prefix))


def _beginning(text: bytes) -> bytes:
    """Return the beginning of a text that is a normal absolute path, empty if there is none."""
    normal = _NORMAL.match(text)
    return normal[0] if normal else b""


class _Search:
    """What is known so far about an environment's prefixes.

    `counts` says into how many files conda, or conda-pack, wrote each one. What other scripts, and kernelspecs, name
    are `claims`: it may be another environment.
    """

    def __init__(self, directory: PinnedDirectory, placeholders: Set[str]) -> None:
        self._top = directory
        self._placeholders = placeholders
        self._own = spellings(directory.path)
        self.counts: Counter[str] = Counter()
        self.claims: list[PrefixClaim] = []
        self._remaining = _MOST_SEARCHED

    def read_package_files(self, relocated: list[list[PathEntry]]) -> None:
        """Look at files into which conda wrote the prefix: small texts, or programs if there are none."""
        for entries in _samples(relocated, "text", _LARGEST_TEXT, _MAX_TEXTS):
            any(self._read_package_file(entry, _LARGEST_TEXT) for entry in entries)
        if not self.counts:
            for entries in _samples(relocated, "binary", _LARGEST_BINARY, _MAX_BINARIES):
                any(self._read_package_file(entry, _LARGEST_BINARY) for entry in entries)

    def _read_package_file(self, entry: PathEntry, limit: int) -> bool:
        """Count the prefix in a file; return whether it has told anything."""
        try:
            data = read_beneath(self._top, entry.path, limit)
        except OSError:
            return False
        if entry.placeholder.encode() in data:
            return True  # never relocated
        known = (*self._own, *self.counts)
        prefix = next(
            (path for path in known if self._affords(data, path) and is_proven(data, entry, path)), ""
        )
        prefix = prefix or self._prove(data, entry)
        prefix = prefix or next((path for path in known if contains_path(data, path)), "")
        if prefix:
            self.counts[prefix] += 1
        return bool(prefix)

    def _prove(self, data: bytes, entry: PathEntry) -> str:
        """Return the prefix in a package's file if the checksum proves that a path in the file is one."""
        for prefix in candidate_prefixes(data) if entry.sha256 else ():
            if not self._affords(data, prefix):
                return ""
            if is_acceptable(prefix, self._top.path) and is_proven(data, entry, prefix):
                return prefix
        return ""

    def _affords(self, data: bytes, prefix: str) -> bool:
        """Count the work to look for a prefix in data; return whether not more than the limit has been done."""
        self._remaining -= search_work(data, prefix)
        return self._remaining >= 0

    def read_archive(self, relocated: list[list[PathEntry]]) -> tuple[tuple[str, ...], dict[str, str]]:
        """Look at files that the archive's `conda-unpack` relocates.

        Return the prefixes that they had, and the placeholders of programs, by path.
        """
        try:
            listed = read_prefix_records(self._top) or ()
        except ValueError:
            return (), {}
        own = {(entry.path, entry.placeholder) for entries in relocated for entry in entries}
        texts = [
            record
            for record in listed
            if record.mode == "text"
            and record[:2] not in own
            and is_prefix(record.placeholder)
            and is_acceptable(record.placeholder, self._top.path)
        ]
        for record in texts[:_MAX_ARCHIVED]:
            with suppress(OSError):
                if contains_path(read_beneath(self._top, record.path), record.placeholder):
                    self.counts[record.placeholder] += 1
        prefixes = Counter(record.placeholder for record in texts)
        binaries = {record.path: record.placeholder for record in listed if record.mode == "binary"}
        return tuple(prefix for prefix, _ in prefixes.most_common(_MAX_ARCHIVED_PREFIXES)), binaries

    def read_scripts(self, scripts: Set[str], generated: Set[str]) -> None:
        """Look at the first lines of scripts; conda has `generated` some of them."""
        for path in sorted(scripts)[:_MAX_SCRIPTS]:
            with suppress(OSError):
                data = read_beneath(self._top, path, _LARGEST_SCRIPT)
                prefix, program = self._named(program_of(data)) if data.startswith(b"#!") else ("", "")
                if prefix and path in generated:
                    self.counts[prefix] += 1
                elif prefix:
                    self.claims.append(PrefixClaim(path, prefix, program, hashlib.sha256(data).hexdigest()))

    def read_kernelspecs(self, paths: Set[str]) -> None:
        """Look at the programs of kernels."""
        for path in sorted(filter(_KERNELSPEC.match, paths))[:_MAX_KERNELS]:
            with suppress(OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
                prefix, program = self._named(str(json.loads(read_beneath(self._top, path))["argv"][0]))
                if prefix:
                    self.claims.append(PrefixClaim(path, prefix, program))

    def _named(self, program: str) -> tuple[str, str]:
        """Return prefix and name of a program if there is one of this name in the environment, else empty strings."""
        prefix, _, name = program.rpartition("/bin/")
        is_unwritten = any(f"{placeholder}/".startswith(f"{prefix}/") for placeholder in self._placeholders)
        is_below = any(prefix.startswith(f"{own}/") for own in self._own)
        is_possible = is_prefix(prefix) and (prefix in self._own or is_acceptable(prefix, self._top.path))
        if is_unwritten or is_below or not is_possible or "/" in name:
            return "", ""
        return (prefix, name) if self._top.stat(f"bin/{name}", follow=False) else ("", "")


def is_proven(data: bytes, entry: PathEntry, prefix: str) -> bool:
    """Return whether the checksum in a record proves that this is the package's file with that prefix."""
    # Where conda or conda-pack wrote `env` into the first line, the original of that can be made up for any prefix.
    evidence = data.partition(b"\n")[2] if data.startswith(b"#!/usr/bin/env ") else data
    originals = candidate_originals(data, entry.mode, entry.placeholder, prefix)
    return path_bytes(prefix) in evidence and any(
        original != data and hashlib.sha256(original).hexdigest() == entry.sha256 for original in originals
    )


def _samples(relocated: list[list[PathEntry]], mode: str, limit: int, count: int) -> list[list[PathEntry]]:
    """Return, for each package that has any, its smallest files that have a placeholder of this mode."""
    samples = []
    for entries in relocated:
        small = [entry for entry in entries if entry.mode == mode and (entry.size or 0) <= limit]
        if small:
            samples.append(heapq.nsmallest(_MAX_TRIED, small, key=lambda entry: entry.size or limit))
    return samples[:count]


def _packaged_files(paths: Set[str], records: Iterable[Record]) -> dict[str, bool]:
    """Return which of the files belong to packages, and whether conda generated them when it installed these."""
    return {
        entry.path: entry.type.endswith("entry_point")
        for record in records
        for entry in record.entries
        if entry.path in paths
    }
