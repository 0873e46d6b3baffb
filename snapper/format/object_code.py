"""Binaries that no package's record explains: what of them is understood, and whether they contain a path at all.

Compilers put the lengths of strings into code and tables, store strings without a terminator or one inside of another,
and copy short ones with instructions that contain their characters, eight at a time. Nothing in a program tells where.
So only what the dynamic loader reads is ever changed (`elf`); a path of the same length can be replaced anywhere.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator

from snapper.format import elf, java, x86
from snapper.format.constraints import path_bytes
from snapper.format.encodings import wide_encodings_of, wide_needles
from snapper.format.escapes import contains_escaped
from snapper.format.paths import contains_path, replace_path
from snapper.format.pieces import PIECE, contains_pieces, piece_needles

_MACH_O = (b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe")
_ARCHIVE = b"!<arch>\n"
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_SHORT_BINUNICODE = b"\x8c"

#: How files begin that have instructions, or consist of files that have.
_WITH_INSTRUCTIONS = (elf.MAGIC, *_MACH_O, _ARCHIVE)

#: How files begin in which a path of the same length can be replaced: they contain no checksums of their own bytes,
#: and no instructions but those that are understood. The last is an array of NumPy.
_REPLACEABLE = (elf.MAGIC, java.MAGIC, *_PICKLES, b"\x93NUMPY")


def is_program(data: bytes) -> bool:
    """Return whether the bytes begin like a program or a library; `java.MAGIC` is also that of several in one."""
    return data.startswith((elf.MAGIC, *_MACH_O, java.MAGIC))


def replace_loader_paths(data: bytes, old: bytes, new: bytes) -> bytes:
    """Return a program with `new` for `old` in what its dynamic loader reads, where it fits."""
    if old not in data or not data.startswith(elf.MAGIC):
        return data
    result = bytearray(data)
    for string in elf.parse(data).strings:
        text = data[string.start : string.end]
        replaced = replace_path(text, old, new)
        if len(replaced) <= string.capacity:
            size = max(len(text), len(replaced))
            result[string.start : string.start + size] = replaced.ljust(size, b"\0")
    return bytes(result)


def replace_in_debug_information(data: bytes, old: bytes, new: bytes) -> bytes:
    """Return a program with `new`, which has as many bytes, for the path `old` in what is never loaded."""
    if not data.startswith(elf.MAGIC):
        return data
    result = bytearray(data)
    pattern = re.compile(re.escape(old) + rb"(?=[/\0])")
    for span in elf.parse(data).unloaded:
        for match in pattern.finditer(data, span.start, span.end):
            result[match.start() : match.end()] = new
    return bytes(result)


def replace_equally_long(data: bytes, old: str, new: str) -> bytes:
    """Return the file with `new` for `old`, which has as many bytes.

    It is unchanged if that could invalidate it, or if it is not certain everywhere that `old` is a path of its own.
    """
    before, after = path_bytes(old), path_bytes(new)
    if len(before) != len(after) or not data.startswith(_REPLACEABLE):
        return data
    if elf.MAGIC in data and _is_in_pieces(data, before):
        return data
    if data.startswith(java.MAGIC):
        result = bytearray(java.replace_in_constants(data, before, after))
    else:
        result = bytearray(replace_path(data, before, after))
    for start in _starts_of_counted_strings(data, before):
        result[start : start + len(after)] = after
    for encoding in wide_encodings_of(data, old):
        wide, needle = new.encode(encoding, "surrogatepass"), old.encode(encoding, "surrogatepass")
        if len(wide) == len(needle):
            result = result.replace(needle, wide)
    is_complete = before not in result and not wide_encodings_of(bytes(result), old)
    return bytes(result) if is_complete else data


def _is_in_pieces(data: bytes, path: bytes) -> bool:
    """Return whether pieces of the path may be in instructions, or in constants that instructions copy.

    That is only known of programs for x86-64: in instructions for other processors, pieces do not look like text.
    """
    layout = elf.parse(data)
    if not layout.has_known_instructions or contains_pieces(_blanked(data, path), path):
        return True
    found = [match.start() for match in re.finditer(re.escape(path), data)]
    if any(_has_between(found, code.start, code.end) for code in layout.code):
        return True
    before, after = x86.LARGEST_VECTOR, len(path) + 1
    operands = x86.vector_operands(data, layout)
    return any(_has_between(found, operand - after + 1, operand + before) for operand in operands)


def _has_between(offsets: list[int], start: int, end: int) -> bool:
    """Return whether one of the sorted offsets is in the range, whose end is not part of it."""
    index = bisect_left(offsets, start)
    return index < len(offsets) and offsets[index] < end


def _starts_of_counted_strings(pickle: bytes, path: bytes) -> Iterator[int]:
    """Yield where the path, or a path below it, is a string of a pickle, whose length precedes it."""
    start = pickle.find(path) if pickle.startswith(_PICKLES) else -1
    while start >= 0:
        if pickle[max(0, start - 2) : start - 1] == _SHORT_BINUNICODE:
            length = pickle[start - 1]
        else:
            length = int.from_bytes(pickle[max(0, start - 4) : start], "little")
        if length == len(path) or (length > len(path) and pickle[start + len(path)] == ord("/")):
            yield start
        start = pickle.find(path, start + len(path))


def mentions(data: bytes, prefix: str) -> bool:
    """Return whether the file may contain the prefix, anywhere and in any form."""
    return (
        _contains(data, path_bytes(prefix))
        or contains_escaped(data, prefix)
        or _contains_wide_or_pieces(data, prefix)
    )


def mentions_besides(data: bytes, prefix: str, known: str) -> bool:
    """Return whether the file may contain the prefix, other than as part of the prefix `known`, or of its pieces."""
    if known in prefix and _contains(data, path_bytes(prefix)):
        return True
    rest = _blanked(data, path_bytes(known))
    for encoding in wide_encodings_of(rest, known):
        rest = _blanked(rest, known.encode(encoding, "surrogatepass"))
    if not data.startswith(_WITH_INSTRUCTIONS):
        return mentions(rest, prefix)
    is_known_in_pieces = contains_pieces(rest, path_bytes(known))
    if is_known_in_pieces and known.startswith(prefix):
        return bool(wide_encodings_of(rest, prefix))
    # What a program has of `known` is no sign of a path that has no whole piece of its own.
    if is_known_in_pieces or known.startswith(prefix[: 1 - PIECE]):
        return _contains(rest, path_bytes(prefix)) or bool(wide_encodings_of(rest, prefix))
    return mentions(rest, prefix)


def _contains_wide_or_pieces(data: bytes, prefix: str) -> bool:
    return bool(wide_encodings_of(data, prefix)) or (
        data.startswith(_WITH_INSTRUCTIONS) and contains_pieces(data, path_bytes(prefix))
    )


def _blanked(data: bytes, text: bytes) -> bytes:
    """Return the data with as many zeros for the text."""
    return data.replace(text, bytes(len(text)))


def without_debug_information(data: bytes) -> bytes:
    """Return the file with zeros for everything that is never loaded, and therefore cannot change what it does."""
    if not data.startswith(elf.MAGIC):
        return data
    result = bytearray(data)
    for span in elf.parse(data).unloaded:
        result[span.start : span.end] = bytes(span.end - span.start)
    return bytes(result)


def has_instructions(head: bytes) -> bool:
    """Return whether a file that begins like this has instructions, or consists of files that have."""
    return head.startswith(_WITH_INSTRUCTIONS)


def search_needles(prefix: str) -> tuple[bytes, ...]:
    """Return byte strings: a program in which `mentions` finds the prefix contains at least one of them."""
    return *piece_needles(path_bytes(prefix)), *wide_needles(prefix)


def _contains(data: bytes, needle: bytes) -> bool:
    """Return whether the data contains the path, even if it does not look like one because of what is around it.

    Only a prefix such as `/env` must look like one: it is part of many paths, such as `/usr/bin/env`.
    """
    if needle.count(b"/") == 1:
        return contains_path(data, needle.decode("utf-8", "surrogateescape"))
    return needle in data
