"""Relocate stored files: replace placeholders by the prefix. The opposite direction is `canonicalize`.

This does what conda does when it installs a package (conda/core/portability.py): in text, every occurrence is replaced;
in binaries, each NUL-terminated string is, and padded with NULs to its length (`cstrings`).
"""

from __future__ import annotations

from snapper.format import object_code, shebang, zipapp
from snapper.format.bytecode import replace_paths
from snapper.format.cstrings import replace_strings
from snapper.format.encodings import find_wide_encoding
from snapper.format.model import LARGEST_LAYER, Mode, Relocation
from snapper.format.placeholders import is_own_placeholder
from snapper.format.text import states_other_length


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
    archive = zipapp.start_of_archive(data) if mode == "text" else 0
    if archive:
        text = relocate_file(data[:archive], mode, placeholder, prefix)
        return zipapp.padded(text, archive) + data[archive:]
    if mode == "text" and data.startswith(b"#!"):
        beginning = shebang.fit_shebang(data, placeholder.encode(), encode_prefix(prefix, mode))
        if beginning is not None:
            rest = data[beginning.length :]
            return beginning.text + replace_placeholder(rest, mode, placeholder, prefix)
    return replace_placeholder(data, mode, placeholder, prefix)


def replace_placeholder(data: bytes, mode: Mode, placeholder: str, prefix: str) -> bytes:
    """Return a file, or part of one, with the prefix for every placeholder.

    Raise PlaceholderTooShort for a binary with a placeholder that is shorter than the prefix, RelocatedFileTooLarge.
    """
    old, new = placeholder.encode(), encode_prefix(prefix, mode)
    if mode == "binary":
        if is_own_placeholder(placeholder) and len(new) < len(old):
            return object_code.replace_loader_paths(data, old, new)
        return replace_strings(data, placeholder, prefix)
    if mode == "pyc":
        _check_growth(data, old, new)
        return replace_paths(data, old, new, lambda text: text.replace(old, new))
    wide = find_wide_encoding(data, placeholder) if b"\0" in data else None
    if wide:
        old, new = placeholder.encode(wide), prefix.encode(wide, "surrogatepass")
    _check_growth(data, old, new)
    return data.replace(old, new)


def replace_in_piece(data: bytes, mode: Mode, placeholder: str, prefix: str, *, is_for_loader: bool) -> bytes:
    """Do the same as `replace_placeholder` for a piece of a file that is larger than a layer.

    A piece does not tell what the loader reads. So strings with placeholders of snapper's own are only shortened if
    that holds for all of them, `is_for_loader`.
    """
    if mode == "binary" and is_own_placeholder(placeholder):
        is_shorter = len(encode_prefix(prefix, mode)) < len(placeholder.encode())
        return replace_strings(data, placeholder, prefix) if is_for_loader or not is_shorter else data
    return replace_placeholder(data, mode, placeholder, prefix)


def replace_kept(data: bytes, kept: str, prefix: str) -> bytes:
    """Return a file, or part of one, that contains the prefix `kept` in a form that is not understood.

    It is replaced if the new one is as long, so that nothing in the file can depend on the difference.
    """
    return object_code.replace_equally_long(data, kept, prefix)


def is_complete(data: bytes, path: str) -> bool:
    """Return whether nothing that a relocated file is used for can depend on the path: a placeholder, or a prefix."""
    return not object_code.mentions(object_code.without_debug_information(data), path)


def may_have_wrong_lengths(text: bytes, prefix: str) -> bool:
    """Return whether a relocated file may state the lengths of strings with the prefix, which have changed.

    0.1.0 took all files without NUL bytes for text, and put placeholders into them.
    """
    wide = find_wide_encoding(text, prefix) if b"\0" in text else None
    if wide:
        text = text.decode(wide, "replace").encode("utf-8", "replace")
    return states_other_length(text, encode_prefix(prefix, "text"))


def is_for_loader(program: bytes, placeholder: str) -> bool:
    """Return whether the program contains the placeholder only in what its loader reads, which can be shortened."""
    needle = placeholder.encode()
    rest = object_code.replace_loader_paths(program, needle, b"/")
    return needle not in rest or needle not in object_code.without_debug_information(rest)


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
