"""Tar segments: members laid out as POSIX ustar, with pax records only where ustar has no room.

A segment is a run of tar blocks without the two zero blocks that end an archive, so that segments joined in
order are one tar stream. Layout: IEEE Std 1003.1, "pax", section "ustar Interchange Format". Every member is
owned by 0:0 with empty names; times are whole seconds.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal, NamedTuple

from snapper.format.model import Continuation, path_bytes

BLOCK = 512

Type = Literal["file", "hardlink", "symlink", "directory"]

_FLAGS: dict[Type, bytes] = {"file": b"0", "hardlink": b"1", "symlink": b"2", "directory": b"5"}
_TYPES: dict[bytes, Type] = {flag: kind for kind, flag in _FLAGS.items()}
_LAYOUT = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
#: Those of its fields that say something: name, mode, size, time, type, target, magic, prefix of the name.
_TELLING = struct.Struct("100s8s16x12s12s8xc100s8s80x155s12x")
_MAGIC = b"ustar\x0000"
_ZERO = b"0000000"
_LARGEST_OCTAL = 8**11 - 1
_LONGEST_PAX = 1024 * 1024

#: What the fields that are always the same add to a header's checksum; its own field counts as spaces.
_ALWAYS = sum(_MAGIC) + sum(4 * _ZERO) + sum(8 * b" ")


class InvalidSegment(ValueError):
    """The bytes are not a tar segment of the kind that this module writes."""


class Member(NamedTuple):
    """What a tar header says. `size` is that of the whole file, wherever a layer cuts its data."""

    path: str
    type: Type
    mode: int
    mtime: int
    size: int = 0
    target: str = ""


def encode_header(member: Member) -> bytes:
    """The blocks that stand before a member's data."""
    name = path_bytes(member.path)
    target = path_bytes(member.target)
    records = b""
    split = _split(name + b"/" if member.type == "directory" else name)
    if split is None:
        records += _record(b"path", name)
        split = b"", name[:100]
    if len(target) > 100:
        records += _record(b"linkpath", target)
    if member.size > _LARGEST_OCTAL:
        records += _record(b"size", b"%d" % member.size)
    blocks = _block(split, member, target[:100])
    if not records:
        return blocks
    if not _is_utf8(records):
        records = _record(b"hdrcharset", b"BINARY") + records
    extended = Member("PaxHeader", "file", 0o644, 0, len(records))
    return _block((b"", b"PaxHeader"), extended, b"", b"x") + records + padding(len(records)) + blocks


def padding(size: int) -> bytes:
    """The zero bytes that fill the last block of `size` bytes."""
    return b"\0" * (-size % BLOCK)


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """The name as ustar's (prefix, name), or None where it does not fit."""
    if len(name) <= 100:
        return b"", name
    cut = name.find(b"/", len(name) - 101)
    if 0 < cut <= 155 and cut + 1 < len(name):
        return name[:cut], name[cut + 1 :]
    return None


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _record(key: bytes, value: bytes) -> bytes:
    """One pax record, `LENGTH KEY=VALUE\\n`, where LENGTH counts its own digits too."""
    body = b" " + key + b"=" + value + b"\n"
    length = len(body)
    while len(b"%d" % length) + len(body) != length:
        length = len(b"%d" % length) + len(body)
    return b"%d" % length + body


def _block(split: tuple[bytes, bytes], member: Member, target: bytes, flag: bytes = b"") -> bytes:
    prefix, name = split
    mode = b"%07o" % member.mode
    size = b"%011o" % (0 if member.size > _LARGEST_OCTAL else member.size)
    mtime = b"%011o" % min(max(member.mtime, 0), _LARGEST_OCTAL)
    flag = flag or _FLAGS[member.type]
    checksum = b"%06o\0 " % (_ALWAYS + sum(b"".join((name, mode, size, mtime, flag, target, prefix))))
    return _LAYOUT.pack(
        name, mode, _ZERO, _ZERO, size, mtime, checksum, flag, target, _MAGIC, b"", b"", _ZERO, _ZERO, prefix
    )


def iter_members(segment: memoryview, start: int = 0) -> Iterator[tuple[Member, memoryview]]:
    """Each member of a segment from offset `start` on, with what the segment holds of its data.

    Only the last member's data may be cut short. Raises BadSegment for anything else than `header` can have
    written: other types, other magic, fields that are no numbers, blocks cut short.
    """
    position, end = start, len(segment)
    records: dict[bytes, bytes] = {}
    while position < end:
        if end - position < BLOCK:
            raise InvalidSegment("ends inside a header")
        fields = _TELLING.unpack_from(segment, position)
        position += BLOCK
        if fields[4] == b"x":
            size = _number(fields[2])
            if size > min(_LONGEST_PAX, end - position):
                raise InvalidSegment("extended header too long")
            records = _records(bytes(segment[position : position + size]))
            position += size + -size % BLOCK
            continue
        member = _member(fields, records)
        if records:
            records = {}
        size = member.size
        if position > end or (size and member.type != "file"):
            raise InvalidSegment(f"{member.path!r} has unexpected data")
        yield member, segment[position : position + size]
        position += size + -size % BLOCK
    if records:
        raise InvalidSegment("ends after an extended header")


def split_continuation(begins: Continuation, length: int) -> tuple[int, int]:
    """How many bytes of its file's data a segment of that length begins with, and where its first member is."""
    size = min(length, begins.size - begins.offset)
    return size, min(length, size + -begins.size % BLOCK)


def _member(fields: tuple[bytes, ...], records: dict[bytes, bytes]) -> Member:
    name, mode, length, mtime, flag, target, magic, prefix = fields
    kind = _TYPES.get(flag)
    if kind is None or magic != _MAGIC:
        raise InvalidSegment("a member has a type that layers may not contain")
    size = _number(length)
    name, target = _text(name), _text(target)
    if prefix[0]:
        name = _text(prefix) + b"/" + name
    if records:
        name = records.get(b"path", name)
        target = records.get(b"linkpath", target)
        size = _size(records, size)
    if kind == "directory":
        name = name.rstrip(b"/")
    return Member(
        name.decode("utf-8", "surrogateescape"),
        kind,
        _number(mode),
        _number(mtime),
        size,
        target.decode("utf-8", "surrogateescape"),
    )


def _size(records: dict[bytes, bytes], size: int) -> int:
    """The size that the records say, or else the one given."""
    if b"size" not in records:
        return size
    digits = records[b"size"]
    if not digits.isdigit() or len(digits) > 18:
        raise InvalidSegment("a size is not a number")
    return int(digits)


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


@lru_cache(maxsize=4096)  # most headers have the modes and times of others
def _number(field: bytes) -> int:
    digits = field.rstrip(b" \0")
    if digits.strip(b"01234567") or not digits:
        raise InvalidSegment("a field is not an octal number")
    return int(digits, 8)


def _records(data: bytes) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        digits = data[at : at + 8].partition(b" ")[0]
        if not digits.isdigit() or len(digits) > 7:
            raise InvalidSegment("an extended header is malformed")
        body = data[at + len(digits) + 1 : at + int(digits)]
        key, equals, value = body[:-1].partition(b"=")
        at += int(digits)
        if at > len(data) or not equals or body[-1:] != b"\n" or b"\0" in value:
            raise InvalidSegment("an extended header is malformed")
        found[key] = value
    return found
