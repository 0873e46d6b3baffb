"""Decode documents of a store that anybody may have written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from snapper.errors import Corrupted, UnsupportedFormat
from snapper.format import canonical
from snapper.format.model import FORMAT


def decode_checked(kind: type[canonical.T], data: bytes, what: str) -> canonical.T:
    """The document, after a look at its format number; raises UnsupportedFormat, Malformed."""
    fields = canonical.parse(data)
    found = fields.get("format") if isinstance(fields, dict) else None
    if type(found) is int and found > FORMAT:
        raise UnsupportedFormat(what, found, FORMAT)
    if found != FORMAT:
        raise canonical.MalformedDocument("it has no format version")
    return canonical.decode(kind, fields)


@contextmanager
def decoding(what: str, advice: str = "") -> Iterator[None]:
    """Raises Corrupted for what is not as its type demands."""
    try:
        yield
    except canonical.MalformedDocument as error:
        raise Corrupted(what, str(error), advice) from None
