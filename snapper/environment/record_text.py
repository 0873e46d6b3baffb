"""Change checksums and sizes in the texts of conda's package records, and nothing else in them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from snapper.environment.conda import FileFacts
from snapper.format.constraints import path_bytes

_FLAT_OBJECT = re.compile(rb"\{[^{}]*\}")
_QUOTE_OR_BRACE = re.compile(rb'["{}]')
#: What ends a string, or a character that does not, in a string.
_QUOTE_OR_ESCAPED = re.compile(rb'"|\\.', re.S)
_PATH = b'"_path"'
_PATH_VALUE = re.compile(rb'"_path"\s*:\s*"')
_BRACE_IN_PATH = re.compile(rb'"_path"\s*:\s*"[^"]*[{}]')
_IN_PREFIX = re.compile(rb'("sha256_in_prefix"\s*:\s*")[0-9a-f]{64}"')
_OWN = re.compile(rb'("sha256"\s*:\s*")[0-9a-f]{64}"')
_SIZE = re.compile(rb'("size_in_bytes"\s*:\s*)[0-9]+')
_NO_CHECKSUM = re.compile(rb'("sha256(?:_in_prefix)?"\s*:\s*)null')
_NO_SIZE = re.compile(rb'("size_in_bytes"\s*:\s*)null')


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

    If `paths` are given, `edit` is only called for their entries, the first of each.
    """
    texts: list[bytes] = []
    position = 0
    for start, end, entry in _all_entries(record) if paths is None else _find_entries(record, paths):
        texts += record[position:start], edit(record[start:end], entry)
        position = end
    return b"".join((*texts, record[position:]))


class _LocatedEntry(NamedTuple):
    """Where an entry's text is in a record, and its fields."""

    start: int
    end: int
    fields: dict[str, Any]


def _find_entries(record: bytes, paths: Collection[str]) -> Iterable[_LocatedEntry]:
    """Find the first entry of each of these paths, usually few of many, without parsing the others."""
    wanted = {path_bytes(path) for path in paths}
    located = _locate_entries(record, {*wanted})
    return _search_entries(record, wanted) if located is None else located


def _locate_entries(record: bytes, wanted: set[bytes]) -> list[_LocatedEntry] | None:
    """Find entries by their paths, and remove these from what is wanted.

    Return None if escapes, or braces in strings, make that ambiguous.
    """
    if b"\\" in record:
        return None
    located: list[_LocatedEntry] = []
    last_end = 0
    key = record.find(_PATH) if wanted else -1
    while key >= 0 and wanted:
        value = record.find(b'"', key + len(_PATH)) + 1
        path = record[value : record.find(b'"', value)]
        if key >= last_end and path in wanted:
            start, end = record.rfind(b"{", last_end, key), record.find(b"}", key) + 1
            text = record[start:end]
            fields = _parse_entry(text) if (text.count(b"{"), text.count(b"}")) == (1, 1) else None
            if fields is None:
                return None
            located.append(_LocatedEntry(start, end, fields))
            wanted.discard(path)
            last_end = end
        key = record.find(_PATH, key + len(_PATH))
    return located


def _search_entries(record: bytes, wanted: set[bytes]) -> Iterator[_LocatedEntry]:
    """Find entries by their paths, which may have escapes, and remove these from what is wanted."""
    for start, end in _flat_objects(record) if wanted else ():
        text = record[start:end]
        path = _path_in(text)
        if path in wanted:
            wanted.discard(path)
            entry = _parse_entry(text)
            if entry:
                yield _LocatedEntry(start, end, entry)
            if not wanted:
                return


def _path_in(entry: bytes) -> bytes:
    """Return the path in an entry's text, which is not parsed otherwise; nothing if there is none."""
    found = _PATH_VALUE.search(entry)
    if found is None:
        return b""
    value = entry[found.end() : _end_of_string(entry, found.end()) - 1]
    if b"\\" not in value:
        return value
    try:
        return path_bytes(json.loads(b'"' + value + b'"'))
    except ValueError:
        return b""


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
