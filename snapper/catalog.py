"""Environments, snapshots and layers as objects of a store."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from snapper import canonical
from snapper.errors import Damaged, LayersGone, Moved, NewerFormat, NotInStore, SnapperError, Usage
from snapper.model import FORMAT, Environment, Layer, Move, Snapshot, is_digest, is_name, name_of
from snapper.store import Store, VersionMismatch

#: The action of a step that made an earlier snapshot current again.
ROLLBACK = "rollback"

_ENVIRONMENTS = "environments/"
_SHORTEST_ID = 4
_READS = 3
_AT_ONCE = 16
_LISTED = 5


def environment_key(name: str) -> str:
    return f"{_ENVIRONMENTS}{name}.json"


def snapshot_key(digest: str) -> str:
    return f"snapshots/{digest}.json"


def layer_key(digest: str) -> str:
    return f"layers/{digest[:2]}/{digest}.tar.zst"


@dataclass(frozen=True)
class Reference:
    """What the user wrote: `ENV` or `ENV@SNAPSHOT`, where SNAPSHOT is a tag, the beginning of an id, or `~N`."""

    environment: str
    snapshot: str = ""

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Raises Usage for a name that no environment can have."""
        name, _, snapshot = text.partition("@")
        check_name(name)
        return cls(name, snapshot)

    def __str__(self) -> str:
        return f"{self.environment}@{self.snapshot}" if self.snapshot else self.environment


def check_name(name: str, advice: str = "") -> str:
    """The name itself; raises Usage where no environment can have it."""
    if not is_name(name):
        raise Usage(
            f"{name!r} cannot name an environment",
            "Use letters, digits, '_', '.', '+' and '-', 128 at most, and begin with a letter or digit. "
            + advice,
        )
    return name


def environments(store: Store) -> Iterator[str]:
    """The names of the store's environments, in order."""
    for key in store.keys(_ENVIRONMENTS):
        name = key.removeprefix(_ENVIRONMENTS).removesuffix(".json")
        if key.endswith(".json") and is_name(name):
            yield name


def environment_version(store: Store, name: str) -> str:
    """The version of the environment's entry, whatever is in it; raises NotInStore."""
    try:
        return store.read_versioned(environment_key(name))[1]
    except NotInStore:
        raise _no_environment(store, name) from None


def read_environment(store: Store, name: str) -> tuple[Environment, str]:
    """The environment and the version to replace it by; raises NotInStore, Damaged, NewerFormat."""
    try:
        data, version = store.read_versioned(environment_key(name))
    except NotInStore:
        raise _no_environment(store, name) from None
    return decode_environment(store, name, data), version


def _no_environment(store: Store, name: str) -> NotInStore:
    return NotInStore(f"environment {name!r}", store.url, tuple(environments(store)), name)


def decode_environment(store: Store, name: str, data: bytes) -> Environment:
    """The environment that an entry's bytes describe; raises Damaged, NewerFormat."""
    found = _decode(Environment, data, f"environment {name!r} in {store.url}")
    if found.name != name:
        raise Damaged(f"environment {name!r} in {store.url}", f"it says that it is {found.name!r}")
    return found


def read_snapshot(store: Store, digest: str) -> Snapshot:
    """The snapshot of that id, its bytes checked against it; raises NotInStore, Damaged, NewerFormat."""
    try:
        data = _read_named(store, snapshot_key(digest), digest)
    except NotInStore:
        raise NotInStore(f"snapshot {digest[:12]}", store.url) from None
    return decode_snapshot(store, digest, data or b"")


def _read_named(store: Store, key: str, digest: str) -> bytes | None:
    """The object, read anew if its bytes are not those that its name stands for: they may have been altered on the
    way. None where they are not, however often they are read.
    """
    for _ in range(_READS):
        data = store.read(key)
        if name_of(data) == digest:
            return data
    return None


def decode_snapshot(store: Store, digest: str, data: bytes) -> Snapshot:
    """The snapshot of these bytes, which are checked against its id; raises Damaged, NewerFormat."""
    what = f"snapshot {digest[:12]} in {store.url}"
    if name_of(data) != digest:
        raise Damaged(what, "its bytes are not those that its name stands for")
    return _decode(Snapshot, data, what)


