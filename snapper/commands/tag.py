"""Tag: names for snapshots that stay, whatever is packed later."""

from __future__ import annotations

import re
from dataclasses import dataclass

from snapper.errors import NotInStore, TagExists, UsageError
from snapper.format.model import is_valid_name
from snapper.repository.refs import read_ref, replace_tags
from snapper.repository.specs import SnapshotSpec, resolve_in_ref
from snapper.store import Store

_LIKE_AN_ID = re.compile(r"[0-9a-f]{4,}\Z")


@dataclass(frozen=True)
class TagResult:
    """What was done. `before` is the snapshot that the tag stood for, empty if there was no such tag; without a
    `snapshot_id`, the tag was removed.
    """

    environment: str
    tag: str
    snapshot_id: str
    before: str


def set_tag(store: Store, reference: SnapshotSpec, name: str, *, move: bool = False) -> TagResult:
    """Names the snapshot; a tag that stands for another one is moved only if that is said.

    Raises TagExists, NotInStore, ConcurrentUpdate, and UsageError for what is not a valid tag.
    """
    if not is_valid_name(name):
        raise UsageError(
            f"{name!r} is not a valid tag",
            "Use letters, digits, '_', '.', '+' and '-', at most 128 characters.",
        )
    if _LIKE_AN_ID.match(name):
        raise UsageError(f"{name!r} is not a valid tag: it looks like the beginning of a snapshot id")
    seen = read_ref(store, reference.environment)
    snapshot_id = resolve_in_ref(seen.ref, reference, store)
    before = seen.ref.tags.get(name, "")
    if before not in ("", snapshot_id) and not move:
        raise TagExists(reference.environment, name, before)
    if before != snapshot_id:
        replace_tags(store, seen, {**seen.ref.tags, name: snapshot_id})
    return TagResult(reference.environment, name, snapshot_id, before)


def delete_tag(store: Store, environment: str, name: str) -> TagResult:
    """Removes the tag, not what it stands for; raises NotInStore, ConcurrentUpdate."""
    seen = read_ref(store, environment)
    before = seen.ref.tags.get(name)
    if before is None:
        raise NotInStore(f"tag {name!r} of {environment!r}", store.url, tuple(sorted(seen.ref.tags)), name)
    replace_tags(store, seen, {tag: to for tag, to in seen.ref.tags.items() if tag != name})
    return TagResult(environment, name, "", before)
