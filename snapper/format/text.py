"""Tell text from data without NUL bytes that states how long strings are, or where: msgpack, serialized PHP, PDF."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from snapper.format.encodings import is_utf8

#: Control characters other than those that terminals and editors know.
_CONTROL = re.compile(rb"[\x00-\x06\x0e-\x1a\x1c-\x1f\x7f]")

#: How many bytes state the length of a short string in msgpack.
_LENGTH_BYTES = 2

#: A length in decimal digits, as in `s:12:"..."` and `12:...`, or in the line before, as in dumps of Redis and
#: Subversion and in R's ASCII format, and how far before a path it is looked for.
_DECIMAL_LENGTH = re.compile(
    rb'(?<!\d)(?P<length>\d{1,9}):(?P<quote>"?)|^(?:\$|[A-Z] )?(?P<line>\d{1,9})\r?\n', re.MULTILINE
)
_REACH = 256

#: How often a text can have the path, so that the search takes a few seconds at most.
_MOST_OCCURRENCES = 1_000_000
_LONGEST_DECIMAL = 11
_FOLLOWS_UNQUOTED = b",0123456789dile"

#: What begins a file, or a line, in formats that state the sizes or positions of texts elsewhere.
_STATES_POSITIONS = re.compile(rb"\A(?:%PDF-|SIMPLE  =)|^content-length:", re.MULTILINE | re.IGNORECASE)

#: A pickle of protocol 0: it notes that it keeps an object, and ends with a full stop. Letters precede its strings.
_KEEPS_OBJECT = re.compile(rb"^p\d+\n", re.MULTILINE)

_PATH = re.compile(rb"[\w./+~@=-]*\Z")


def is_text(data: bytes, path: bytes) -> bool:
    """Return whether the data is text in which the path can be replaced: nothing states how long it is.

    Data with more than `_MOST_OCCURRENCES` of the path does not count as text.
    """
    is_pickle = data.endswith(b".") and _KEEPS_OBJECT.search(data)
    if is_pickle or _CONTROL.search(data) or _STATES_POSITIONS.search(data):
        return False
    occurrences = list(islice(_occurrences(data, path), _MOST_OCCURRENCES + 1))
    if len(occurrences) > _MOST_OCCURRENCES or _has_decimal_length(data, occurrences, len(path)):
        return False
    is_text = is_utf8(data.replace(path, b""))
    ends_as_text = data.endswith(b"\n")
    return not any(
        (not is_text and not data[max(0, start - _LENGTH_BYTES) : start].isascii())
        or (not ends_as_text and _has_length_byte(data, start, path))
        for start in occurrences
    )


def states_other_length(data: bytes, path: bytes) -> bool:
    """Return whether the data may state the length of a string with the path, and another length than it has.

    0.1.0 took such data for text, and replaced prefixes in it.
    """
    if _CONTROL.search(data):
        return True
    is_text = is_utf8(data.replace(path, b""))
    is_bencoded = data[:1] in (b"d", b"l") and data.endswith(b"e")
    return any(
        (not is_text and not data[max(0, start - _LENGTH_BYTES) : start].isascii())
        or (
            _has_decimal_before(data, start, is_bencoded)
            and not _has_decimal_length(data, [start], len(path))
        )
        for start in _occurrences(data, path)
    )


def _has_decimal_before(data: bytes, start: int, is_bencoded: bool) -> bool:
    """Return whether a number as in `12:"` precedes; without the quote, only bencoded data has lengths."""
    return any(
        match.end() == start and (match["quote"] or is_bencoded)
        for match in _DECIMAL_LENGTH.finditer(data, max(0, start - _LONGEST_DECIMAL), start)
    )


def _occurrences(data: bytes, path: bytes) -> Iterator[int]:
    start = data.find(path)
    while start >= 0:
        yield start
        start = data.find(path, start + len(path))


def _has_decimal_length(data: bytes, occurrences: Sequence[int], length: int) -> bool:
    """Return whether a number before one of the paths, all of that length, is the length of a string that contains it.

    The paths are given by where they begin, in order.
    """
    for begin, end in _before(occurrences):
        for match in _DECIMAL_LENGTH.finditer(data, begin, end):
            closes_at = match.end() + int(match["length"] or match["line"])
            if closes_at <= len(data) and _closes(data, closes_at, match):
                following = bisect_left(occurrences, match.end())
                latest = min(match.start() + _REACH, closes_at - length)
                if following < len(occurrences) and occurrences[following] <= latest:
                    return True
    return False


def _before(occurrences: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield the parts of the data, by begin and end, in which numbers can be the length of a string with a path.

    They do not overlap, so that no part is searched more than once.
    """
    begin = end = -1
    for start in occurrences:
        if start - _REACH > end:
            if end >= 0:
                yield begin, end
            begin = max(0, start - _REACH)
        end = start
    if end >= 0:
        yield begin, end


def _closes(data: bytes, end: int, match: re.Match[bytes]) -> bool:
    """Return whether a string whose length a number states can end there."""
    following = data[end : end + 1]
    if match["line"]:
        return following in b"\r\n"
    return following == b'"' if match["quote"] else following in _FOLLOWS_UNQUOTED or end == len(data)


def _has_length_byte(data: bytes, start: int, path: bytes) -> bool:
    """Return whether the byte before the path is the length of a string that begins with it."""
    length = data[start - 1] if start else 0
    end = start + length
    return (
        len(path) <= length
        and end <= len(data)
        and _PATH.match(data, start, end) is not None
        and (end == len(data) or not 0x20 <= data[end] < 0x7F)
    )