def named_by(environment: Environment) -> set[str]:
    """The ids of all snapshots that the environment's entry names."""
    steps = {step.snapshot for step in environment.history}
    return {environment.current, *steps, *environment.tags.values()}


def resolve(store: Store, reference: Reference) -> tuple[Environment, str]:
    """The environment and the id of the snapshot that a reference means; raises NotInStore, Usage."""
    found, _ = read_environment(store, reference.environment)
    return found, resolve_in(found, reference, store)


def resolve_in(found: Environment, reference: Reference, store: Store) -> str:
    """The id of the snapshot that a reference means in its environment; raises NotInStore, Usage."""
    wanted = reference.snapshot
    if not wanted:
        return found.current
    if wanted in found.tags:
        return found.tags[wanted]
    ids = [move.snapshot for move in found.history]
    latest = tuple(dict.fromkeys(digest[:12] for digest in reversed(ids)))[:_LISTED]
    known = (*found.tags, *latest)
    back = re.fullmatch(r"~(\d{1,9})", wanted)
    if back:
        before = line(found)
        if int(back[1]) < len(before):
            return before[-1 - int(back[1])]
        count = len(before) - 1
        raise NotInStore(f"{reference} (snapshots before the current one: {count})", store.url, known)
    if len(wanted) >= _SHORTEST_ID and re.fullmatch(r"[0-9a-f]+", wanted):
        matches = {digest for digest in (*ids, *found.tags.values()) if digest.startswith(wanted)}
        if len(matches) == 1:
            return matches.pop()
        if matches:
            raise Usage(f"{reference} means {len(matches)} snapshots", "Give more digits of the id.")
    raise NotInStore(f"snapshot {str(reference)!r}", store.url, known, wanted)


def line(environment: Environment) -> list[str]:
    """The ids of the snapshots that lead to the current one, which is the last; what was rolled back is left out."""
    found: list[str] = []
    for step in environment.history:
        if step.action == ROLLBACK and step.snapshot in found:
            while found[-1] != step.snapshot:
                found.pop()
        elif found[-1:] != [step.snapshot]:
            found.append(step.snapshot)
    return found


def packed(environment: Environment, snapshot_id: str) -> Move | None:
    """The step by which the snapshot came, or came back where no other is left; None where the history has none."""
    steps = [each for each in reversed(environment.history) if each.snapshot == snapshot_id]
    return next((each for each in steps if each.action != ROLLBACK), steps[0] if steps else None)


def read_layer(store: Store, layer: Layer) -> bytes:
    """The layer's stored bytes, checked against its digest; raises Damaged, also where it is not there."""
    what = f"layer {layer.digest[:12]} in {store.url}"
    try:
        data = _read_named(store, layer_key(layer.digest), layer.digest)
    except NotInStore:
        raise Damaged(what, "it is missing") from None
    if data is None or len(data) != layer.size:
        raise Damaged(what, "its bytes are not those that its name stands for")
    return data


def has_snapshot(store: Store, digest: str) -> bool:
    return store.size(snapshot_key(digest)) is not None


def stored(store: Store, layers: Collection[Layer]) -> frozenset[str]:
    """The digests of those layers that are there, in full size."""
    sizes = {layer_key(layer.digest): layer.size for layer in layers}
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - a slow import that reading does without

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = dict(zip(sizes, pool.map(store.size, sizes), strict=True))
    return frozenset(each.digest for each in layers if found[layer_key(each.digest)] == each.size)


def check_layers(store: Store, layers: Collection[Layer]) -> None:
    """Raises LayersGone unless all of the layers are there, in full size."""
    there = stored(store, layers)
    gone = len({layer.digest for layer in layers if layer.digest not in there})
    if gone:
        raise LayersGone(store.url, gone)


