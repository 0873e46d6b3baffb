"""Decode documents from a store, which may have been written by a later version or by an attacker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from snapper.errors import Corrupted, UnsupportedFormat
from snapper.format import canonical
from snapper.format.model import FORMAT


def decode_checked(kind: type[canonical.T], data: bytes, what: str) -> canonical.T:
    """Check the document's format version and decode it. Raise UnsupportedFormat, MalformedDocument."""
    fields = canonical.parse(data)
    version = fields.get("format") if isinstance(fields, dict) else None
    if type(version) is int and version > FORMAT:
        raise UnsupportedFormat(what, version, FORMAT)
    if version != FORMAT:
        raise canonical.MalformedDocument("it has no format version")
    return canonical.decode(kind, fields)


@contextmanager
def decoding(what: str, advice: str = "") -> Iterator[None]:
    """Raise Corrupted in place of MalformedDocument."""
    try:
        yield
    except canonical.MalformedDocument as error:
        raise Corrupted(what, str(error), advice) from None
