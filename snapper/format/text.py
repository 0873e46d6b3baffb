"""Tell text from data without NUL bytes that states how long strings are, or where: msgpack, serialized PHP, PDF."""

from __future__ import annotations

import re
from collections.abc import Iterator

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
_LONGEST_DECIMAL = 11
_FOLLOWS_UNQUOTED = b",0123456789dile"

#: What begins a file, or a line, in formats that state the sizes or positions of texts elsewhere.
_STATES_POSITIONS = re.compile(rb"\A(?:%PDF-|SIMPLE  =)|^content-length:", re.MULTILINE | re.IGNORECASE)

#: A pickle of protocol 0: it notes that it keeps an object, and ends with a full stop. Letters precede its strings.
_KEEPS_OBJECT = re.compile(rb"^p\d+\n", re.MULTILINE)

_PATH = re.compile(rb"[\w./+~@=-]*\Z")


def is_text(data: bytes, path: bytes) -> bool:
    """Return whether the data is text in which the path can be replaced: nothing states how long it is."""
    is_pickle = data.endswith(b".") and _KEEPS_OBJECT.search(data)
    if is_pickle or _CONTROL.search(data) or _STATES_POSITIONS.search(data):
        return False
    is_text = is_utf8(data.replace(path, b""))
    ends_as_text = data.endswith(b"\n")
    return not any(
        _has_decimal_length(data, start, path)
        or (not is_text and not data[max(0, start - _LENGTH_BYTES) : start].isascii())
        or (not ends_as_text and _has_length_byte(data, start, path))
        for start in _occurrences(data, path)
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
        or (_has_decimal_before(data, start, is_bencoded) and not _has_decimal_length(data, start, path))
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


def _has_decimal_length(data: bytes, start: int, path: bytes) -> bool:
    """Return whether a number before the path is the length of a string that contains it."""
    for match in _DECIMAL_LENGTH.finditer(data, max(0, start - _REACH), start):
        end = match.end() + int(match["length"] or match["line"])
        following = data[end : end + 1]
        if match["line"]:
            closes = following in b"\r\n"
        else:
            closes = (
                following == b'"' if match["quote"] else following in _FOLLOWS_UNQUOTED or end == len(data)
            )
        if start + len(path) <= end <= len(data) and closes:
            return True
    return False


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
