"""Relocate stored files: replace placeholders by the prefix. The opposite direction is `canonicalize`.

This does what conda does when it installs a package (`conda_pack.prefixes`, after conda/core/portability.py): in text,
every occurrence is replaced; in binaries, each NUL-terminated string is, and padded with NULs to its length.
"""

from __future__ import annotations

from collections.abc import Callable

from conda_pack.prefixes import binary_replace

from snapper.format import shebang
from snapper.format.bytecode import replace_paths
from snapper.format.model import LARGEST_LAYER, Mode, Relocation

_WIDE_ENCODINGS = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")


class PlaceholderTooShort(ValueError):
    """The prefix is longer than the placeholder that it should replace in a binary."""


class RelocatedFileTooLarge(ValueError):
    """A file would become larger than the largest layer: it consists of placeholders that are short."""

    def __init__(self) -> None:
        super().__init__(
            f"a file of placeholders would be larger than {LARGEST_LAYER:,} bytes when relocated"
        )


def relocate_file(data: bytes, mode: Mode, placeholder: str, prefix: str) -> bytes:
    """Return a whole file with the prefix for every placeholder, and a first line that the system can execute.

    Raise PlaceholderTooShort for a binary with a placeholder that is shorter than the prefix, RelocatedFileTooLarge.
    """
    if mode == "text" and data.startswith(b"#!"):
        first_line = shebang.fit_shebang(data, placeholder.encode(), encode_prefix(prefix, mode))
        if first_line is not None:
            rest = data[data.index(b"\n") + 1 :]
            return first_line + replace_placeholder(rest, mode, placeholder, prefix)
    return replace_placeholder(data, mode, placeholder, prefix)


def replace_placeholder(data: bytes, mode: Mode, placeholder: str, prefix: str) -> bytes:
    """Return a file, or part of one, with the prefix for every placeholder.

    Raise PlaceholderTooShort for a binary with a placeholder that is shorter than the prefix, RelocatedFileTooLarge.
    """
    old, new = placeholder.encode(), encode_prefix(prefix, mode)
    if mode == "binary":
        if len(new) > len(old):
            if old in data:
                raise PlaceholderTooShort
            return data
        return replace_in_strings(data, old, lambda strings: bytes(binary_replace(strings, old, new)))
    if mode == "pyc":
        _check_growth(data, old, new)
        return replace_paths(data, old, new, lambda text: text.replace(old, new))
    wide = find_wide_encoding(data, placeholder) if b"\0" in data else None
    if wide:
        old, new = placeholder.encode(wide), prefix.encode(wide, "surrogatepass")
    _check_growth(data, old, new)
    return data.replace(old, new)


def replace_in_strings(data: bytes, old: bytes, replace: Callable[[bytes], bytes]) -> bytes:
    """Return the data with its NUL-terminated strings replaced, for a function that looks for a NUL after each `old`.

    Where none follows, the function would search the rest of the data for each `old`, so it does not get that part.
    """
    end = data.rfind(b"\0") + 1
    if data.find(old, end) < 0:
        return replace(data)
    return replace(data[:end]) + data[end:]


def grows_too_large(data: bytes, old: bytes, new: bytes) -> bool:
    """Return whether replacing `old` by `new` makes the data larger than any layer."""
    growth, room = len(new) - len(old), LARGEST_LAYER - len(data)
    # Few files are so large that their placeholders have to be counted.
    return growth > 0 and len(data) // len(old) * growth > room and data.count(old) * growth > room


def _check_growth(data: bytes, old: bytes, new: bytes) -> None:
    """Raise RelocatedFileTooLarge if replacing `old` by `new` makes the data larger than any layer."""
    if grows_too_large(data, old, new):
        raise RelocatedFileTooLarge


def relocate_link(target: str, relocation: Relocation | None, prefix: str) -> str:
    """Return a link's target with the prefix for a placeholder at its beginning."""
    if relocation and relocation.mode == "link" and target.startswith(relocation.placeholder):
        return prefix + target[len(relocation.placeholder) :]
    return target


def encode_prefix(prefix: str, mode: Mode) -> bytes:
    """Return the prefix as files contain it. In compiled modules, bytes that are not UTF-8 are encoded surrogates."""
    return prefix.encode("utf-8", "surrogatepass" if mode == "pyc" else "surrogateescape")


def encode_wide(path: str) -> tuple[bytes, ...]:
    """Return the path in each encoding with more than one byte per character."""
    return tuple(path.encode(encoding, "surrogatepass") for encoding in _WIDE_ENCODINGS)


def find_wide_encoding(data: bytes, path: str) -> str | None:
    """Return the encoding with more than one byte per character in which a text contains the path, if any."""
    return next((encoding for encoding in _WIDE_ENCODINGS if _contains_wide(data, path, encoding)), None)


def _contains_wide(data: bytes, path: str, encoding: str) -> bool:
    """Return whether the path occurs in this encoding, at an offset where a character can begin."""
    needle, width = path.encode(encoding, "surrogatepass"), len("/".encode(encoding))
    offset = data.find(needle)
    while offset >= 0 and offset % width:
        offset = data.find(needle, offset + 1)
    return offset >= 0
