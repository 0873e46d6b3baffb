"""Keys of the objects in a store (docs/format.md, "Objects")."""

from __future__ import annotations

import hashlib
import re
import secrets
from enum import Enum
from typing import Final, NamedTuple

from snapper.format.constraints import is_valid_name

_KEY = re.compile(
    r"(?P<marker>snapper\.json)"
    r"|environments/(?P<ref>[^/]+)\.json"
    r"|snapshots/(?P<snapshot>[0-9a-f]{64})\.json"
    r"|pages/(?P<p>[0-9a-f]{2})/(?P<page>(?P=p)[0-9a-f]{62})\.json"
    r"|layers/(?P<l>[0-9a-f]{2})/(?P<layer>(?P=l)[0-9a-f]{62})\.tar\.zst"
    r"|locks/(?:(?P<prune_lock>prune)|pack-(?P<intent>[0-9a-f]{32})|trial-(?P<trial>[0-9a-f]{32}))\.json"
)

_CACHE_NAME = re.compile(r".+-[0-9a-f]{12}", re.S)


class ObjectKind(Enum):
    """What an object of a store is."""

    MARKER = "marker"
    REF = "ref"
    SNAPSHOT = "snapshot"
    PAGE = "page"
    LAYER = "layer"
    PRUNE_LOCK = "prune_lock"
    INTENT = "intent"
    TRIAL = "trial"


#: Objects that are named by the sha256 of their bytes, and never change.
IMMUTABLE: Final = frozenset({ObjectKind.SNAPSHOT, ObjectKind.PAGE, ObjectKind.LAYER})


class ObjectKey(NamedTuple):
    """A key by its parts. `name` is the environment of a ref, and the digest of a snapshot, page, or layer."""

    kind: ObjectKind
    name: str


class Layout:
    """All keys that a store can have, the prefixes that they are listed by, and the names of cache directories."""

    MARKER: Final = "snapper.json"
    REFS: Final = "environments/"
    SNAPSHOTS: Final = "snapshots/"
    PAGES: Final = "pages/"
    LAYERS: Final = "layers/"
    LOCKS: Final = "locks/"
    PREFIXES: Final = (REFS, SNAPSHOTS, PAGES, LAYERS, LOCKS)
    PRUNE_LOCK: Final = "locks/prune.json"

    #: In a cache directory only: the refs that the store had when they were last listed.
    CACHED_LISTING: Final = "environments.json"

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
    def cache_name(bucket: str, url: str) -> str:
        """Return the name of the cache directory of an S3 store."""
        return f"{bucket}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"

    @staticmethod
    def is_cache_name(name: str) -> bool:
        """Return whether a cache directory can have this name."""
        return _CACHE_NAME.fullmatch(name) is not None

    @staticmethod
    def bucket_of_cache(name: str) -> str:
        """Return the bucket of the store whose cache directory has this name."""
        return name.rpartition("-")[0]

    @staticmethod
    def parse(key: str) -> ObjectKey | None:
        """Return the parts of the key; None if no object of a store can have it."""
        match = _KEY.fullmatch(key)
        if match is None or match.lastgroup is None:
            return None
        parsed = ObjectKey(ObjectKind(match.lastgroup), match[match.lastgroup])
        if parsed.kind is ObjectKind.REF and not is_valid_name(parsed.name):
            return None
        return parsed

    @staticmethod
    def digest_of(key: str) -> str:
        """Return the sha256 that names an immutable object; empty for other keys."""
        parsed = Layout.parse(key)
        return parsed.name if parsed and parsed.kind in IMMUTABLE else ""
