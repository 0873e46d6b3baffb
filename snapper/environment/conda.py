"""Read and edit the package records that conda keeps in conda-meta.

A record is conda's PrefixRecord; `paths_data.paths` has an entry for each file (conda/models/records.py). Only what is
needed is read, and no field is relied on, since records are written by conda, mamba, pixi and rattler.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from snapper.environment.contents import complete_exchange_at
from snapper.errors import FileOperationFailed, NotAnEnvironment, SnapperError
from snapper.format.constraints import CONDA_META, is_placeholder, path_bytes
from snapper.format.model import Mode, Package
from snapper.fs.beneath import LOOKUP, open_beneath
from snapper.fs.directories import pin_directory
from snapper.fs.errors import map_os_error, read_errors
from snapper.fs.pinned import PinnedDirectory, Top
from snapper.fs.small_files import list_beneath, read_all_beneath, read_beneath

META = CONDA_META

#: The largest record, and the most data of all records of an environment, in bytes.
LARGEST_RECORD = 64 << 20
_LARGEST_RECORDS = 256 << 20

#: The longest path that systems accept, in bytes.
_LONGEST_PATH = 4096

_ADVICE = "Reinstall that package (conda install --force-reinstall), or remove the file if it does not belong to conda."

#: What to do about a link of another user on the way to an environment.
_REAL_PATH = "Give the path that the link leads to, if you trust it."

_FLAT_OBJECT = re.compile(rb"\{[^{}]*\}")
_QUOTE_OR_BRACE = re.compile(rb'["{}]')
#: What ends a string, or a character that does not, in a string.
_QUOTE_OR_ESCAPED = re.compile(rb'"|\\.', re.S)
_PATH = b'"_path"'
_BRACE_IN_PATH = re.compile(rb'"_path"\s*:\s*"[^"]*[{}]')
_IN_PREFIX = re.compile(rb'("sha256_in_prefix"\s*:\s*")[0-9a-f]{64}"')
_OWN = re.compile(rb'("sha256"\s*:\s*")[0-9a-f]{64}"')
_SIZE = re.compile(rb'("size_in_bytes"\s*:\s*)[0-9]+')
_NO_CHECKSUM = re.compile(rb'("sha256(?:_in_prefix)?"\s*:\s*)null')
_NO_SIZE = re.compile(rb'("size_in_bytes"\s*:\s*)null')


class FileFacts(NamedTuple):
    """Checksum and size of a file that contains the prefix, as its package's record has them."""

    sha256: str
    size: int


class PathEntry(NamedTuple):
    """A file that a package installed; `sha256` and `size` are those before relocation."""

    path: str
    type: str = ""
    sha256: str = ""
    sha256_in_prefix: str = ""
    placeholder: str = ""
    mode: Mode = "text"
    size: int | None = None


@dataclass(frozen=True)
class Record:
    """An installed package and its files; `file` is the path of the record in the environment.

    If it `has_credentials`, they are in the URLs of its channel or archive; `package` does not contain them.
    """

    file: str
    package: Package
    entries: tuple[PathEntry, ...]
    has_credentials: bool = False


def is_environment(prefix: Path | PinnedDirectory) -> bool:
    """Return whether the directory is a conda environment; like conda, look for conda-meta.

    In an open one, that can be a link to another directory in the environment, but not to one outside of it. At a path,
    what a killed restore has not completed is completed first; if that is impossible, it is an environment.
    """
    if isinstance(prefix, Path):
        try:
            complete_exchange_at(prefix)
        except SnapperError:
            return True
        return os.path.isdir(prefix / META)
    try:
        os.close(open_beneath(prefix, META, LOOKUP))
    except OSError:
        return False
    return True


def pin_environment(prefix: Path | PinnedDirectory) -> PinnedDirectory:
    """Open a conda environment, unless it is open, for all that is read from it.

    What a killed restore has not completed at a path is completed first. Raise NotAnEnvironment, PermissionDenied,
    FileOperationFailed, TargetLocked.
    """
    if isinstance(prefix, Path):
        complete_exchange_at(prefix)
    try:
        environment = pin_directory(prefix)
    except (FileNotFoundError, NotADirectoryError):
        raise NotAnEnvironment(str(prefix)) from None
    except OSError as error:
        if error.errno == errno.EPERM:
            raise FileOperationFailed(str(prefix), str(error.strerror), _REAL_PATH) from None
        raise map_os_error(error, str(prefix), "read") from None
    if not is_environment(environment):
        raise NotAnEnvironment(str(prefix))
    return environment


def is_record_path(path: str) -> bool:
    """Return whether the path is that of a package's record."""
    directory, _, name = path.rpartition("/")
    return directory == META and _is_record_name(name)


def _is_record_name(name: str) -> bool:
    """Return whether a file of this name is a record, NAME-VERSION-BUILD.json: conda ignores other names.

    macOS (`._NAME`) and editors (`.#NAME`) make such files, too.
    """
    return name.endswith(".json") and not name.startswith(".") and name.count("-") >= 2


