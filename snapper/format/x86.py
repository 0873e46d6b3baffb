"""Find what programs for x86-64 load into vector registers.

To copy a string whose length they know, compilers cut it into pieces of up to 64 characters. The last piece may
begin before the one before it ends. The pieces are constants in memory, in any order, or parts of instructions. If all
pieces happen to lie one behind the other, they look like the string, but changing them does not change all of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from snapper.format.elf import ElfLayout

#: How many characters a vector register has at most.
LARGEST_VECTOR = 64

#: Instructions of the maps 0F, VEX, and EVEX with an operand at a distance from the next instruction. Their last byte
#: before the distance says so (Intel's manual, volume 2, 2.1.3 and 2.2.1.6); an operand of one byte may follow.
_VECTOR_INSTRUCTION = re.compile(
    rb"(?=(?:\x0f(?:[\x38\x3a].|[^\x38\x3a\x80-\x8f])|\xc5..|\xc4...|\x62....)"
    rb"[\x05\x0d\x15\x1d\x25\x2d\x35\x3d](....))",
    re.DOTALL,
)


def vector_operands(data: bytes, layout: ElfLayout) -> Iterator[int]:
    """Yield the offsets in the file of what is loaded into, or compared with, vector registers; some by mistake."""
    for code in layout.code:
        for match in _VECTOR_INSTRUCTION.finditer(data, code.start, code.end):
            distance = int.from_bytes(match[1], "little", signed=True)
            address = code.address + match.end(1) - code.start + distance
            for segment in layout.loaded:
                if segment.address <= address < segment.address + segment.end - segment.start:
                    yield segment.start + address - segment.address
