"""Parse untrusted tar segments. Only `layer_reader` uses this module."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from snapper.format.member import (
    BLOCK,
    EXTENDED_HEADER,
    MAGIC,
    TYPE_FLAGS,
    InvalidSegment,
    Member,
    MemberType,
)
from snapper.format.model import Continuation

_TYPES: dict[bytes, MemberType] = {flag: kind for kind, flag in TYPE_FLAGS.items()}
#: The fields of a header that matter: name, mode, size, time, type, target, magic, prefix of the name.
_HEADER = struct.Struct("100s8s16x12s12s8xc100s8s80x155s12x")
_MAX_PAX_SIZE = 1024 * 1024

#: How an extended header begins that only has a time since 2001, and how long it is.
_TIME_RECORD, _TIME_RECORD_SIZE = b"30 mtime=", 30


class SegmentStart(NamedTuple):
    """How a segment begins: with `size` bytes of an earlier member's data; its own members are from `members` on."""

    size: int
    members: int


def segment_start(begins: Continuation | None, length: int) -> SegmentStart:
    """Return how a segment of `length` bytes begins that continues the given member, if any."""
    if begins is None:
        return SegmentStart(0, 0)
    size = min(length, begins.size - begins.offset)
    return SegmentStart(size, min(length, size + -begins.size % BLOCK))


def iter_members(segment: memoryview, start: int = 0) -> Iterator[tuple[Member, memoryview]]:
    """Yield each member from offset `start` on, with as much of its data as is in the segment.

    Only the last member's data may end early. Raise InvalidSegment for anything that `encode_header` does not write:
    other types, another magic, fields that are not numbers, incomplete blocks.
    """
    position, end = start, len(segment)
    records: dict[bytes, bytes] = {}
    while position < end:
        if end - position < BLOCK:
            raise InvalidSegment("ends inside a header")
        fields = _HEADER.unpack_from(segment, position)
        position += BLOCK
        if fields[4] == EXTENDED_HEADER:
            size = _parse_octal(fields[2])
            if size > min(_MAX_PAX_SIZE, end - position):
                raise InvalidSegment("extended header too long")
            records = _parse_records(bytes(segment[position : position + size]))
            position += size + -size % BLOCK
            continue
        member = _parse_member(fields, records)
        if records:
            records = {}
        size = member.size
        if position > end or (size and member.type != "file"):
            raise InvalidSegment(f"{member.path!r} has unexpected data")
        yield member, segment[position : position + size]
        position += size + -size % BLOCK
    if records:
        raise InvalidSegment("ends after an extended header")


def _parse_member(fields: tuple[bytes, ...], records: dict[bytes, bytes]) -> Member:
    name, mode, length, mtime, flag, target, magic, prefix = fields
    kind = _TYPES.get(flag)
    if kind is None or magic != MAGIC:
        raise InvalidSegment("a member has a type that layers may not contain")
    size, time, nanoseconds = _parse_octal(length), _parse_octal(mtime), 0
    name = _until_nul(name)
    target = _until_nul(target) if target[0] else b""
    if prefix[0]:
        name = _until_nul(prefix) + b"/" + name
    if records:
        name = records.get(b"path", name)
        target = records.get(b"linkpath", target)
        size = _parse_size(records, size)
        nanoseconds = _parse_nanoseconds(records, time)
    if kind == "directory":
        name = name.rstrip(b"/")
    return Member(
        name.decode("utf-8", "surrogateescape"),
        kind,
        _parse_octal(mode),
        time,
        size,
        target.decode("utf-8", "surrogateescape"),
        nanoseconds,
    )


def _parse_size(records: dict[bytes, bytes], default: int) -> int:
    """Return the size in the records, or the default if they contain none."""
    if b"size" not in records:
        return default
    digits = records[b"size"]
    if not digits.isdigit() or len(digits) > 18:
        raise InvalidSegment("a size is not a number")
    return int(digits)


def _parse_nanoseconds(records: dict[bytes, bytes], seconds: int) -> int:
    """Return the nanoseconds in the records, 0 if they contain none; the header has the seconds."""
    if b"mtime" not in records:
        return 0
    whole, dot, fraction = records[b"mtime"].partition(b".")
    if whole != b"%d" % seconds or not dot or len(fraction) != 9 or not fraction.isdigit():
        raise InvalidSegment("a time differs from the one in its header")
    return int(fraction)


def _until_nul(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


@lru_cache(maxsize=4096)  # most headers have the same modes and times as others
def _parse_octal(field: bytes) -> int:
    digits = field.rstrip(b" \0")
    if digits.strip(b"01234567") or not digits or len(digits) == len(field):
        raise InvalidSegment("a field is not an octal number that ends in a space or NUL")
    return int(digits, 8)


def _parse_records(data: bytes) -> dict[bytes, bytes]:
    if data.startswith(_TIME_RECORD) and len(data) == _TIME_RECORD_SIZE and data.endswith(b"\n"):
        return {b"mtime": data[len(_TIME_RECORD) : -1]}  # what most extended headers contain
    records: dict[bytes, bytes] = {}
    position = 0
    while position < len(data):
        digits = data[position : position + 8].partition(b" ")[0]
        if not digits.isdigit() or len(digits) > 7:
            raise InvalidSegment("an extended header is malformed")
        body = data[position + len(digits) + 1 : position + int(digits)]
        key, equals, value = body[:-1].partition(b"=")
        position += int(digits)
        if position > len(data) or not equals or body[-1:] != b"\n" or b"\0" in value:
            raise InvalidSegment("an extended header is malformed")
        records[key] = value
    return records
