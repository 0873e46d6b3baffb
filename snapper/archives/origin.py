"""What an environment that was unpacked from an archive tells of the prefix that it had.

Nothing here trusts the archive, and nothing in it is executed: a prefix that is found serves to replace text by text.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from snapper.environment.conda import PathEntry
from snapper.format.canonicalize import TEXT_PLACEHOLDER, candidate_originals
from snapper.format.model import Mode

#: The prefix of environments that have none, or only placeholders; as short as the shortest of those.
NOWHERE = "/snapper-env"

_LARGEST_SCRIPT = 256 * 1024 * 1024
_LONGEST_RECORD = 64 * 1024
_RECORDS = re.compile(rb"^_prefix_records = \[\n(.*?)^\]$", re.M | re.S)
_PATH = re.compile(rb"/[^\s\0\"'`=:;,<>|&()\[\]{}$*?#]+")
_INTERPRETER = re.compile(rb"#! ?(/[^\n]*?)/(bin/[^/\s]+)[ \n]")
_MOST_FILES = 50
_MOST_CANDIDATES = 500
_LARGEST_FILE = 64 * 1024 * 1024


class Fix(NamedTuple):
    """What conda-unpack would do to a file: put the prefix in the placeholder's place."""

    path: str
    placeholder: str
    mode: Mode


class Proved(NamedTuple):
    """A prefix that a file holds, and the file as its package has it."""

    prefix: str
    original: bytes


def fixes_of(script: Path) -> tuple[Fix, ...] | None:
    """The `_prefix_records` of a `bin/conda-unpack`, read as data; None where there is no such script.

    Raises ValueError where they are not as conda-pack writes them.
    """
    if not script.is_file():
        return None
    if script.stat().st_size > _LARGEST_SCRIPT:
        raise ValueError("bin/conda-unpack is too large")
    match = _RECORDS.search(script.read_bytes())
    if match is None:
        raise ValueError("bin/conda-unpack has no list of prefixes")
    lines = match[1].decode("utf-8", "surrogateescape").splitlines()
    return tuple(_fix(line) for line in lines if line.strip())


def prefix_of(fixes: Iterable[Fix], entries: Mapping[str, PathEntry]) -> str:
    """The prefix that was there when the archive was made: what stands for it in files without a placeholder of
    their package's.
    """
    counts = Counter(
        fix.placeholder
        for fix in fixes
        if fix.mode == "text"
        and (fix.path not in entries or entries[fix.path].placeholder != fix.placeholder)
    )
    for name, _ in counts.most_common():
        if _is_prefix(name):
            return NOWHERE if name.startswith(TEXT_PLACEHOLDER) else name
    return NOWHERE


def dest_prefix_of(top: Path, entries: Mapping[str, PathEntry], scripts: Iterable[str]) -> str:
    """The prefix that an archive was made for (`--dest-prefix`): the one with which a file of a package turns out to be
    what the package's record says, or else that of most scripts.
    """
    with_placeholder = [entry for entry in entries.values() if entry.placeholder and entry.sha256]
    with_placeholder.sort(key=lambda entry: (entry.mode != "text", entry.size or 0))
    for entry in with_placeholder[:_MOST_FILES]:
        found = proved(top, entry)
        if found:
            return found.prefix
    counts = Counter(
        match[1].decode("utf-8", "surrogateescape")
        for path in scripts
        if (match := _INTERPRETER.match(_head(top / path))) and os.path.lexists(top / os.fsdecode(match[2]))
    )
    return next((name for name, _ in counts.most_common() if _is_prefix(name)), NOWHERE)


def _fix(line: str) -> Fix:
    if len(line) > _LONGEST_RECORD:
        raise ValueError("bin/conda-unpack has a line that is too long")
    try:
        fields = ast.literal_eval(line.strip().rstrip(","))
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        fields = None
    if (
        not isinstance(fields, tuple)
        or len(fields) != 3
        or not all(isinstance(field, str) for field in fields)
        or fields[2] not in ("text", "binary")
        or not fields[1].startswith("/")
        or "\0" in fields[1]
    ):
        raise ValueError("bin/conda-unpack has a line that conda-pack does not write")
    path = os.path.normpath(fields[0])
    if path.startswith("/") or path.split("/", 1)[0] == ".." or "\0" in path:
        raise ValueError(f"bin/conda-unpack would change {path!r}, which is not in the environment")
    return Fix(path, fields[1], fields[2])


def proved(top: Path, entry: PathEntry) -> Proved | None:
    """The prefix with which the file is the package's own, if any of the paths in it is."""
    file = top / entry.path
    if file.stat().st_size > _LARGEST_FILE:
        return None
    data = file.read_bytes()
    for candidate in _candidates(data):
        for original in candidate_originals(data, entry.mode, entry.placeholder, candidate):
            if hashlib.sha256(original).hexdigest() == entry.sha256:
                return Proved(candidate, original)
    return None


def _candidates(data: bytes) -> Iterator[str]:
    """The absolute paths in the data, and what is above them."""
    seen: set[bytes] = set()
    for match in _PATH.finditer(data):
        parts = match.group().split(b"/")
        for count in range(len(parts), 1, -1):
            path = b"/".join(parts[:count])
            name = path.decode("utf-8", "surrogateescape")
            if path not in seen and _is_prefix(name):
                seen.add(path)
                yield name
        if len(seen) > _MOST_CANDIDATES:
            return


def _is_prefix(name: str) -> bool:
    return name.startswith("/") and len(name) > 1 and "\0" not in name and os.path.normpath(name) == name


def _head(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(4096)
