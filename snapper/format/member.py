"""Members of tar segments, and their headers: POSIX ustar, with pax records only for what does not fit.

A segment is a run of tar blocks without the two zero blocks that end an archive, so concatenated segments are one tar
stream. Layout: IEEE Std 1003.1, "pax", section "ustar Interchange Format". Every member is owned by 0:0 with empty
names.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final, Literal, NamedTuple

from snapper.format.constraints import path_bytes
from snapper.format.encodings import is_utf8
from snapper.format.times import NANOSECONDS

BLOCK: Final = 512

MemberType = Literal["file", "hardlink", "symlink", "directory"]

TYPE_FLAGS: Final[dict[MemberType, bytes]] = {
    "file": b"0",
    "hardlink": b"1",
    "symlink": b"2",
    "directory": b"5",
}
EXTENDED_HEADER: Final = b"x"
MAGIC: Final = b"ustar\x0000"
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_ZERO = b"0000000"
_LARGEST_OCTAL = 8**11 - 1

#: What the constant fields add to a header's checksum; the checksum's own field counts as spaces.
_CONSTANT_SUM = sum(MAGIC) + sum(4 * _ZERO) + sum(8 * b" ")


#: How much memory links and directories of an environment may take, in bytes, as `kept_size` counts them. They are kept
#: until all files are written. There can be more than 200,000 with usual paths.
MOST_KEPT: Final = 64 << 20

#: How many directories for each file or link, and how many more, may exist only because these have them in their paths.
DIRECTORIES_PER_MEMBER = 4
FEW_DIRECTORIES = 1000

#: One for that many members, and a few more, are expected. There usually are ten times fewer.
_MEMBERS_PER_DIRECTORY = 2
_SOME_DIRECTORIES = 250

#: What a link or directory takes in memory besides its path and target, in bytes.
_KEPT_OVERHEAD = 200


class InvalidSegment(ValueError):
    """A segment differs from docs/format.md."""


class Member(NamedTuple):
    """The contents of a tar header.

    `size` is that of the whole file, even if its data is split between layers. `mtime` is in whole seconds, and
    `nanoseconds` is the rest.
    """

    path: str
    type: MemberType
    mode: int
    mtime: int
    size: int = 0
    target: str = ""
    nanoseconds: int = 0

    @property
    def mtime_ns(self) -> int:
        return self.mtime * NANOSECONDS + self.nanoseconds


def kept_size(path: str, target: str = "") -> int:
    """Return how many bytes a link or directory takes in memory, approximately."""
    return _KEPT_OVERHEAD + len(path) + len(target)


def most_implied_directories(members: int) -> int:
    """Return how many directories may exist only because this number of files and links have them in their paths."""
    return members * DIRECTORIES_PER_MEMBER + FEW_DIRECTORIES


def expected_implied_directories(members: int) -> int:
    """Return for how many of these directories space is reserved: nearly all environments have fewer."""
    return members // _MEMBERS_PER_DIRECTORY + _SOME_DIRECTORIES


def encode_header(member: Member) -> bytes:
    """Return the blocks that precede a member's data."""
    name = path_bytes(member.path)
    target = path_bytes(member.target)
    records = b""
    split = _split_name(name + b"/" if member.type == "directory" else name)
    if split is None:
        records += _record(b"path", name)
        split = b"", name[:100]
    if len(target) > 100:
        records += _record(b"linkpath", target)
    if member.size > _LARGEST_OCTAL:
        records += _record(b"size", b"%d" % member.size)
    if records and not is_utf8(records):
        records = _record(b"hdrcharset", b"BINARY") + records
    if member.nanoseconds:  # most extended headers are there for these only
        records += _record(b"mtime", b"%d.%09d" % (member.mtime, member.nanoseconds))
    blocks = _block(split, member, target[:100])
    return _extended_header(len(records)) + records + padding(len(records)) + blocks if records else blocks


def padding(size: int) -> bytes:
    """Return the zero bytes that fill the last block of `size` bytes."""
    return b"\0" * (-size % BLOCK)


@lru_cache(maxsize=256)
def _extended_header(size: int) -> bytes:
    """Return the block that precedes pax records of this size."""
    extended = Member("PaxHeader", "file", 0o644, 0, size)
    return _block((b"", b"PaxHeader"), extended, b"", EXTENDED_HEADER)


def _split_name(name: bytes) -> tuple[bytes, bytes] | None:
    """Return the name as ustar's (prefix, name), or None if it does not fit."""
    if len(name) <= 100:
        return b"", name
    slash = name.find(b"/", len(name) - 101)
    if 0 < slash <= 155 and slash + 1 < len(name):
        return name[:slash], name[slash + 1 :]
    return None


def _record(key: bytes, value: bytes) -> bytes:
    """Return a pax record, `LENGTH KEY=VALUE\\n`, where LENGTH counts its own digits too."""
    body = b" %b=%b\n" % (key, value)
    return b"%d%b" % (_record_length(len(body)), body)


@lru_cache(maxsize=256)
def _record_length(size: int) -> int:
    """Return the length of a pax record whose part after the number of that length has this size."""
    length = size
    while len(str(length)) + size != length:
        length = len(str(length)) + size
    return length


def _block(split: tuple[bytes, bytes], member: Member, target: bytes, flag: bytes = b"") -> bytes:
    prefix, name = split
    mode = b"%07o" % member.mode
    size = b"%011o" % (0 if member.size > _LARGEST_OCTAL else member.size)
    mtime = b"%011o" % min(max(member.mtime, 0), _LARGEST_OCTAL)
    flag = flag or TYPE_FLAGS[member.type]
    checksum = b"%06o\0 " % (_CONSTANT_SUM + sum(b"".join((name, mode, size, mtime, flag, target, prefix))))
    return _HEADER.pack(
        name, mode, _ZERO, _ZERO, size, mtime, checksum, flag, target, MAGIC, b"", b"", _ZERO, _ZERO, prefix
    )
