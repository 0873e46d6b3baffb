"""Make files independent of their location: replace the prefix by placeholders. The opposite direction is `relocate`.

A result is only used if relocating it gives the file on disk again.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import lru_cache

from snapper.format import shebang
from snapper.format.bytecode import replace_paths
from snapper.format.model import Mode, path_bytes
from snapper.format.relocate import (
    encode_prefix,
    encode_wide,
    find_wide_encoding,
    grows_too_large,
    relocate_file,
    replace_in_strings,
    replace_placeholder,
)

#: The placeholder in text files that had none from conda.
TEXT_PLACEHOLDER = "/opt/snapper_prefix_placehold_placehold_placehold"

#: The placeholder in binaries of conda packages whose placeholder is not recorded: as long as conda's own.
BINARY_PLACEHOLDER = ("/opt/snapper_prefix" + "_placehold" * 24)[:255]

_MIN_BINARY_PLACEHOLDER = 12
_OBJECT_MAGICS = (b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe", b"\xca\xfe\xba\xbe")

#: What must precede a path: not part of another path or a URL, but possibly a flag such as -I. %b is the path.
_BEFORE = rb"(?:(?<![\w.~+\x80-\xff-]%b)(?<!:/%b)|(?<=\A-[A-Za-z]%b)|(?<=[^\w./~+\x80-\xff-]-[A-Za-z]%b))"
#: What must follow a path: not more of the same name.
_AFTER = rb"(?![\w~+\x80-\xff-]|\.\w)"


@dataclass(frozen=True)
class CanonicalFile:
    """A file with placeholders, and how to relocate it."""

    data: bytes
    mode: Mode
    placeholder: str


def canonicalize(data: bytes, prefix: str, placeholders: tuple[str, ...] = ()) -> CanonicalFile | None:
    """Return a file without a package's placeholder in canonical form, or None if it cannot be relocated safely.

    The prefix is only replaced where it is a path by itself or the beginning of one. `placeholders` are tried first:
    those of an earlier snapshot, which can be longer than the prefix is now.
    """
    if _may_be_wide(data) and (encoding := find_wide_encoding(data, prefix)):
        return _canonicalize_wide(data, prefix, encoding)
    mode = _mode_of(data)
    if mode is None:
        return None
    for placeholder in (*placeholders, *default_placeholders(mode, len(encode_prefix(prefix, mode)))):
        canonical: bytes | None = None
        if placeholder.encode() not in data:
            canonical = _insert_placeholder(data, mode, placeholder, prefix)
        elif mode == "binary" and placeholder in placeholders and not contains_path(data, prefix):
            canonical = data  # never relocated: the prefix did not fit
        if canonical is not None:
            return CanonicalFile(canonical, mode, placeholder)
    return None


def candidate_originals(data: bytes, mode: Mode, placeholder: str, prefix: str) -> list[bytes]:
    """Return what a package's file can have been before conda put the prefix into it, the most likely first.

    Only a checksum can tell which one it was: a package's file can contain the prefix by itself.
    """
    old, new = encode_prefix(prefix, mode), placeholder.encode()
    if mode == "binary":
        return [_lengthen_strings(data, old, new)]
    if grows_too_large(data, old, new):
        return [data]
    if mode == "pyc":
        return [replace_paths(data, old, new, lambda text: _replace_path(text, old, new))]
    everywhere = data.replace(old, new)
    as_path = _replace_path(data, old, new)
    scripts = [_replace_path(script, old, new) for script in shebang.original_shebangs(data, new, old)]
    return list(dict.fromkeys((everywhere, as_path, *scripts)))


def default_placeholders(mode: Mode, length: int) -> tuple[str, ...]:
    """Return placeholders for a file that had none; in binaries, as long as the prefix, which is `length` bytes."""
    if mode != "binary":
        return TEXT_PLACEHOLDER, TEXT_PLACEHOLDER + "_"
    if length < _MIN_BINARY_PLACEHOLDER:
        return ()
    return (("/snapper" + "_placehold" * length)[:length],)


def contains_path(data: bytes, prefix: str) -> bool:
    """Return whether the prefix occurs as a path, or as the beginning of one."""
    needle = path_bytes(prefix)
    return needle in data and _path_pattern(needle).search(data) is not None


def search_patterns(prefix: str, head: bytes) -> tuple[bytes, ...]:
    """Return byte strings: a file that begins with `head` and contains the prefix contains at least one of them."""
    return encode_prefix(prefix, "text"), *(encode_wide(prefix) if _may_be_wide(head) else ())


def replace_directory(data: bytes, old: str, new: str) -> bytes:
    """Return a text with directory `new` for `old` wherever that is a path; other files unchanged."""
    if b"\0" in data:
        return data
    return _replace_path(data, os.fsencode(old), os.fsencode(new))


def is_object_code(data: bytes) -> bool:
    """Return whether the bytes begin like an ELF or Mach-O file, whose strings are NUL-terminated."""
    return data.startswith(_OBJECT_MAGICS)


def _mode_of(data: bytes) -> Mode | None:
    """Return how the file can be relocated; None for binaries other than object code, whose strings are not C's."""
    if data[2:4] == b"\r\n" and b"\0" in data[:16]:
        return "pyc"
    if b"\0" not in data:
        return "text"
    return "binary" if is_object_code(data) else None


