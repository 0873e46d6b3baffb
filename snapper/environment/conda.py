"""What conda wrote about an environment: the package records in conda-meta.

A record is conda's PrefixRecord; `paths_data.paths` has an entry for each file (conda/models/records.py). Only
what is needed is read, and nothing is taken for granted: records come from conda, mamba, pixi and rattler.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from snapper.errors import FileOperationFailed, NotAnEnvironment, PermissionDenied
from snapper.format.model import Mode, Package, is_placeholder, path_bytes

META = "conda-meta"

_ADVICE = "Reinstall that package (conda install --force-reinstall), or remove the file if it does not belong to conda."

_FLAT_OBJECT = re.compile(rb"\{[^{}]*\}")
_FLAT_OBJECT_WITH_BRACES = re.compile(rb'\{(?:[^{}"]|"(?:[^"\\]|\\.)*")*\}')  # in its strings; slower
_PATH = b'"_path"'
_BRACE_IN_PATH = re.compile(rb'"_path"\s*:\s*"[^"]*[{}]')
_IN_PREFIX = re.compile(rb'("sha256_in_prefix"\s*:\s*")[0-9a-f]{64}"')
_OWN = re.compile(rb'("sha256"\s*:\s*")[0-9a-f]{64}"')
_SIZE = re.compile(rb'("size_in_bytes"\s*:\s*)[0-9]+')
_NO_CHECKSUM = re.compile(rb'("sha256(?:_in_prefix)?"\s*:\s*)null')
_NO_SIZE = re.compile(rb'("size_in_bytes"\s*:\s*)null')


class FileFacts(NamedTuple):
    """What a record says of a file that depends on the prefix."""

    sha256: str
    size: int


class PathEntry(NamedTuple):
    """A file that a package installed; `sha256` and `size` are those in the package, before relocation."""

    path: str
    type: str
    sha256: str
    sha256_in_prefix: str
    placeholder: str
    mode: Mode
    size: int | None


@dataclass(frozen=True)
class Record:
    """One installed package, and the files it brought."""

    file: str
    package: Package
    entries: tuple[PathEntry, ...]


def is_environment(prefix: Path) -> bool:
    """Whether the directory is a conda environment: conda's own test is this directory's presence."""
    return os.path.isdir(prefix / META)


def is_record_path(path: str) -> bool:
    """Whether the path is where a package's record is."""
    return path.startswith(f"{META}/") and path.endswith(".json") and path.count("/") == 1


def read_records(prefix: Path) -> list[Record]:
    """The records of all installed packages, by file name.

    Raises NotAnEnvironment, PermissionDenied, and FileOperationFailed for a record that is no JSON object.
    """
    with _reporting():
        files = sorted((prefix / META).glob("*.json"))
        if not files and not is_environment(prefix):
            raise NotAnEnvironment(str(prefix))
        return [_read(file) for file in files]


def read_record(file: Path) -> Record:
    """One of them; raises PermissionDenied, FileOperationFailed."""
    with _reporting():
        return _read(file)


@contextmanager
def _reporting() -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise PermissionDenied(str(error.filename), "read") from None
    except OSError as error:
        raise FileOperationFailed(str(error.filename), error.strerror or str(error), _ADVICE) from None


def with_facts(record: bytes, facts: Mapping[str, FileFacts], *, sizes: bool) -> bytes:
    """The record's text with these files' checksums, and sizes if wanted, and everything else as it is.

    `sha256_in_prefix` is of the file as it was linked; records have it since conda 4.4, and `conda doctor`
    goes by it. An entry point, which is made when it is linked, has `sha256` instead.
    """

    def restate(text: bytes, entry: dict[str, Any]) -> bytes:
        fact = facts.get(entry["_path"])
        if fact is None:
            return text
        text = _checksum(entry).sub(rb"\g<1>" + fact.sha256.encode() + b'"', text)
        return _SIZE.sub(rb"\g<1>%d" % fact.size, text) if sizes else text

    return _edited(record, restate, facts)


def without_facts_of(record: bytes, paths: Collection[str], *, sizes: bool) -> bytes:
    """The record's text with null for these files' checksums, and sizes if wanted: it says then that it has none."""

    def forget(text: bytes, entry: dict[str, Any]) -> bytes:
        if entry["_path"] not in paths:
            return text
        text = _checksum(entry).sub(lambda match: match[1].rstrip(b'"') + b"null", text)
        return _SIZE.sub(rb"\g<1>null", text) if sizes else text

    return _edited(record, forget, paths)


def without_prefix_facts(record: bytes) -> bytes:
    """The record's text without the checksums and sizes of files as they were linked, which depend on the prefix."""
    return _SIZE.sub(rb"\g<1>null", _IN_PREFIX.sub(lambda match: match[1].rstrip(b'"') + b"null", record))


def with_missing_facts(record: bytes, fact_of: Callable[[str], FileFacts | None]) -> bytes:
    """The record's text with every checksum and size that is null filled in, where the file is known."""

    def recall(text: bytes, entry: dict[str, Any]) -> bytes:
        if not (_NO_CHECKSUM.search(text) or _NO_SIZE.search(text)):
            return text
        fact = fact_of(entry["_path"])
        if fact is None:
            return text
        text = _NO_CHECKSUM.sub(rb'\g<1>"' + fact.sha256.encode() + b'"', text)
        return _NO_SIZE.sub(rb"\g<1>%d" % fact.size, text)

    return _edited(record, recall)


