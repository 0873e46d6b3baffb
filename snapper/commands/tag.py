"""Tag: set and delete tags, which keep snapshots from being pruned."""

from __future__ import annotations

from dataclasses import dataclass

from snapper.errors import NotInStore, TagExists, UsageError
from snapper.format.constraints import is_valid_name
from snapper.repository.refs import read_ref, replace_tags
from snapper.repository.specs import SnapshotSpec, is_like_id, resolve_in_ref
from snapper.store import Store


@dataclass(frozen=True)
class TagResult:
    """A tag and the snapshot that it names now, and the one that it named `before`; each is empty if there is none."""

    environment: str
    tag: str
    snapshot_id: str
    before: str


def set_tag(store: Store, spec: SnapshotSpec, name: str, *, move: bool = False) -> TagResult:
    """Tag the snapshot. A tag that names another snapshot is only moved with `move`.

    Raise TagExists, NotInStore, ConcurrentUpdate, and UsageError if the name is not a valid tag.
    """
    _check_tag(name)
    current = read_ref(store, spec.environment)
    snapshot_id = resolve_in_ref(current.ref, spec, store)
    before = current.ref.tags.get(name, "")
    if before not in ("", snapshot_id) and not move:
        raise TagExists(spec.environment, name, before)
    if before != snapshot_id:
        replace_tags(store, current, {**current.ref.tags, name: snapshot_id})
    return TagResult(spec.environment, name, snapshot_id, before)


def delete_tag(store: Store, environment: str, name: str) -> TagResult:
    """Delete the tag, but not the snapshot that it names. Raise NotInStore, ConcurrentUpdate."""
    current = read_ref(store, environment)
    tags = current.ref.tags
    if name not in tags:
        raise NotInStore(f"tag {name!r} of {environment!r}", store.url, tuple(sorted(tags)), name)
    replace_tags(store, current, {tag: snapshot_id for tag, snapshot_id in tags.items() if tag != name})
    return TagResult(environment, name, "", tags[name])


def _check_tag(name: str) -> None:
    if not is_valid_name(name):
        raise UsageError(
            f"{name!r} is not a valid tag",
            "Use letters, digits, '_', '.', '+' and '-', at most 128 characters.",
        )
    if is_like_id(name):
        raise UsageError(f"{name!r} is not a valid tag: it looks like the beginning of a snapshot id")
