"""Prefix to placeholder and back, on bytes.

Stored files hold a placeholder where files on disk hold the prefix. From placeholder to prefix we do what conda
does when it installs (`conda_pack.prefixes`, after conda/core/portability.py): in text every occurrence is
replaced; in binaries each NUL-terminated string is, and filled up with NULs. From prefix to placeholder we
invert that, and trust the result only where going forth again gives the bytes we came from.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import lru_cache

from conda_pack.prefixes import binary_replace, text_replace

from snapper.format import shebang
from snapper.format.bytecode import replace_paths
from snapper.format.model import Mode, Relocation

#: Stands for the prefix in text files that had no placeholder from conda.
TEXT_PLACEHOLDER = "/opt/snapper_prefix_placehold_placehold_placehold"

#: Stands for the prefix in binaries of conda packages whose placeholder is not on record: as long as conda's.
BINARY_PLACEHOLDER = ("/opt/snapper_prefix" + "_placehold" * 24)[:255]

_SHORTEST_PLACEHOLDER = 12
_BEFORE = rb"(?:(?<![\w.~+\x80-\xff-]%b)(?<!:/%b)|(?<=\A-[A-Za-z]%b)|(?<=[^\w./~+\x80-\xff-]-[A-Za-z]%b))"
_BEHIND = rb"(?![\w~+\x80-\xff-]|\.\w)"
_WIDE = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
_OBJECT_MAGICS = (b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe", b"\xca\xfe\xba\xbe")


class PlaceholderTooShort(ValueError):
    """The prefix is longer than the placeholder that it should replace in a binary."""


@dataclass(frozen=True)
class CanonicalFile:
    """A file's canonical bytes and how to turn them into those on disk."""

    data: bytes
    mode: Mode
    placeholder: str


def relocate_file(data: bytes, mode: Mode, placeholder: str, prefix: str) -> bytes:
    """A whole file with every placeholder replaced by the prefix, and a first line that the kernel can start.

    Raises DoesNotFit for a binary whose placeholder is shorter than the prefix.
    """
    if mode == "text" and data.startswith(b"#!"):
        head = shebang.fit_shebang(data, placeholder.encode(), _encoded(prefix, mode))
        if head is not None:
            return head + replace_placeholder(data[data.index(b"\n") + 1 :], mode, placeholder, prefix)
    return replace_placeholder(data, mode, placeholder, prefix)


def replace_placeholder(data: bytes, mode: Mode, placeholder: str, prefix: str) -> bytes:
    """The bytes, of a whole file or a part of one, with every placeholder replaced by the prefix.

    Raises DoesNotFit for a binary whose placeholder is shorter than the prefix.
    """
    old, new = placeholder.encode(), _encoded(prefix, mode)
    if mode == "binary":
        if len(new) > len(old):
            if old in data:
                raise PlaceholderTooShort
            return data
        return bytes(binary_replace(data, old, new))
    if mode == "pyc":
        return replace_paths(data, old, new, lambda text: text.replace(old, new))
    for encoding in _WIDE if b"\0" in data else ():
        if _holds_wide(data, placeholder, encoding):
            wide = placeholder.encode(encoding)
            return data.replace(wide, prefix.encode(encoding, "surrogatepass"))
    return bytes(text_replace(data, placeholder, prefix)) if prefix.isascii() else data.replace(old, new)


def relocate_link(target: str, relocation: Relocation | None, prefix: str) -> str:
    """Return a link's target with the prefix for a placeholder at its beginning."""
    if relocation and relocation.mode == "link" and target.startswith(relocation.placeholder):
        return prefix + target[len(relocation.placeholder) :]
    return target


def candidate_originals(data: bytes, mode: Mode, placeholder: str, prefix: str) -> list[bytes]:
    """What the file may have been before conda put the prefix in, likeliest first.

    Which it was, a checksum must say: a file can also hold the prefix of itself.
    """
    old, new = _encoded(prefix, mode), placeholder.encode()
    if mode == "pyc":
        return [replace_paths(data, old, new, lambda text: _placed(text, old, new))]
    if mode == "binary":
        return [_binary_invert(data, old, new)]
    everywhere = data.replace(old, new)
    bounded = _bounded(old).sub(new.replace(b"\\", rb"\\"), data)
    fitted = [
        _bounded(old).sub(new.replace(b"\\", rb"\\"), each)
        for each in shebang.original_shebangs(data, new, old)
    ]
    return list(dict.fromkeys((everywhere, bounded, *fitted)))


def contains_path(data: bytes, prefix: str) -> bool:
    """Whether the prefix occurs as a path, or the beginning of one."""
    needle = prefix.encode("utf-8", "surrogateescape")
    return needle in data and _bounded(needle).search(data) is not None


def search_patterns(prefix: str, head: bytes) -> tuple[bytes, ...]:
    """What to look for in a file that begins so, to find out whether it can hold the prefix."""
    wide = _WIDE if _may_be_wide(head) else ()
    return _encoded(prefix, "text"), *(prefix.encode(encoding, "surrogatepass") for encoding in wide)


def _may_be_wide(data: bytes) -> bool:
    """Whether the bytes can be a text of more than a byte a character, by how they begin."""
    return b"\0" in data[:256] and not is_object_code(data)


def _wide_encoding(data: bytes, prefix: str) -> str | None:
    """The encoding of more than a byte a character in which a text holds the prefix, if it is such a text."""
    if not _may_be_wide(data):
        return None
    return next((each for each in _WIDE if _holds_wide(data, prefix, each)), None)