def _is_copy(record: Record) -> bool:
    """Return whether the file is a copy of a record, such as `NAME-VERSION-BUILD (1).json`, which conda ignores."""
    name, dist = record.file.rpartition("/")[2].removesuffix(".json"), record.package.dist
    return name != dist and name.startswith(dist)


def read_records(prefix: Path | PinnedDirectory) -> list[Record]:
    """Return the records of all installed packages, sorted by file name.

    Raise NotAnEnvironment, PermissionDenied, and FileOperationFailed if a record is malformed.
    """
    environment = pin_environment(prefix)
    records = []
    remaining = _LARGEST_RECORDS
    with read_errors(_ADVICE):
        for name, text in read_all_beneath(environment, META, _is_record_name, LARGEST_RECORD):
            remaining -= len(text)
            if remaining < 0:
                reason = f"its records have more than {_LARGEST_RECORDS:,} bytes"
                raise OSError(errno.EFBIG, reason, f"{prefix}/{META}")
            records.append(_parse(prefix, f"{META}/{name}", text))
    return [record for record in records if not _is_copy(record)]


def read_record(prefix: Top, path: str) -> Record:
    """Return the record at a path in the environment; raise PermissionDenied, FileOperationFailed."""
    with read_errors(_ADVICE):
        return _parse(prefix, path, read_record_text(prefix, path))


def read_record_text(prefix: Top, path: str) -> bytes:
    """Return the text of the record at a path in the environment; may raise OSError."""
    return read_beneath(prefix, path, LARGEST_RECORD)


def installed_names(prefix: Path) -> set[str]:
    """Return the names of installed packages as far as file names of records tell; may raise OSError."""
    names = (name for name in list_beneath(prefix, META) if _is_record_name(name))  # NAME-VERSION-BUILD.json
    return {name.rsplit("-", 2)[0] for name in names}


def with_facts(record: bytes, facts: Mapping[str, FileFacts], *, sizes: bool) -> bytes:
    """Return the record's text with these checksums, and sizes if wanted, and everything else unchanged.

    `sha256_in_prefix` is the checksum of the file as it was linked; records have it since conda 4.4, and
    `conda doctor` checks it. An entry point, which is generated when it is linked, has `sha256` instead.
    """

    def replace(text: bytes, entry: dict[str, Any]) -> bytes:
        fact = facts.get(entry["_path"])
        if fact is None:
            return text
        text = _checksum(entry).sub(rb"\g<1>" + fact.sha256.encode() + b'"', text)
        return _SIZE.sub(rb"\g<1>%d" % fact.size, text) if sizes else text

    return _edit_entries(record, replace, facts)


def without_facts_of(record: bytes, paths: Collection[str], *, sizes: bool) -> bytes:
    """Return the record's text with null for these files' checksums, and sizes if wanted."""

    def clear(text: bytes, entry: dict[str, Any]) -> bytes:
        if entry["_path"] not in paths:
            return text
        text = _checksum(entry).sub(lambda match: match[1].rstrip(b'"') + b"null", text)
        return _SIZE.sub(rb"\g<1>null", text) if sizes else text

    return _edit_entries(record, clear, paths)


def without_prefix_facts(record: bytes) -> bytes:
    """Return the record's text without the checksums and sizes that depend on the prefix."""
    return _SIZE.sub(rb"\g<1>null", _IN_PREFIX.sub(lambda match: match[1].rstrip(b'"') + b"null", record))


def with_missing_facts(record: bytes, fact_of: Callable[[str], FileFacts | None]) -> bytes:
    """Return the record's text with checksums and sizes that are null filled in, for files that `fact_of` knows."""

    def fill(text: bytes, entry: dict[str, Any]) -> bytes:
        if not (_NO_CHECKSUM.search(text) or _NO_SIZE.search(text)):
            return text
        fact = fact_of(entry["_path"])
        if fact is None:
            return text
        text = _NO_CHECKSUM.sub(rb'\g<1>"' + fact.sha256.encode() + b'"', text)
        return _NO_SIZE.sub(rb"\g<1>%d" % fact.size, text)

    return _edit_entries(record, fill)


def _edit_entries(
    record: bytes, edit: Callable[[bytes, dict[str, Any]], bytes], paths: Collection[str] | None = None
) -> bytes:
    """Return the record with each entry's text replaced with `edit(text, entry)`.

    If `paths` are given, `edit` changes no other entries.
    """
    located = None if paths is None else _locate_entries(record, paths)
    texts: list[bytes] = []
    position = 0
    for start, end, entry in _all_entries(record) if located is None else located:
        texts += record[position:start], edit(record[start:end], entry)
        position = end
    return b"".join((*texts, record[position:]))


class _LocatedEntry(NamedTuple):
    """Where an entry's text is in a record, and its fields."""

    start: int
    end: int
    fields: dict[str, Any]


