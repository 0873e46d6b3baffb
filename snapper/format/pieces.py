"""Find a path that a program contains only in pieces, in time that is linear in the size of the program.

Compilers copy a string whose length they know, or compare with it, in pieces. Those of 16 and more characters are
constants at aligned addresses; those of eight, four, two, and one are operands of instructions for x86-64. Pieces may
overlap; the first one may begin before the path, and the last one end behind it, in other text.

A piece only counts where compilers put them: other paths begin like this one, or have the same directories in them.
"""

from __future__ import annotations

import re
import sys
from itertools import chain
from typing import NamedTuple

_ARCHIVE = b"!<arch>\n"

#: How many characters an operand has at most; constants are aligned to as many bytes.
PIECE = 8

#: The shortest path that is looked for.
_SHORTEST = 9

#: The longest path whose pieces a program may contain backwards: instructions compare the order of two texts that way,
#: and the first one begins like the path.
_LONGEST_REVERSED = 2 * PIECE

#: The sizes of pieces that are looked for with less than a word; one character is found anywhere.
_SIZES = (8, 4, 2)

#: The last byte of instructions directly before an operand; those of eight bytes follow one of the first eight.
_BEFORE_OPERAND = frozenset((*range(0xB8, 0xC0), 0x35, 0x3D))

#: Instructions that have up to six bytes that state an address before an operand of four.
_BEFORE_ADDRESS = (0x81, 0xC7)
_LONGEST_ADDRESS = 6

#: How many bytes are searched at once for operands, which are collected first.
_BLOCK = 1 << 20

#: How often a few characters are looked at to find out whether they are a piece. If there are more, one of them is.
_MOST_LOOKED_AT = 10_000


def piece_needles(path: bytes) -> tuple[bytes, ...]:
    """Return byte strings: data that contains the path, as a whole or in pieces, contains at least one of them.

    Of two that share a character, ends of pieces do not cut both: pieces have eight characters before the last few of
    the path. Of a short path, the second one is the operand of four that can follow there.
    """
    end = len(path)
    if end < _SHORTEST:
        return (path,)
    start, size = (end - 12, 5) if end > 12 else (min(0, end - 10), 4)
    middle = start + size - 1
    backwards = (path[PIECE - 1 :: -1],) if end <= _LONGEST_REVERSED else ()
    return path[max(0, start) : start + size], path[middle : middle + size], *backwards


def contains_pieces(data: bytes, path: bytes) -> bool:
    """Return whether the data contains pieces that the path, or a text that contains it, can consist of."""
    if len(path) < _SHORTEST or not any(needle in data for needle in piece_needles(path)):
        return False
    return _consists_of_pieces(data, path) or (
        len(path) <= _LONGEST_REVERSED and _consists_of_pieces(data, path[::-1])
    )


def _consists_of_pieces(data: bytes, path: bytes) -> bool:
    """Return whether each character of the path is in a piece."""
    words = _starts_of_words(data, path)
    reach = _length_of_first_piece(data, path, beside_words=bool(words))
    for start in words:
        if start > reach:
            break
        reach = start + PIECE
    return _is_end_in_pieces(data, path, reach, beside_words=bool(words))


def _length_of_first_piece(data: bytes, path: bytes, *, beside_words: bool) -> int:
    """Return how many characters the path begins with that are the end of a piece; almost anything contains one."""
    for length in range(PIECE - 1, 1, -1):
        for size in _SIZES:
            piece = _Piece(path[:length], size, size - length)
            if size >= length and piece.is_in(data, beside_words=beside_words):
                return length
    return 1


def _is_end_in_pieces(data: bytes, path: bytes, reach: int, *, beside_words: bool) -> bool:
    """Return whether what the path contains from `reach` on, or from before it, is the end of it in pieces."""
    end = len(path)
    for size in (4, 2):  # at most one of each
        for start in range(end - 2 * size + 1, end - size + 1):
            piece = _Piece(path[start : start + size], size)
            if reach - size < start <= reach and piece.is_in(data, beside_words=beside_words):
                reach = min(start + size, end)
    return reach >= end - 1 or any(
        _Piece(path[start:], size).is_in(data, beside_words=beside_words)
        for start in range(max(0, end - PIECE + 1), reach + 1)
        for size in _SIZES
        if size // 2 < end - start <= size
    )


def _starts_of_words(data: bytes, path: bytes) -> list[int]:
    """Return where the operands and constants of eight characters that are part of the path begin in it."""
    starts: dict[int, list[int]] = {}
    for start in range(len(path) - PIECE + 1):
        starts.setdefault(_number(path[start : start + PIECE]), []).append(start)
    wanted, found = set(starts), set[int]()
    for offset in range(0, PIECE, _alignment(data, PIECE)):
        constants = memoryview(data)[offset : len(data) - (len(data) - offset) % PIECE]
        found |= wanted.intersection(constants.cast("Q"))
    operand = re.compile(b"[\xb8-\xbf](?=([%s]{8}))" % re.escape(bytes(set(path))))
    for start in range(0, len(data), _BLOCK):
        found |= wanted.intersection(map(_number, operand.findall(data, start, start + _BLOCK + PIECE)))
    return sorted(chain.from_iterable(starts[word] for word in found))


def _number(word: bytes) -> int:
    return int.from_bytes(word, sys.byteorder)


def _alignment(data: bytes, size: int) -> int:
    """Return what positions of constants are multiples of; archives align the files in them to two bytes."""
    return 2 if data.startswith(_ARCHIVE) else size


class _Piece(NamedTuple):
    """A part of a path in an operand or a constant of this size, behind as many characters of other text."""

    text: bytes
    size: int
    before: int = 0

    def is_in(self, data: bytes, *, beside_words: bool) -> bool:
        """Return whether it is in the data.

        Compilers make small constants only beside larger ones. Unless there are words of the path, it must be
        at the beginning or the end of one that has 16 bytes.
        """
        small, at = _alignment(data, self.size), -1
        large = _alignment(data, 2 * PIECE)
        for _ in range(_MOST_LOOKED_AT):
            at = data.find(self.text, at + 1)
            if at < 0:
                return False
            start = at - self.before
            if (beside_words and start % small == 0) or (start > 0 and _is_operand(data, start)):
                return True
            if self.size == PIECE and (at + (len(self.text) if self.before else 0)) % large == 0:
                return True
        return True


def _is_operand(data: bytes, start: int) -> bool:
    """Return whether what is before the position can be an instruction with an operand there."""
    before = data[max(0, start - _LONGEST_ADDRESS - 1) : start]
    return before[-1] in _BEFORE_OPERAND or any(byte in before[:-1] for byte in _BEFORE_ADDRESS)
