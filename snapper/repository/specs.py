"""Snapshot specs: what a user writes to name a snapshot, and how it is resolved."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple
from unicodedata import normalize

from snapper.environment.names import is_reserved
from snapper.errors import NotInStore, UsageError, empty_value
from snapper.format.constraints import is_valid_name
from snapper.format.model import Ref
from snapper.process.characters import is_visible
from snapper.repository.refs import lineage, read_ref
from snapper.store import Store

_MIN_PREFIX = 4
_PREFIX = re.compile(rf"[0-9a-f]{{{_MIN_PREFIX},}}")

#: How many of the latest snapshots an error lists.
_LISTED = 5


@dataclass(frozen=True)
class SnapshotSpec:
    """`ENV` or `ENV@SNAPSHOT` as the user wrote it, where SNAPSHOT is a tag, the beginning of an id, or `~N`."""

    environment: str
    snapshot: str = ""

    @classmethod
    def parse(cls, text: str) -> SnapshotSpec:
        """Raise UsageError if the environment's name is invalid, or nothing follows the `@`."""
        name, separator, snapshot = text.partition("@")
        if separator and not snapshot:
            raise empty_value(f"the snapshot in {text!r}", "Give a tag, an id, or ~N, or omit the @.")
        return cls(check_environment_name(name), snapshot)

    def __str__(self) -> str:
        return f"{self.environment}@{self.snapshot}" if self.snapshot else self.environment


class ResolvedSpec(NamedTuple):
    """An environment's ref, and the id of the snapshot that a spec names."""

    ref: Ref
    snapshot_id: str


def check_environment_name(name: str, advice: str = "") -> str:
    """Return the name, composed (NFC); raise UsageError if it is not a valid name of an environment."""
    name = normalize("NFC", name)
    if not is_valid_name(name):
        advice = advice or ("Give a directory with --prefix." if "/" in name else "")
        rule = "Use letters, digits, '_', '.', '+' and '-', at most 128 characters, starting with a letter or digit."
        if not is_visible(name):
            rule = "It contains characters that cannot be seen."
        raise UsageError(f"{name!r} is not a valid environment name", f"{rule} {advice}".rstrip())
    return name


def check_new_name(name: str, advice: str = "") -> str:
    """Return the name like `check_environment_name`; raise UsageError also if it is reserved."""
    name = check_environment_name(name, advice)
    if is_reserved(name):
        reason = f"an environment cannot be called {name!r}: to conda, the name means something else"
        raise UsageError(reason, advice or "Give it another name in the store.")
    return name


def is_like_id(text: str) -> bool:
    """Return whether the text can be the beginning of a snapshot id: it is no tag then, whatever an entry says.

    Otherwise, who may change an entry could decide what is restored for an id.
    """
    return _PREFIX.fullmatch(text) is not None


def resolve_spec(store: Store, spec: SnapshotSpec) -> ResolvedSpec:
    """Read the environment's ref and find the snapshot in it. Raise NotInStore, UsageError, Corrupted."""
    ref = read_ref(store, spec.environment).ref
    return ResolvedSpec(ref, resolve_in_ref(ref, spec, store))


def resolve_in_ref(ref: Ref, spec: SnapshotSpec, store: Store) -> str:
    """Return the id of the snapshot that the spec names in its environment; raise NotInStore, UsageError."""
    snapshot = spec.snapshot
    if not snapshot:
        return ref.current
    if snapshot in ref.tags and not is_like_id(snapshot):
        return ref.tags[snapshot]
    ids = [entry.snapshot for entry in ref.history]
    latest = tuple(dict.fromkeys(snapshot_id[:12] for snapshot_id in reversed(ids)))[:_LISTED]
    known = (*ref.tags, *latest)
    steps_back = re.fullmatch(r"~(\d{1,9})", snapshot)
    if steps_back:
        line = lineage(ref)
        if int(steps_back[1]) < len(line):
            return line[-1 - int(steps_back[1])]
        earlier = "1 snapshot" if len(line) == 2 else f"{len(line) - 1} snapshots"
        summary = (
            f"{str(spec)!r} goes back too far: {spec.environment!r} has {earlier} before the current one"
        )
        raise NotInStore(f"snapshot {str(spec)!r}", store.url, known, summary=summary)
    if is_like_id(snapshot):
        matches = {
            snapshot_id for snapshot_id in (*ids, *ref.tags.values()) if snapshot_id.startswith(snapshot)
        }
        if len(matches) == 1:
            return matches.pop()
        if matches:
            raise UsageError(f"{spec} matches {len(matches)} snapshots", "Give more digits of the id.")
    raise NotInStore(f"snapshot {str(spec)!r}", store.url, known, snapshot)