def _locate_entries(record: bytes, paths: Collection[str]) -> list[_LocatedEntry] | None:
    """Find the entries of these paths, usually few of many, without parsing the others.

    Return None if escapes, or braces in strings, make that ambiguous.
    """
    if b"\\" in record:
        return None
    wanted = {path_bytes(path) for path in paths}
    located: list[_LocatedEntry] = []
    last_end = 0
    key = record.find(_PATH) if wanted else -1
    while key >= 0:
        value = record.find(b'"', key + len(_PATH)) + 1
        if key >= last_end and record[value : record.find(b'"', value)] in wanted:
            start, end = record.rfind(b"{", last_end, key), record.find(b"}", key) + 1
            text = record[start:end]
            fields = _parse_entry(text) if (text.count(b"{"), text.count(b"}")) == (1, 1) else None
            if fields is None:
                return None
            located.append(_LocatedEntry(start, end, fields))
            last_end = end
        key = record.find(_PATH, key + len(_PATH))
    return located


def _all_entries(record: bytes) -> Iterator[_LocatedEntry]:
    """Find all entries: the objects with a path and without other objects in them."""
    for start, end in _flat_objects(record):
        text = record[start:end]
        entry = _parse_entry(text) if _PATH in text else None
        if entry:
            yield _LocatedEntry(start, end, entry)


def _flat_objects(record: bytes) -> Iterator[tuple[int, int]]:
    """Yield where objects without others in them begin and end."""
    if not _BRACE_IN_PATH.search(record):
        yield from (match.span() for match in _FLAT_OBJECT.finditer(record))
        return
    start, position = -1, 0
    while token := _QUOTE_OR_BRACE.search(record, position):
        position = token.end()
        if token.group() == b"{":
            start = token.start()
        elif token.group() == b"}":
            if start >= 0:
                yield start, position
            start = -1
        else:
            position = _end_of_string(record, position)


def _end_of_string(record: bytes, position: int) -> int:
    """Return where a string ends that contains the position; where the text ends at the latest."""
    for found in _QUOTE_OR_ESCAPED.finditer(record, position):
        if found.group() == b'"':
            return found.end()
    return len(record)


def _parse_entry(text: bytes) -> dict[str, Any] | None:
    """Return the fields of an entry; None if the text is not one."""
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("_path"), str) else None


def _checksum(entry: dict[str, Any]) -> re.Pattern[bytes]:
    """Return the pattern for the checksum of the file as it was linked."""
    return _IN_PREFIX if "sha256_in_prefix" in entry else _OWN


def _parse(prefix: Top, path: str, text: bytes) -> Record:
    try:
        fields = json.loads(text)
        if not isinstance(fields, dict):
            raise ValueError("it is not a JSON object")
        listed = (fields.get("paths_data") or {}).get("paths") or []
        entries = [_entry(item) for item in listed]
        if not listed:
            entries = [PathEntry(_path(path)) for path in fields.get("files") or []]
        return Record(path, _package(fields), tuple(entries), _has_credentials(fields))
    except KeyError as error:
        reason = f"{error} is missing"
    except (TypeError, AttributeError, RecursionError):
        reason = "it is malformed"
    except ValueError as error:
        reason = str(error)
    raise FileOperationFailed(f"{prefix}/{path}", f"not a conda package record ({reason})", _ADVICE)


def _package(fields: dict[str, Any]) -> Package:
    def text(key: str) -> str:
        value = fields.get(key)
        return "" if value is None else str(value)

    return Package(
        name=str(fields["name"]),
        version=str(fields["version"]),
        build=text("build") or text("build_string"),
        subdir=text("subdir"),
        channel=_without_credentials(text("channel")),
        url=_without_credentials(text("url")),
        md5=text("md5"),
        sha256=text("sha256"),
    )


def _has_credentials(fields: dict[str, Any]) -> bool:
    urls = [url for url in (fields.get("channel"), fields.get("url")) if isinstance(url, str)]
    return any(_without_credentials(url) != url for url in urls)


def _without_credentials(url: str) -> str:
    """Return the URL without user, password, and the `/t/TOKEN` of anaconda.org and similar servers."""
    return re.sub(r"/t/[^/]+", "", re.sub(r"//[^/]*@", "//", url))


def _entry(item: dict[str, Any]) -> PathEntry:
    size = item.get("size_in_bytes")
    sha256 = str(item.get("sha256") or "")
    in_prefix = str(item.get("sha256_in_prefix") or "")
    return PathEntry(
        path=_path(item["_path"]),
        type=str(item.get("path_type") or ""),
        sha256=sha256,
        # Equal strings are shared: there are many entries.
        sha256_in_prefix=sha256 if in_prefix == sha256 else in_prefix,
        placeholder=_placeholder(str(item.get("prefix_placeholder") or "")),
        mode="binary" if item.get("file_mode") == "binary" else "text",
        size=size if isinstance(size, int) else None,
    )


def _path(value: object) -> str:
    """Return the path; raise ValueError if no file can have it."""
    path = str(value)
    if len(path_bytes(path)) > _LONGEST_PATH:
        raise ValueError(f"the path {path[:50]!r}… is too long")
    return path


@lru_cache(maxsize=256)
def _placeholder(text: str) -> str:
    """Return the placeholder, or "" if it is not an absolute POSIX path.

    Packages built on Windows have some such as `C:/bld/env`; their files are treated as if they had none.
    """
    return text if is_placeholder(text) else ""
