"""Verify: whether what a store holds is good, and whether an environment on disk is what its snapshot says."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Iterable, Mapping, Set
from contextlib import closing
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from snapper.checks import pages
from snapper.checks.audit import MISSING, AuditJob, AuditResult, audit_layer
from snapper.checks.compare import FileDifference, compare_environment
from snapper.environment.installed import InstalledEnvironment
from snapper.errors import Corrupted, NotInStore, SnapperError, UnsupportedFormat, UsageError
from snapper.format import canonical
from snapper.format.layout import Layout, ObjectKind
from snapper.format.manifest import Manifest
from snapper.format.model import Layer
from snapper.process.pool import WorkerPool
from snapper.process.progress import NO_PROGRESS, Progress
from snapper.repository.refs import decode_ref, environment_names, referenced_snapshots
from snapper.repository.snapshots import decode_manifest, read_snapshot
from snapper.repository.specs import SnapshotSpec, resolve_spec
from snapper.store import ObjectInfo, Store


@dataclass(frozen=True)
class LayerSample:
    """Which layers to read: `share` of them, by chance, or the `number`th of `of` parts, which together are all.
    What is drawn by one `lot` is the same each time.
    """

    share: float = 1.0
    number: int = 0
    of: int = 1
    lot: int = 0

    @classmethod
    def parse(cls, text: str) -> LayerSample:
        """From `all`, `5%` or `1/7`; raises UsageError for anything else."""
        if text == "all":
            return cls()
        percent = re.fullmatch(r"(\d{1,3}(?:\.\d{1,6})?)%", text)
        if percent and 0 < float(percent[1]) <= 100:
            return cls(share=float(percent[1]) / 100, lot=secrets.randbits(64))
        fraction = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if fraction and 1 <= int(fraction[1]) <= int(fraction[2]):
            return cls(number=int(fraction[1]) - 1, of=int(fraction[2]))
        raise UsageError(
            f"--data={text}: not a valid fraction",
            "Use --data, --data=5%, or one of N parts such as --data=1/7.",
        )

    def chosen(self, digests: Iterable[str]) -> list[str]:
        found = [each for each in sorted(digests) if int(each[-8:], 16) % self.of == self.number]
        if self.share == 1.0:
            return found
        drawn = sorted(found, key=lambda digest: sha256(f"{self.lot} {digest}".encode()).digest())
        return sorted(drawn[: max(1, round(len(found) * self.share))])


@dataclass(frozen=True)
class Problem:
    """An object of the store that is not right, and the environments that need it."""

    key: str
    reason: str
    environments: tuple[str, ...]


@dataclass(frozen=True)
class VerifyResult:
    """What was found. Of the `layers` there are, so many were `read`, of `size` bytes."""

    environments: int
    snapshots: int
    layers: int
    read: int
    size: int
    problems: tuple[Problem, ...]

    def without(self, keys: Collection[str]) -> VerifyResult:
        """The same once these objects are good."""
        return replace(self, problems=tuple(each for each in self.problems if each.key not in keys))


def verify_store(
    store: Store,
    part: LayerSample | None = None,
    *,
    jobs: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> VerifyResult:
    """Checks the store's objects against their names and each other, and reads the layers of a part, if one is given.

    What others do to the store meanwhile is no problem: what is not right is looked at again. Raises what the store
    raises.
    """
    run = _Run(store)
    run.look()
    chosen = part.chosen(run.layers) if part else []
    if chosen:
        run.read(chosen, jobs, progress)
    if run.problems:
        run.confirm()
    return VerifyResult(
        environments=run.environments,
        snapshots=len(run.snapshots),
        layers=len(run.layers),
        read=len(chosen),
        size=sum(run.layers[digest].size for digest in chosen),
        problems=tuple(
            Problem(key, reason, tuple(sorted(run.needed_by.get(key, ()))))
            for key, reason in sorted(run.problems.items())
        ),
    )


@dataclass(frozen=True)
class EnvironmentCheck:
    """What an environment on disk is beside its snapshot."""

    environment: str
    prefix: str
    snapshot_id: str
    different: tuple[FileDifference, ...]


def verify_environment(
    store: Store,
    prefix: Path,
    reference: SnapshotSpec | None = None,
    *,
    jobs: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> EnvironmentCheck:
    """Holds every byte of the environment at the prefix against the snapshot that it was packed as or restored from,
    or the one that is named. Raises UsageError where neither is known, NotAnEnvironment, NotInStore, Corrupted.
    """
    installed = InstalledEnvironment(prefix)
    _ = installed.tree  # raises NotAnEnvironment before anything is read from the store
    found = installed.state
    if reference is not None and reference.snapshot:
        snapshot_id = resolve_spec(store, reference)[1]
    elif found is not None:
        snapshot_id = found.snapshot
    else:
        raise UsageError(
            f"cannot tell which snapshot {prefix} is",
            "Give it: snapper verify ENV@SNAPSHOT --prefix DIR.",
        )
    snapshot = read_snapshot(store, snapshot_id)
    with WorkerPool(store, jobs) as workers:
        progress.start(f"Verifying {prefix.name}", snapshot.size)
        different = compare_environment(snapshot, installed, workers, progress)
    progress.done()
    return EnvironmentCheck(found.environment if found else prefix.name, str(prefix), snapshot_id, different)


class _Run:
    """The objects of a store, and what is wrong with them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.environments = 0
        self.problems: dict[str, str] = {}
        self.needed_by: dict[str, set[str]] = {}
        self.described: dict[str, dict[Layer, set[str]]] = {}  # and the pages that say so
        self.users: dict[str, set[str]] = {}  # the snapshots that have a page
        self.seen: Set[str] = frozenset()  # the problems that only reading layers shows
        self.snapshots: dict[str, ObjectInfo] = {}
        self.layers: dict[str, ObjectInfo] = {}

    def look(self) -> None:
        """Reads all but layers."""
        self._list()
        named = self._entries()
        documents = {each: self._document(each) for each in sorted(self.snapshots.keys() | named.keys())}
        for snapshot_id in documents:
            self.needed_by[Layout.snapshot(snapshot_id)] = named.get(snapshot_id, set())
        found = {each: document for each, document in documents.items() if document}
        for snapshot_id, document in found.items():
            for page in document.pages:
                self.users.setdefault(page.digest, set()).add(snapshot_id)
                needed_by = self.needed_by.setdefault(Layout.page(page.digest), set())
                needed_by.update(named.get(snapshot_id, ()))
        contents = {}
        for digest, content in pages.look(self.store, found.values()):
            if isinstance(content, str):
                self.problems[Layout.page(digest)] = content
                continue
            contents[digest] = content
            for layer in content.layers or ():
                self.described.setdefault(layer.digest, {}).setdefault(layer, set()).add(digest)
                needed_by = self.needed_by.setdefault(Layout.layer(layer.digest), set())
                needed_by.update(self.needed_by[Layout.page(digest)])
        for digest, described in self.described.items():
            self._weigh(digest, described)
        for snapshot_id, document in found.items():
            reason = pages.disagreement(document, contents)
            if reason:
                self.problems[Layout.snapshot(snapshot_id)] = reason

    def read(self, digests: Iterable[str], jobs: int | None, progress: Progress) -> None:
        """Reads these layers."""
        before = set(self.problems)
        with WorkerPool(self.store, jobs) as workers:
            numbers = {
                workers.submit(
                    audit_layer,
                    AuditJob(digest, tuple(self.described.get(digest, ()))),
                    self.layers[digest].size,
                ): digest
                for digest in digests
            }
            progress.start("Reading layers", sum(self.layers[digest].size for digest in numbers.values()))
            with closing(workers.results()) as results:
                for number, found in results:
                    self._audited(numbers[number], found)
                    progress.advance(self.layers[numbers[number]].size)
        progress.done()
        self.seen = self.problems.keys() - before

    def _audited(self, digest: str, found: AuditResult) -> None:
        if found.reason:
            self.problems.setdefault(Layout.layer(digest), found.reason)
        for layer, reason in found.false:
            self._blame(
                self.described[digest][layer], f"its entry for layer {digest[:12]} is wrong: {reason}"
            )

    def confirm(self) -> None:
        """Looks once more, and forgets what is not so any more: packs and prunes may have been at work meanwhile."""
        again = _Run(self.store)
        again.look()
        seen = {key for key in self.seen if self.problems[key] != MISSING}
        self.problems = {
            key: reason for key, reason in self.problems.items() if key in seen or key in again.problems
        }

    def _list(self) -> None:
        for info in (info for prefix in Layout.PREFIXES for info in self.store.list_objects(prefix)):
            parsed = Layout.parse(info.key)
            if parsed is None:
                self.problems[info.key] = "it does not belong in a store"
            elif parsed.kind is ObjectKind.SNAPSHOT:
                self.snapshots[parsed.name] = info
            elif parsed.kind is ObjectKind.LAYER:
                self.layers[parsed.name] = info

    def _entries(self) -> dict[str, set[str]]:
        """The snapshots that entries name, each with the environments that do."""
        named: dict[str, set[str]] = {}
        for name in environment_names(self.store):
            self.environments += 1
            key = Layout.ref(name)
            self.needed_by[key] = {name}
            try:
                data = self.store.read(key)
                found = decode_ref(self.store, name, data)
            except SnapperError as error:
                self._note(key, error)
                continue
            if canonical.encode(found) != data:
                self.problems[key] = "it is not canonical JSON"
            for snapshot_id in referenced_snapshots(found):
                named.setdefault(snapshot_id, set()).add(name)
        return named

    def _document(self, snapshot_id: str) -> Manifest | None:
        key = Layout.snapshot(snapshot_id)
        try:
            data = self.store.read(key)
            found = decode_manifest(self.store, snapshot_id, data)
        except SnapperError as error:
            self._note(key, error)
            return None
        if canonical.encode(found) != data:
            self.problems[key] = "it is not canonical JSON"
        return found

    def _note(self, key: str, error: SnapperError) -> None:
        """Takes what concerns one object for its problem; raises the others again."""
        if isinstance(error, NotInStore):
            self.problems[key] = MISSING
        elif isinstance(error, Corrupted):
            self.problems[key] = error.reason
        elif isinstance(error, UnsupportedFormat):
            self.problems[key] = (
                f"it has format {error.found}; this version of snapper supports formats up to {error.known}"
            )
        else:
            raise error

    def _weigh(self, digest: str, described: Mapping[Layer, set[str]]) -> None:
        """Looks whether the layer is there in the size that snapshots say. Where they do not agree, one that is right
        shows that the others are wrong.
        """
        key, stored = Layout.layer(digest), self.layers.get(digest)
        if stored is None:
            self.problems[key] = MISSING
            return
        agreed = any(layer.size == stored.size for layer in described)
        for layer, having in described.items():
            if layer.size == stored.size:
                continue
            if agreed:
                self._blame(
                    having,
                    f"it lists layer {digest[:12]} with {layer.size:,} bytes instead of {stored.size:,}",
                )
            else:
                self.problems[key] = f"it has {stored.size:,} bytes instead of {layer.size:,}"

    def _blame(self, having: Iterable[str], reason: str) -> None:
        """Takes what pages say that is not so for a problem of the snapshots that have these."""
        for snapshot_id in (each for page in having for each in self.users[page]):
            self.problems.setdefault(Layout.snapshot(snapshot_id), reason)
