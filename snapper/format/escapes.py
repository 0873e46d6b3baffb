"""Find a path that a text contains with other characters: in JSON with escapes, in URLs, or with `//` or `/./` in it.

Relocation does not replace these. Each format has several spellings, so it could not be undone exactly.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from urllib.parse import quote

from snapper.format.constraints import path_bytes

#: What is between components of a path that is not normal.
_NOT_NORMAL = (b"//", b"/./")

#: What is not after a path, because it would be a part of another name.
_ENDS = rb"(?![\w~+-]|\.\w)"

#: What is around a path in such a spelling, which is not a part of a longer path, but can follow a flag such as -I;
#: %b is the path.
_ALONE = rb"(?:(?<![\w.~+-])|(?<=-[A-Za-z]))%b" + _ENDS


def contains_escaped(data: bytes, path: str) -> bool:
    """Return whether the data contains the path in a spelling that differs from the path itself."""
    return any(
        spelling in data and re.search(_ALONE % re.escape(spelling), data) is not None
        for spelling in escaped_spellings(path)
    ) or _contains_not_normal(data, path_bytes(path))


@lru_cache(maxsize=64)
def halves(path: str) -> tuple[bytes, ...]:
    """Return the halves of a path: data that contains it with `//` or `/./` in one place contains one of them."""
    parts = path_bytes(path).split(b"/")
    middle = (len(parts) + 1) // 2
    return (b"/".join(parts[:middle]), b"/" + b"/".join(parts[middle:])) if len(parts) > 2 else ()


def _contains_not_normal(data: bytes, path: bytes) -> bool:
    """Return whether the data contains the path with more slashes than it has, or with dots between them.

    There are more paths then after such separators have been made normal. This takes linear memory, and little more
    than linear time, whatever the data is: a regular expression for the separators would not.
    """
    if path.rpartition(b"/")[2] not in data or not any(sign in data for sign in _NOT_NORMAL):
        return False
    normal = data
    while any(sign in normal for sign in _NOT_NORMAL):  # each time, runs of separators are half as long
        for sign in _NOT_NORMAL:
            normal = normal.replace(sign, b"/")
    return path in normal and _count(path, normal) > _count(path, data)


def _count(path: bytes, data: bytes) -> int:
    return sum(1 for _ in re.finditer(re.escape(path) + _ENDS, data))


@lru_cache(maxsize=64)
def escaped_spellings(path: str) -> tuple[bytes, ...]:
    """Return how JSON and URLs spell the path, if they do not contain it as it is."""
    literal = path_bytes(path)
    in_json = json.dumps(path)[1:-1].encode()
    spellings = {
        in_json,
        in_json.replace(b"/", rb"\/"),
        literal.replace(b"/", rb"\/"),
        quote(literal).encode(),
        quote(literal, safe="").encode(),
    }
    return tuple(sorted(spellings - {literal}))
