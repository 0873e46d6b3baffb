"""Make an unpacked environment consistent: one prefix in all files, and package records that match them."""

from __future__ import annotations

import errno
import hashlib
import itertools
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from snapper.archives import unpacked
from snapper.archives.origin import NO_PREFIX, WorkLimit, find_origin
from snapper.environment import conda, pip
from snapper.environment.conda import FileFacts, PathEntry, Record
from snapper.environment.conda_unpack import CONDA_UNPACK, PrefixRecord
from snapper.environment.record_text import with_facts, with_missing_facts
from snapper.format import shebang
from snapper.format.canonicalize import TEXT_PLACEHOLDERS, candidate_originals
from snapper.format.constraints import path_bytes
from snapper.format.cstrings import PlaceholderTooShort
from snapper.format.model import Mode
from snapper.format.placeholders import is_own_placeholder
from snapper.format.relocate import replace_placeholder

#: How many placeholders conda-unpack may replace in one file. conda-pack lists each file once.
_MOST_PLACEHOLDERS = 16

#: How scripts begin whose interpreter conda-pack changed.
_BY_ENV = b"#!/usr/bin/env "


@dataclass(frozen=True)
class UnpackedFiles:
    """What was unpacked at `top`: the paths of regular files, the packages, and their entries for these files."""

    top: Path
    paths: frozenset[str]
    records: tuple[Record, ...]
    entries: Mapping[str, PathEntry]


def normalize(files: UnpackedFiles, prefix_records: Collection[PrefixRecord] | None, prefix: str) -> None:
    """Put the prefix into all files that depend on it, restore first lines of scripts, and update package records.

    `prefix_records` are those of the archive's conda-unpack, None if it has none. Raise OSError, with EFBIG for a file
    that is too large for what must be done with it.
    """
    limit = WorkLimit()
    _relocate_files(files, prefix_records or (), prefix, limit)
    if prefix_records is None:
        _relocate_binaries(files, prefix, limit)
    _restore_shebangs(files, prefix)
    _update_records(files, prefix, limit)


def _relocate_files(
    files: UnpackedFiles, prefix_records: Collection[PrefixRecord], prefix: str, limit: WorkLimit
) -> None:
    """Do what conda-unpack would do, and what it omits: Python's own programs, and compiled modules."""
    listed = [record for record in dict.fromkeys(prefix_records) if record.path in files.paths]
    paths = Counter(record.path for record in listed)
    for path, count in paths.items():
        if count > _MOST_PLACEHOLDERS:
            reason = f"{CONDA_UNPACK} lists it {count:,} times"
            raise OSError(errno.EFBIG, reason, str(files.top / path))
    recorded = [entry for entry in files.entries.values() if entry.placeholder and entry.path not in paths]
    relocated: list[PathEntry | PrefixRecord] = [*recorded, *listed]
    for record in relocated:
        is_kept = record.mode == "binary" and is_own_placeholder(record.placeholder)  # as in the snapshot
        if record.placeholder != prefix and not is_kept:
            _relocate_file(files.top, record.path, record.mode, record.placeholder, prefix, limit)
    if prefix == NO_PREFIX:
        modules = [path for path in files.paths if path.endswith(".pyc")]
        for module, placeholder in itertools.product(modules, TEXT_PLACEHOLDERS):
            _relocate_file(files.top, module, "pyc", placeholder, prefix, limit)


def _relocate_binaries(files: UnpackedFiles, prefix: str, limit: WorkLimit) -> None:
    """Relocate binaries that contain another prefix.

    An archive for a certain prefix that was made without a package cache contains them unchanged.
    """
    for entry in files.entries.values():
        if entry.mode != "binary" or not entry.placeholder or _proven_facts(files.top, entry, prefix, limit):
            continue
        proven = find_origin(files.top, entry, limit)
        if proven is not None:
            with suppress(PlaceholderTooShort):
                data = replace_placeholder(proven.original, entry.mode, entry.placeholder, prefix)
                unpacked.rewrite(files.top, entry.path, data)


