"""Binaries that no package's record explains: what of them is understood, and whether they contain a path at all.

Compilers put the lengths of strings into code and tables, store strings without a terminator or one inside of another,
and copy short ones with instructions that contain their characters, eight at a time. Nothing in a program tells where.
So only what the dynamic loader reads is ever changed (`elf`); a path of the same length can be replaced anywhere.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise

from snapper.format import elf, java, x86
from snapper.format.constraints import path_bytes
from snapper.format.encodings import wide_encodings_of, wide_needles
from snapper.format.escapes import contains_escaped
from snapper.format.paths import contains_path, replace_path

_MACH_O = (b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe")
_ARCHIVE = b"!<arch>\n"
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_SHORT_BINUNICODE = b"\x8c"

#: How files begin that have instructions, or consist of files that have.
_WITH_INSTRUCTIONS = (elf.MAGIC, *_MACH_O, _ARCHIVE)

#: How files begin in which a path of the same length can be replaced: they contain no checksums of their own bytes,
#: and no instructions but those that are understood. The last is an array of NumPy.
_REPLACEABLE = (elf.MAGIC, java.MAGIC, *_PICKLES, b"\x93NUMPY")

#: How many characters of a string one instruction can contain, and how many are enough to recognize a path by.
_PIECE = 8
_TELLING_PIECE = 6

#: How many characters at the end of a path may be in no piece of their own.
_LARGEST_REST = 3


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
    if not layout.has_known_instructions or _contains_pieces(data, path):
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
    if data.startswith(_WITH_INSTRUCTIONS) and _contains_pieces(rest, path_bytes(known)):
        is_in_piece = known.startswith(prefix)
        return (not is_in_piece and _contains(rest, path_bytes(prefix))) or bool(
            wide_encodings_of(rest, prefix)
        )
    return mentions(rest, prefix)


def _contains_wide_or_pieces(data: bytes, prefix: str) -> bool:
    return bool(wide_encodings_of(data, prefix)) or (
        data.startswith(_WITH_INSTRUCTIONS) and _contains_pieces(data, path_bytes(prefix))
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
    needle = path_bytes(prefix)
    end = len(needle)
    # At most one of two adjacent halves is cut where the code that copies a string goes on to its next piece.
    halves = (needle[end - 9 : end - 4], needle[end - 5 :]) if end > _PIECE else ()
    return needle, *wide_needles(prefix), *halves


def _contains(data: bytes, needle: bytes) -> bool:
    """Return whether the data contains the path, even if it does not look like one because of what is around it.

    Only a prefix such as `/env` must look like one: it is part of many paths, such as `/usr/bin/env`.
    """
    if needle.count(b"/") == 1:
        return contains_path(data, needle.decode("utf-8", "surrogateescape"))
    return needle in data


def _contains_pieces(data: bytes, needle: bytes) -> bool:
    """Return whether the data contains all the pieces of the path that instructions can contain.

    Pieces in a string that begins like the path, and then continues in another way, do not count.
    """

    def blank_others(match: re.Match[bytes]) -> bytes:
        return match.group() if _continues_in_next_piece(match, needle) else b"\0"

    others = re.escape(needle[:-_LARGEST_REST]) + rb"[!-~]{%d}" % _LARGEST_REST
    is_longer_than_piece = len(needle) - _LARGEST_REST > _PIECE
    data = re.sub(others, blank_others, data) if is_longer_than_piece else data.replace(needle, b"\0")
    return any(
        all(piece in data for piece in pieces) and _contains_end(data, needle, sum(map(len, pieces)))
        for pieces in _whole_pieces(needle)
    )


def _continues_in_next_piece(match: re.Match[bytes], path: bytes) -> bool:
    """Return whether what begins like the path is a constant, and the next one, which overlaps it, is the end."""
    data, start = match.string, match.start()
    common = next((n for n in range(len(path)) if data[start + n] != path[n]), len(path))
    position = start + common
    return position % _PIECE == 0 and any(
        data.startswith(path[overlap:], position)
        for overlap in range(max(0, common - 2 * _PIECE), min(common, len(path) - 1))
    )


def _whole_pieces(path: bytes) -> Iterator[list[bytes]]:
    """Yield the pieces that a path can begin with; one of its own, or two that overlap, are its end."""
    for first in range(_PIECE):
        cuts = [0, *range(first or _PIECE, len(path), _PIECE)]
        pieces = [path[a:b] for a, b in pairwise(cuts)]
        yield pieces
        if pieces:
            yield pieces[:-1]


def _contains_end(data: bytes, path: bytes, cut: int) -> bool:
    """Return whether the data contains the end of the path, from the cut on, in one piece or in two.

    The one before the last begins at the cut, or before it, and ends where the last one begins.
    """
    end = len(path)
    last = path[cut : cut + 2] if end - cut == 3 else path[cut:]  # three are stored as two and one
    if end - cut <= _PIECE and (cut >= _TELLING_PIECE or end - cut >= _TELLING_PIECE) and last in data:
        return True
    return any(
        max(middle, end - middle) >= _TELLING_PIECE
        and path[max(0, middle - _PIECE) : middle] in data
        and path[middle:] in data
        for middle in range(max(cut + 1, end - _PIECE), min(cut + _PIECE, end))
    )
