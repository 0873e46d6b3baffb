"""Tell which Mach-O files need a signature: those for Apple's own processors, where nothing starts without a valid one.

Layout: mach-o/loader.h and mach-o/fat.h.
"""

from __future__ import annotations

import struct

_MAGIC = b"\xcf\xfa\xed\xfe"
_FAT_MAGIC = (
    b"\xca\xfe\xba\xbe"  # also that of Java classes, which have a version where this has a small count
)
_CPU_TYPE_ARM64 = 0x0100000C
_FAT_ARCHITECTURE_SIZE = 20
_MOST_ARCHITECTURES = 16


def needs_signature(data: bytes) -> bool:
    """Return whether the file is a program or a library for arm64, possibly among other processors."""
    if data.startswith(_MAGIC) and len(data) >= 8:
        return int.from_bytes(data[4:8], "little") == _CPU_TYPE_ARM64
    if not data.startswith(_FAT_MAGIC) or len(data) < 8:
        return False
    count = int.from_bytes(data[4:8], "big")
    if count > _MOST_ARCHITECTURES or len(data) < 8 + count * _FAT_ARCHITECTURE_SIZE:
        return False
    starts = range(8, 8 + count * _FAT_ARCHITECTURE_SIZE, _FAT_ARCHITECTURE_SIZE)
    return any(struct.unpack_from(">I", data, start)[0] == _CPU_TYPE_ARM64 for start in starts)