def known_layers(store: Store) -> dict[str, tuple[str, int]]:
    """Digest and size, by diff_id, of the layers that the current snapshots of the store name.

    Snapshots are read for just that, and what cannot be read is passed over.
    """
    known: dict[str, tuple[str, int]] = {}
    for name in environments(store):
        try:
            current = read_environment(store, name)[0].current
            data = store.read(snapshot_key(current))
            layers = json.loads(data)["layers"] if name_of(data) == current else ()
            for layer in layers:
                if is_digest(layer["digest"]):
                    known[layer["diff_id"]] = layer["digest"], layer["size"]
        except (SnapperError, ValueError, KeyError, TypeError, RecursionError):
            continue
    return known


def write_snapshot(store: Store, digest: str, data: bytes) -> int:
    """Writes the snapshot, whose layers are there; how many bytes that added to the store.

    Raises Damaged where its bytes are not those of that id: what was read elsewhere need not have been canonical.
    """
    if name_of(data) != digest:
        raise Damaged(f"snapshot {digest[:12]}", "it is not canonical JSON")
    return len(data) if store.put(snapshot_key(digest), data) else 0


def move(
    store: Store, name: str, step: Move, seen: tuple[Environment, str] | None, *, force: bool = False
) -> None:
    """Makes the step's snapshot the current one of the environment, which was `seen` (None: was not there).

    Raises Moved where the environment is no longer as it was seen; with `force`, the step is put behind what others
    have put there.
    """
    while True:
        try:
            if seen is None:
                _replace(store, Environment(FORMAT, name, step.snapshot, (step,), {}), None)
            else:
                found, version = seen
                moved = replace(found, current=step.snapshot, history=(*found.history, step))
                _replace(store, moved, version)
            return
        except Moved:
            if not force:
                raise
            seen = find_environment(store, name)


def find_environment(store: Store, name: str) -> tuple[Environment, str] | None:
    """As `read_environment`, but None where there is no such environment."""
    try:
        return read_environment(store, name)
    except NotInStore:
        return None


def change_tags(store: Store, seen: tuple[Environment, str], tags: dict[str, str]) -> None:
    """Gives the environment, which was `seen`, these tags; raises Moved where it is no longer as it was seen."""
    found, version = seen
    _replace(store, replace(found, tags=tags), version)


def trim(store: Store, seen: tuple[Environment, str], kept: Environment) -> None:
    """Leaves of the environment, which was `seen`, what is kept; raises Moved where it is no longer so."""
    _replace(store, kept, seen[1])


def forget(store: Store, name: str, version: str) -> None:
    """Removes the environment's entry; raises Moved where it is no longer at the version, NotInStore."""
    try:
        gone = store.delete(environment_key(name), version)
    except VersionMismatch:
        raise _moved(store, name) from None
    if not gone:
        raise NotInStore(f"environment {name!r}", store.url)


def _replace(store: Store, changed: Environment, version: str | None) -> None:
    try:
        store.replace(environment_key(changed.name), canonical.encode(changed), version)
    except VersionMismatch:
        raise _moved(store, changed.name) from None


def _moved(store: Store, name: str) -> SnapperError:
    """Who was quicker, as far as can be known."""
    try:
        latest = read_environment(store, name)[0].latest
    except SnapperError as error:
        return error
    return Moved(name, f"{latest.user}@{latest.host}", latest.time)


def _decode(kind: type[canonical.T], data: bytes, what: str) -> canonical.T:
    """The document, after a look at its format number."""
    try:
        fields = canonical.parse(data)
        found = fields.get("format") if isinstance(fields, dict) else None
        if type(found) is int and found > FORMAT:
            raise NewerFormat(what, found, FORMAT)
        if found != FORMAT:
            raise Damaged(what, "it names no format")
        return canonical.decode(kind, fields)
    except canonical.Malformed as error:
        raise Damaged(what, str(error)) from None


@dataclass(frozen=True)
class Entry:
    """An environment of the store, or the error that reading it gave."""

    name: str
    environment: Environment | None
    error: SnapperError | None = None


def survey(store: Store) -> Iterator[Entry]:
    """All environments of the store; one that cannot be read does not hide the others."""
    for name in environments(store):
        try:
            yield Entry(name, read_environment(store, name)[0])
        except SnapperError as error:
            yield Entry(name, None, error)
