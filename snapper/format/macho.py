"""Tell which Mach-O files need a signature: those for Apple's own processors, where nothing starts without a valid one.

Layout: mach-o/loader.h and mach-o/fat.h.
"""

from __future__ import annotations

import struct

_MAGIC = b"\xcf\xfa\xed\xfe"
#: How files for several processors begin, and how many bytes describe each of these. The first is also how Java classes
#: begin, which have a version where these have a small count.
_FAT_ARCHITECTURE_SIZES = {b"\xca\xfe\xba\xbe": 20, b"\xca\xfe\xba\xbf": 32}
_CPU_TYPE_ARM64 = 0x0100000C
_MOST_ARCHITECTURES = 16

#: How much of a file tells whether it needs a signature, in bytes.
HEAD_SIZE = 8 + _MOST_ARCHITECTURES * 32


def needs_signature(data: bytes) -> bool:
    """Return whether the file is a program or a library for arm64, possibly among other processors."""
    if data.startswith(_MAGIC) and len(data) >= 8:
        return int.from_bytes(data[4:8], "little") == _CPU_TYPE_ARM64
    size = _FAT_ARCHITECTURE_SIZES.get(data[:4], 0)
    count = int.from_bytes(data[4:8], "big")
    if not size or count > _MOST_ARCHITECTURES or len(data) < 8 + count * size:
        return False
    starts = range(8, 8 + count * size, size)
    return any(struct.unpack_from(">I", data, start)[0] == _CPU_TYPE_ARM64 for start in starts)
