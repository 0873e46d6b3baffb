"""Environments, snapshots, their pages, and layers as objects of a store."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from snapper.errors import Damaged, LayersGone, Moved, NewerFormat, NotInStore, SnapperError, Usage
from snapper.format import canonical, manifest
from snapper.format.manifest import Decoder, Document, Manifest
from snapper.format.model import FORMAT, Environment, Layer, Move, Page, Snapshot, is_name, name_of
from snapper.objects import at_once, has_all, look_at_pages, page_key, read_named, read_pages, read_whole
from snapper.store import Store, VersionMismatch

#: The action of a step that made an earlier snapshot current again.
ROLLBACK = "rollback"

_ENVIRONMENTS = "environments/"
_SHORTEST_ID = 4
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
        advice = advice or ("A directory is named with --prefix." if "/" in name else "")
        rule = "Use letters, digits, '_', '.', '+' and '-', 128 at most, and begin with a letter or digit."
        raise Usage(f"{name!r} cannot name an environment", f"{rule} {advice}".rstrip())
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
    what = f"environment {name!r} in {store.url}"
    advice = (
        f"Put an earlier copy of {environment_key(name)} back where there is one (a backup, the bucket's versions). "
        f"Else take it out (snapper remove {name} --yes) and pack the environment again."
    )
    with _decoding(what, advice):
        found = _decode(Environment, data, what)
        if found.name != name:
            raise canonical.Malformed(f"it says that it is {found.name!r}")
    return found


def read_snapshot(store: Store, digest: str, decoder: Decoder | None = None) -> Snapshot:
    """The snapshot of that id, its bytes and those of its pages checked against their names; pages that the decoder
    knows are not read again. Raises NotInStore, Damaged, NewerFormat.
    """
    decoder = decoder or Decoder()
    document = read_document(store, digest)
    pages = read_pages(store, decoder.unknown(document))
    with _decoding(f"snapshot {digest[:12]} in {store.url}"):
        return decoder.decode(document, pages)


def read_document(store: Store, digest: str) -> Document:
    """What is stored under the snapshot's id, checked against it; raises NotInStore, Damaged, NewerFormat."""
    return decode_document(store, digest, _read_document(store, digest))


def look_at_layers(
    store: Store, pages: Iterable[Page]
) -> Iterator[tuple[Page, tuple[Layer, ...] | SnapperError]]:
    """These pages, each once, with the layers on it or with what is wrong with it."""
    for page, data in look_at_pages(store, pages):
        if isinstance(data, SnapperError):
            yield page, data
            continue
        try:
            yield page, manifest.decode_page(Layer, page, data)
        except canonical.Malformed as error:
            yield page, Damaged(f"page {page.digest[:12]} in {store.url}", str(error))


def read_manifest(store: Store, digest: str) -> Manifest:
    """The snapshot's bytes, checked in the same way; raises NotInStore, Damaged, NewerFormat."""
    data = _read_document(store, digest)
    return Manifest(digest, data, read_pages(store, decode_document(store, digest, data).pages))


def decode_manifest(store: Store, snapshot: Manifest) -> Snapshot:
    """The snapshot whose bytes were read from the store; raises Damaged."""
    with _decoding(f"snapshot {snapshot.digest[:12]} in {store.url}"):
        return manifest.decode(snapshot)


def _read_document(store: Store, digest: str) -> bytes:
    try:
        return read_named(store, snapshot_key(digest), digest) or b""
    except NotInStore:
        raise NotInStore(f"snapshot {digest[:12]}", store.url) from None


def decode_document(store: Store, digest: str, data: bytes) -> Document:
    """The document of these bytes, which are checked against the snapshot's id; raises Damaged, NewerFormat."""
    what = f"snapshot {digest[:12]} in {store.url}"
    if name_of(data) != digest:
        raise Damaged(what, "its bytes are not those that its name stands for")
    with _decoding(what):
        return _decode(Document, data, what)


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
    return read_whole(store, what, layer_key(layer.digest), layer.digest, layer.size)


def has_snapshot(store: Store, digest: str) -> bool:
    return store.size(snapshot_key(digest)) is not None


def has_manifest(store: Store, snapshot: Manifest) -> bool:
    """Whether the snapshot and its pages are there, in full size."""
    sizes = {page_key(digest): len(data) for digest, data in snapshot.pages.items()}
    sizes[snapshot_key(snapshot.digest)] = len(snapshot.document)
    return has_all(store, sizes)


def stored(store: Store, layers: Collection[Layer]) -> frozenset[str]:
    """The digests of those layers that are there, in full size."""
    sizes = {layer_key(layer.digest): layer.size for layer in layers}
    found = dict(zip(sizes, at_once(store.size, sizes), strict=True))
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
    pages: list[Page] = []
    for name in environments(store):
        with suppress(SnapperError):
            pages += read_document(store, read_environment(store, name)[0].current).layers
    return {
        layer.diff_id: (layer.digest, layer.size)
        for _, found in look_at_layers(store, pages)
        if not isinstance(found, SnapperError)
        for layer in found
    }


def write_snapshot(store: Store, snapshot: Manifest) -> int:
    """Writes the snapshot, whose layers and pages are there; how many bytes that added to the store."""
    written = store.put(snapshot_key(snapshot.digest), snapshot.document)
    return len(snapshot.document) if written else 0


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
    """The document, after a look at its format number; raises NewerFormat, Malformed."""
    fields = canonical.parse(data)
    found = fields.get("format") if isinstance(fields, dict) else None
    if type(found) is int and found > FORMAT:
        raise NewerFormat(what, found, FORMAT)
    if found != FORMAT:
        raise canonical.Malformed("it names no format")
    return canonical.decode(kind, fields)


@contextmanager
def _decoding(what: str, advice: str = "") -> Iterator[None]:
    """Raises Damaged for what is not as its type demands."""
    try:
        yield
    except canonical.Malformed as error:
        raise Damaged(what, str(error), advice) from None


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
