"""Keys of the objects in a store (docs/format.md, "Objects")."""

from __future__ import annotations

import re
import secrets
from typing import Final

_IMMUTABLE = re.compile(r"(?:(?:layers|pages)/[0-9a-f]{2}|snapshots)/([0-9a-f]{64})\.")


class Layout:
    """All keys that a store can have, and the prefixes that they are listed by."""

    MARKER: Final = "snapper.json"
    REFS: Final = "environments/"
    SNAPSHOTS: Final = "snapshots/"
    PAGES: Final = "pages/"
    LAYERS: Final = "layers/"
    LOCKS: Final = "locks/"
    PRUNE_LOCK: Final = "locks/prune.json"

    @staticmethod
    def ref(name: str) -> str:
        """Return the key of an environment's ref."""
        return f"{Layout.REFS}{name}.json"

    @staticmethod
    def snapshot(digest: str) -> str:
        """Return the key of a snapshot's manifest."""
        return f"{Layout.SNAPSHOTS}{digest}.json"

    @staticmethod
    def page(digest: str) -> str:
        """Return the key of a page."""
        return f"{Layout.PAGES}{digest[:2]}/{digest}.json"

    @staticmethod
    def layer(digest: str) -> str:
        """Return the key of a layer."""
        return f"{Layout.LAYERS}{digest[:2]}/{digest}.tar.zst"

    @staticmethod
    def new_intent() -> str:
        """Return an unused key for the intent of a pack."""
        return f"{Layout.LOCKS}pack-{secrets.token_hex(16)}.json"

    @staticmethod
    def new_trial() -> str:
        """Return an unused key for an object that is written to observe the store, and deleted at once."""
        return f"{Layout.LOCKS}trial-{secrets.token_hex(16)}.json"

    @staticmethod
    def digest_of(key: str) -> str:
        """Return the sha256 that names an immutable object; empty for other keys. Readers verify the bytes."""
        match = _IMMUTABLE.match(key)
        return match[1] if match else ""
