"""Find a path that a text contains with other characters: in JSON with escapes, or in URLs.

Relocation does not replace these. Each format has several spellings, so it could not be undone exactly.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from urllib.parse import quote

from snapper.format.constraints import path_bytes

#: What is around a path in such a spelling, which is not a part of a longer path; %b is the path.
_ALONE = rb"(?<![\w.~+-])%b(?![\w~+-]|\.\w)"


def contains_escaped(data: bytes, path: str) -> bool:
    """Return whether the data contains the path in a spelling that differs from the path itself."""
    return any(
        spelling in data and re.search(_ALONE % re.escape(spelling), data) is not None
        for spelling in escaped_spellings(path)
    )


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