def _holds_wide(data: bytes, path: str, encoding: str) -> bool:
    """Whether the path occurs in this encoding, beginning where a character can."""
    needle, width = path.encode(encoding, "surrogatepass"), len("/".encode(encoding))
    at = data.find(needle)
    while at >= 0 and at % width:
        at = data.find(needle, at + 1)
    return at >= 0


def canonicalize(data: bytes, prefix: str, placeholders: tuple[str, ...] = ()) -> CanonicalFile | None:
    """The canonical form of a file that no package vouches for, or None where it cannot be relocated safely.

    `placeholders` are tried first: those of an earlier snapshot, which may be longer than today's prefix.
    The prefix is replaced only where a path ends or goes on with `/`.
    """
    encoding = _wide_encoding(data, prefix)
    if encoding:
        return _detect_wide(data, prefix, encoding)
    mode = _mode_of(data)
    if mode is None:
        return None
    old = _encoded(prefix, mode)
    for placeholder in (*placeholders, *default_placeholders(mode, len(old))):
        new = placeholder.encode()
        if new in data:
            if mode == "binary" and placeholder in placeholders and not contains_path(data, prefix):
                return CanonicalFile(data, mode, placeholder)  # today's prefix did not fit in it
            continue
        if mode == "text" and data.startswith(b"#!/bin/sh\n"):
            for original in shebang.original_shebangs(data, new, old):
                canonical = _placed(original, old, new)
                if relocate_file(canonical, mode, placeholder, prefix) == data:
                    return CanonicalFile(canonical, mode, placeholder)
        canonical = (
            candidate_originals(data, mode, placeholder, prefix)[0]
            if mode != "text"
            else _placed(data, old, new)
        )
        if mode == "binary" and contains_path(canonical, prefix):
            continue
        if canonical != data and replace_placeholder(canonical, mode, placeholder, prefix) == data:
            return CanonicalFile(canonical, mode, placeholder)
    return None


def _detect_wide(data: bytes, prefix: str, encoding: str) -> CanonicalFile | None:
    """The canonical form of a text of more than a byte a character."""
    try:
        text = data.decode(encoding, "surrogatepass").encode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return None
    placed = _placed(text, prefix.encode("utf-8", "surrogatepass"), TEXT_PLACEHOLDER.encode())
    canonical = placed.decode("utf-8", "surrogatepass").encode(encoding, "surrogatepass")
    if canonical != data and replace_placeholder(canonical, "text", TEXT_PLACEHOLDER, prefix) == data:
        return CanonicalFile(canonical, "text", TEXT_PLACEHOLDER)
    return None


def replace_directory(data: bytes, old: str, new: str) -> bytes:
    """The text with one directory for another, where it is a path of its own."""
    if b"\0" in data:
        return data
    return _placed(data, os.fsencode(old), os.fsencode(new))


def _placed(data: bytes, old: bytes, new: bytes) -> bytes:
    """The text with the placeholder `new` for the prefix `old`, where that is a path of its own."""
    return _bounded(old).sub(new.replace(b"\\", rb"\\"), data)


def _encoded(prefix: str, mode: Mode) -> bytes:
    """The prefix as files hold it: in a name that is no UTF-8, marshal writes each odd byte as a surrogate."""
    return prefix.encode("utf-8", "surrogatepass" if mode == "pyc" else "surrogateescape")


def _mode_of(data: bytes) -> Mode | None:
    """How a file of these bytes can be relocated: other binaries than object code hold no C strings."""
    if data[2:4] == b"\r\n" and b"\0" in data[:16]:
        return "pyc"
    if b"\0" not in data:
        return "text"
    return "binary" if is_object_code(data) else None


def is_object_code(data: bytes) -> bool:
    """Whether the bytes begin as an ELF or Mach-O file, whose strings end with NULs."""
    return data.startswith(_OBJECT_MAGICS)


def default_placeholders(mode: Mode, length: int) -> tuple[str, ...]:
    """Placeholders for a file that had none: in binaries as long as the prefix is, in bytes."""
    if mode != "binary":
        return TEXT_PLACEHOLDER, TEXT_PLACEHOLDER + "_"
    if length < _SHORTEST_PLACEHOLDER:
        return ()
    return (("/snapper" + "_placehold" * length)[:length],)


@lru_cache(maxsize=8)
def _bounded(prefix: bytes) -> re.Pattern[bytes]:
    """The prefix where it is a path of its own: not inside a longer path or URL, but after a flag such as -I.

    What must stand before it is looked at from its end: patterns that begin with a literal are found fast.
    """
    literal = re.escape(prefix)
    return re.compile(literal + _BEFORE % ((literal,) * 4) + _BEHIND)


@lru_cache(maxsize=8)
def _terminated(prefix: bytes) -> re.Pattern[bytes]:
    return re.compile(re.escape(prefix) + rb"([^\0]*)(\0+)")


def _binary_invert(data: bytes, old: bytes, new: bytes) -> bytes:
    """Lengthens each NUL-terminated string that holds `old`, taking back the NULs that filled it up."""
    growth = len(new) - len(old)
    if growth < 0:
        return data

    def grow(match: re.Match[bytes]) -> bytes:
        text = old + match.group(1)
        nuls = len(match.group(2))
        needed = growth * text.count(old)
        if nuls <= needed:
            return match.group()
        return text.replace(old, new) + b"\0" * (nuls - needed)

    return _terminated(old).sub(grow, data)