def _edited(
    record: bytes, edit: Callable[[bytes, dict[str, Any]], bytes], paths: Collection[str] | None = None
) -> bytes:
    """The record with each entry's text as `edit` makes it of the text and what that says.

    Where `paths` are given, it leaves all other entries as they are.
    """

    found = None if paths is None else _entries(record, paths)
    if found is not None:
        parts: list[bytes] = []
        at = 0
        for begin, end, entry in found:
            parts += record[at:begin], edit(record[begin:end], entry)
            at = end
        return b"".join((*parts, record[at:]))

    def apply(match: re.Match[bytes]) -> bytes:
        text = match.group()
        entry = _parsed(text) if _PATH in text else None
        return edit(text, entry) if entry else text

    objects = _FLAT_OBJECT_WITH_BRACES if _BRACE_IN_PATH.search(record) else _FLAT_OBJECT
    return objects.sub(apply, record)


def _entries(record: bytes, paths: Collection[str]) -> list[tuple[int, int, dict[str, Any]]] | None:
    """Where the entries of these paths begin and end, and what they say, in their order: few of many, as a rule, and
    found without a look at the others. None where escapes or braces in strings leave doubt.
    """
    if b"\\" in record:
        return None
    wanted = {path_bytes(path) for path in paths}
    found: list[tuple[int, int, dict[str, Any]]] = []
    seen = 0
    at = record.find(_PATH) if wanted else -1
    while at >= 0:
        begin = record.find(b'"', at + len(_PATH)) + 1
        end = record.find(b'"', begin)
        if at >= seen and record[begin:end] in wanted:
            first, last = record.rfind(b"{", seen, at), record.find(b"}", at) + 1
            text = record[first:last]
            entry = _parsed(text) if (text.count(b"{"), text.count(b"}")) == (1, 1) else None
            if entry is None:
                return None
            found.append((first, last, entry))
            seen = last
        at = record.find(_PATH, at + len(_PATH))
    return found


def _parsed(text: bytes) -> dict[str, Any] | None:
    """What an entry's text says; None where it is no entry."""
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("_path"), str) else None


def _checksum(entry: dict[str, Any]) -> re.Pattern[bytes]:
    """What finds the checksum of the file as it was linked."""
    return _IN_PREFIX if "sha256_in_prefix" in entry else _OWN


def _read(file: Path) -> Record:
    try:
        fields = json.loads(file.read_bytes())
        if not isinstance(fields, dict):
            raise ValueError("it is not a JSON object")
        package = _package(fields)
        listed = (fields.get("paths_data") or {}).get("paths") or []
        entries = tuple(_entry(item) for item in listed)
        if not listed:
            entries = tuple(_bare(path) for path in fields.get("files") or [])
    except KeyError as error:
        raise FileOperationFailed(
            str(file), f"not a conda package record ({error} is missing)", _ADVICE
        ) from None
    except (TypeError, AttributeError, RecursionError):
        raise FileOperationFailed(
            str(file), "not a conda package record (it is malformed)", _ADVICE
        ) from None
    except ValueError as error:
        raise FileOperationFailed(str(file), f"not a conda package record ({error})", _ADVICE) from None
    return Record(f"{META}/{file.name}", package, entries)


def _package(fields: dict[str, Any]) -> Package:
    def text(key: str) -> str:
        value = fields.get(key)
        return "" if value is None else str(value)

    return Package(
        name=str(fields["name"]),
        version=str(fields["version"]),
        build=text("build") or text("build_string"),
        subdir=text("subdir"),
        channel=_without_secrets(text("channel")),
        url=_without_secrets(text("url")),
        md5=text("md5"),
        sha256=text("sha256"),
    )


def _without_secrets(url: str) -> str:
    """The URL without user, password, and the `/t/TOKEN` of anaconda.org and its kin."""
    return re.sub(r"/t/[^/]+", "", re.sub(r"//[^/@]*@", "//", url))


def _entry(item: dict[str, Any]) -> PathEntry:
    size = item.get("size_in_bytes")
    sha256 = str(item.get("sha256") or "")
    in_prefix = str(item.get("sha256_in_prefix") or "")
    return PathEntry(
        path=_path(item["_path"]),
        type=str(item.get("path_type") or ""),
        sha256=sha256,
        sha256_in_prefix=sha256 if in_prefix == sha256 else in_prefix,  # one object: there are many
        placeholder=_placeholder(str(item.get("prefix_placeholder") or "")),
        mode="binary" if item.get("file_mode") == "binary" else "text",
        size=size if isinstance(size, int) else None,
    )


def _path(value: object) -> str:
    """The path; raises ValueError where no file can have it."""
    path = str(value)
    path_bytes(path)
    return path


@lru_cache(maxsize=256)
def _placeholder(text: str) -> str:
    """The placeholder, if it can stand for a prefix: that of a package built on Windows, such as `C:/bld/env`, cannot,
    and its files are then as if they had none.
    """
    return text if is_placeholder(text) else ""


def _bare(path: str) -> PathEntry:
    return PathEntry(_path(path), "", "", "", "", "text", None)
