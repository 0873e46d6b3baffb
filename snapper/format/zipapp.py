"""Zip archives behind a first line (`#!`), which Python and Java can execute: zipapps, also those of shiv and pex.

Readers find the archive from its end, so the text before it can change. It must not become shorter, though: the archive
may state where its members are in the file, and Python refuses it if they would begin before the file.
"""

from __future__ import annotations

_END = b"PK\x05\x06"
_MEMBER = b"PK\x03\x04"

#: How far from the end of a file the end of its archive can begin: a record, and a comment.
_LONGEST_END = 22 + 0xFFFF

#: The longest text before an archive.
_LONGEST_START = 16 << 10


def start_of_archive(data: bytes) -> int:
    """Return where the archive begins in a file that consists of a first line and an archive; 0 for others."""
    if not data.startswith(b"#!") or data.rfind(_END, max(0, len(data) - _LONGEST_END)) < 0:
        return 0
    start = data.find(_MEMBER, 0, _LONGEST_START)
    return start if start > 0 and b"\0" not in data[:start] and data[start - 1 : start] == b"\n" else 0


def padded(text: bytes, length: int) -> bytes:
    """Return the text with spaces at the end of its first line, which systems ignore, to have at least this length."""
    line, end, rest = text.partition(b"\n")
    return line + b" " * (length - len(text)) + end + rest


def without_padding(text: bytes) -> bytes:
    """Return the text without spaces at the end of its first line."""
    line, end, rest = text.partition(b"\n")
    return line.rstrip(b" ") + end + rest