def _may_be_wide(data: bytes) -> bool:
    """Return whether a file that begins like this can be a text with more than one byte per character."""
    return b"\0" in data[:256] and not is_object_code(data)


def _insert_placeholder(data: bytes, mode: Mode, placeholder: str, prefix: str) -> bytes | None:
    """Return the file with the placeholder for the prefix, or None unless relocating that gives the file again."""
    old, new = encode_prefix(prefix, mode), placeholder.encode()
    if mode != "binary" and grows_too_large(data, old, new):
        return None
    if mode == "text":
        canonical = _restore_long_shebang(data, placeholder, prefix)
        if canonical is not None:
            return canonical
        canonical = _replace_path(data, old, new)
    else:
        canonical = candidate_originals(data, mode, placeholder, prefix)[0]
    if mode == "binary" and contains_path(canonical, prefix):
        return None
    is_proven = canonical != data and replace_placeholder(canonical, mode, placeholder, prefix) == data
    return canonical if is_proven else None


def _restore_long_shebang(data: bytes, placeholder: str, prefix: str) -> bytes | None:
    """Return a script with the placeholder whose first line was too long for the system once it had the prefix.

    Return None if it is not such a script.
    """
    if not data.startswith(b"#!/bin/sh\n"):
        return None
    old, new = encode_prefix(prefix, "text"), placeholder.encode()
    scripts = (_replace_path(original, old, new) for original in shebang.original_shebangs(data, new, old))
    return next(
        (script for script in scripts if relocate_file(script, "text", placeholder, prefix) == data), None
    )


def _canonicalize_wide(data: bytes, prefix: str, encoding: str) -> CanonicalFile | None:
    """Do the same as `canonicalize` for a text in an encoding with more than one byte per character."""
    try:
        text = data.decode(encoding, "surrogatepass").encode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return None
    replaced = _replace_path(text, prefix.encode("utf-8", "surrogatepass"), TEXT_PLACEHOLDER.encode())
    canonical = replaced.decode("utf-8", "surrogatepass").encode(encoding, "surrogatepass")
    if canonical != data and replace_placeholder(canonical, "text", TEXT_PLACEHOLDER, prefix) == data:
        return CanonicalFile(canonical, "text", TEXT_PLACEHOLDER)
    return None


def _replace_path(data: bytes, old: bytes, new: bytes) -> bytes:
    """Return the text with `new` for `old` wherever that is a path, or the beginning of one."""
    return _path_pattern(old).sub(new.replace(b"\\", rb"\\"), data)


@lru_cache(maxsize=8)
def _path_pattern(path: bytes) -> re.Pattern[bytes]:
    """Return a pattern for the path or the beginning of one, but not the end of a longer path or URL.

    It looks back from the end of the path, because patterns that begin with a literal are found fastest.
    """
    literal = re.escape(path)
    return re.compile(literal + _BEFORE % ((literal,) * 4) + _AFTER)


@lru_cache(maxsize=8)
def _string_pattern(path: bytes) -> re.Pattern[bytes]:
    """Return a pattern for the end of a NUL-terminated string, from the path on."""
    return re.compile(re.escape(path) + rb"([^\0]*)(\0+)")


def _lengthen_strings(data: bytes, old: bytes, new: bytes) -> bytes:
    """Replace `old` by a longer `new` in NUL-terminated strings, at the expense of the NULs that padded them."""
    growth = len(new) - len(old)
    if growth < 0:
        return data

    def lengthen(match: re.Match[bytes]) -> bytes:
        text = old + match.group(1)
        nuls = len(match.group(2))
        needed = growth * text.count(old)
        if nuls <= needed:
            return match.group()
        return text.replace(old, new) + b"\0" * (nuls - needed)

    return replace_in_strings(data, old, lambda strings: _string_pattern(old).sub(lengthen, strings))
