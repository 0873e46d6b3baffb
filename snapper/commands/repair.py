"""Repair: good objects in the place of damaged ones, from wherever they can be had."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from snapper.errors import SnapperError
from snapper.format.layout import Layout
from snapper.format.model import sha256_hex
from snapper.repository.objects import is_intact
from snapper.store import Store


@dataclass(frozen=True)
class RepairedObject:
    """An object that is good again, and where it came from."""

    key: str
    source: str


def repair_objects(
    store: Store,
    keys: Iterable[str],
    sources: Mapping[str, Store],
) -> tuple[RepairedObject, ...]:
    """Puts snapshots, pages and layers from the first source that has them good; what none has is left as it is.
    Sources are named by what they are to be called.

    Raises what the store raises, but not what the sources do.
    """
    healed = []
    for key in keys:
        digest = Layout.digest_of(key)
        if not digest:
            continue  # nothing says what it is to be
        if is_intact(store, key, digest):
            continue  # what is wrong is not its bytes, and whoever needs them must not find them gone meanwhile
        for name, source in sources.items():
            data = _good(source, key, digest)
            if data is not None:
                store.delete(key)
                store.put(key, data)
                healed.append(RepairedObject(key, name))
                break
    return tuple(healed)


def _good(source: Store, key: str, digest: str) -> bytes | None:
    try:
        data = source.read(key)
    except SnapperError:
        return None
    return data if sha256_hex(data) == digest else None