def _relocate_file(top: Path, path: str, mode: Mode, placeholder: str, prefix: str, limit: WorkLimit) -> None:
    def relocate(data: bytes) -> bytes:
        limit.check(top / path, data, placeholder)
        return replace_placeholder(data, mode, placeholder, prefix)

    with suppress(PlaceholderTooShort):
        if mode == "binary":
            unpacked.rewrite_strings(top, path, relocate)
            return
        data = unpacked.read(top, path)
        _check_growth(top / path, data, placeholder, prefix)
        relocated = relocate(data)
        if relocated != data:
            unpacked.rewrite(top, path, relocated)


def _check_growth(file: Path, data: bytes, placeholder: str, prefix: str) -> None:
    """Raise OSError if the file would be too large with the prefix for each placeholder."""
    growth = len(path_bytes(prefix)) - len(placeholder.encode())
    if len(data) + growth * data.count(placeholder.encode()) > unpacked.LARGEST:
        reason = f"it would be larger than {unpacked.LARGEST:,} bytes with the prefix"
        raise OSError(errno.EFBIG, reason, str(file))


def _restore_shebangs(files: UnpackedFiles, prefix: str) -> None:
    """Restore the interpreter of scripts that conda-pack changed to look it up on PATH, where a checksum proves it."""
    of_pip = pip.recorded_files(files.top, files.paths)
    for path in files.paths:
        entry = files.entries.get(path)
        if not path.startswith("bin/") or (entry and entry.placeholder):
            continue
        if unpacked.read_head(files.top, path, len(_BY_ENV)) == _BY_ENV:
            script = unpacked.read(files.top, path)
            pip_checksum = of_pip[path].sha256 if path in of_pip else ""
            original = _original_script(script, prefix, entry, pip_checksum)
            if original is not None:
                unpacked.rewrite(files.top, path, original)


def _original_script(data: bytes, prefix: str, entry: PathEntry | None, pip_checksum: str) -> bytes | None:
    """Return the script as it was before conda-pack changed its interpreter; None unless a checksum proves it.

    Entry points need no proof: conda generates them.
    """
    originals = shebang.original_shebangs(data, path_bytes(prefix))
    if entry is not None and entry.type == "unix_python_entry_point":
        return next(iter(originals), None)
    checksums = {entry.sha256, entry.sha256_in_prefix} if entry else {pip_checksum}
    return next((text for text in originals if hashlib.sha256(text).hexdigest() in checksums), None)


def _update_records(files: UnpackedFiles, prefix: str, limit: WorkLimit) -> None:
    """Make package records match the files, and fill in the checksums that `snapper export` removed."""
    facts = {
        entry.path: proven
        for entry in files.entries.values()
        if entry.placeholder
        and entry.sha256_in_prefix
        and (proven := _proven_facts(files.top, entry, prefix, limit))
    }

    def facts_of(path: str) -> FileFacts | None:
        return unpacked.read_facts(files.top, path) if path in files.paths else None

    for record in files.records:
        text = conda.read_record_text(files.top, record.file)
        updated = with_missing_facts(with_facts(text, facts, sizes=False), facts_of)
        if updated != text:
            unpacked.rewrite(files.top, record.file, updated)


def _proven_facts(top: Path, entry: PathEntry, prefix: str, limit: WorkLimit) -> FileFacts | None:
    """Return the facts of a file if it is proven to be its package's, with the prefix for the placeholder."""
    if entry.mode == "binary":
        digest = hashlib.sha256()
        for piece in unpacked.read_strings(top, entry.path):
            limit.check(top / entry.path, piece, prefix)
            digest.update(next(candidate_originals(piece, entry.mode, entry.placeholder, prefix)))
        is_proven = digest.hexdigest() == entry.sha256
    else:
        data = unpacked.read(top, entry.path)
        limit.check(top / entry.path, data, prefix)
        originals = candidate_originals(data, entry.mode, entry.placeholder, prefix)
        is_proven = any(hashlib.sha256(original).hexdigest() == entry.sha256 for original in originals)
    return unpacked.read_facts(top, entry.path) if is_proven else None
