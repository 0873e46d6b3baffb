"""Replace a path in the string constants of a compiled Java class by one of the same length.

Layout: The Java Virtual Machine Specification, 4.1 and 4.4. A `switch` over strings contains their hash codes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from snapper.format.paths import replace_path

MAGIC = b"\xca\xfe\xba\xbe"

_POOL = 8
_UTF8, _LONG, _DOUBLE = 1, 5, 6
_SIZES = {
    **dict.fromkeys((7, 8, 16, 19, 20), 2),
    15: 3,
    **dict.fromkeys((3, 4, 9, 10, 11, 12, 17, 18), 4),
    **dict.fromkeys((_LONG, _DOUBLE), 8),
}


#: The largest class that is changed, in bytes, and how many of its strings are: each is searched for in all of it.
_LARGEST = 4 << 20
_MOST_CHANGED = 1000


def replace_in_constants(data: bytes, old: bytes, new: bytes) -> bytes:
    """Return the class with `new` for `old`, which is as long.

    It is unchanged if it is malformed or larger than any class, contains the hash code of a string to change, or has
    more such strings than any class.
    """
    result, changed = bytearray(data), 0
    if len(data) > _LARGEST:
        return data
    try:
        for start, end in _constants(data):
            text = data[start:end]
            replaced = replace_path(text, old, new)
            changed += replaced != text
            if replaced != text and (changed > _MOST_CHANGED or _hash_code(text) in data):
                return data
            result[start:end] = replaced
    except (struct.error, KeyError, IndexError):
        return data
    return bytes(result)


def _constants(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield where the UTF-8 constants of the class begin and end."""
    (count,) = struct.unpack_from(">H", data, _POOL)
    at, number = _POOL + 2, 1
    while number < count:
        kind = data[at]
        if kind == _UTF8:
            (length,) = struct.unpack_from(">H", data, at + 1)
            yield at + 3, at + 3 + length
            at += 3 + length
        else:
            at += 1 + _SIZES[kind]
        number += 2 if kind in (_LONG, _DOUBLE) else 1


def _hash_code(text: bytes) -> bytes:
    """Return the string's hash code as it is in a class."""
    code = 0
    units = text.decode("utf-8", "replace").encode("utf-16-be")
    for high, low in zip(units[::2], units[1::2], strict=True):
        code = (31 * code + (high << 8 | low)) & 0xFFFFFFFF
    return code.to_bytes(4, "big")
