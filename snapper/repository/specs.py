"""Snapshot specs: what a user writes to name a snapshot, and how it is resolved."""

from __future__ import annotations

import re
from dataclasses import dataclass

from snapper.errors import (
    NotInStore,
    UsageError,
)
from snapper.format.model import Ref, is_valid_name
from snapper.repository.refs import lineage, read_ref
from snapper.store import Store

_SHORTEST_ID = 4


_LISTED = 5


@dataclass(frozen=True)
class SnapshotSpec:
    """What the user wrote: `ENV` or `ENV@SNAPSHOT`, where SNAPSHOT is a tag, the beginning of an id, or `~N`."""

    environment: str
    snapshot: str = ""

    @classmethod
    def parse(cls, text: str) -> SnapshotSpec:
        """Raises UsageError for a name that no environment can have."""
        name, _, snapshot = text.partition("@")
        check_environment_name(name)
        return cls(name, snapshot)

    def __str__(self) -> str:
        return f"{self.environment}@{self.snapshot}" if self.snapshot else self.environment


def check_environment_name(name: str, advice: str = "") -> str:
    """The name itself; raises UsageError where no environment can have it."""
    if not is_valid_name(name):
        advice = advice or ("Give a directory with --prefix." if "/" in name else "")
        rule = "Use letters, digits, '_', '.', '+' and '-', at most 128 characters, starting with a letter or digit."
        raise UsageError(f"{name!r} is not a valid environment name", f"{rule} {advice}".rstrip())
    return name


def resolve_spec(store: Store, reference: SnapshotSpec) -> tuple[Ref, str]:
    """The environment and the id of the snapshot that a reference means; raises NotInStore, UsageError."""
    found = read_ref(store, reference.environment).ref
    return found, resolve_in_ref(found, reference, store)


def resolve_in_ref(found: Ref, reference: SnapshotSpec, store: Store) -> str:
    """The id of the snapshot that a reference means in its environment; raises NotInStore, UsageError."""
    wanted = reference.snapshot
    if not wanted:
        return found.current
    if wanted in found.tags:
        return found.tags[wanted]
    ids = [entry.snapshot for entry in found.history]
    latest = tuple(dict.fromkeys(digest[:12] for digest in reversed(ids)))[:_LISTED]
    known = (*found.tags, *latest)
    back = re.fullmatch(r"~(\d{1,9})", wanted)
    if back:
        before = lineage(found)
        if int(back[1]) < len(before):
            return before[-1 - int(back[1])]
        count = len(before) - 1
        raise NotInStore(f"{reference} (snapshots before the current one: {count})", store.url, known)
    if len(wanted) >= _SHORTEST_ID and re.fullmatch(r"[0-9a-f]+", wanted):
        matches = {digest for digest in (*ids, *found.tags.values()) if digest.startswith(wanted)}
        if len(matches) == 1:
            return matches.pop()
        if matches:
            raise UsageError(f"{reference} matches {len(matches)} snapshots", "Give more digits of the id.")
    raise NotInStore(f"snapshot {str(reference)!r}", store.url, known, wanted)
