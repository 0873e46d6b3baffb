"""Check the objects of a store against their names and against each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from types import MappingProxyType

from snapper.checks.audit import MISSING, AuditJob, AuditResult, audit_layer
from snapper.checks.pages import PageContent, check_pages, find_mismatch
from snapper.errors import Corrupted, NotInStore, SnapperError, StoreRefused, UnsupportedFormat
from snapper.format import canonical
from snapper.format.layout import Layout, ObjectKind
from snapper.format.manifest import Manifest
from snapper.format.model import Layer
from snapper.process.pool import WorkerPool
from snapper.process.progress import Progress
from snapper.repository.refs import decode_ref, environment_names, referenced_snapshots
from snapper.repository.snapshots import decode_manifest
from snapper.store import ObjectInfo, Store

_NOT_CANONICAL = "it is not canonical JSON"


@dataclass(frozen=True)
class Problem:
    """Something wrong with an object of the store, and the environments that need the object."""

    key: str
    reason: str
    environments: tuple[str, ...]


class StoreCheck:
    """One check of a store. It first reads everything but layers; `check_layers` reads these, too.

    Pages that are known are not read. Raises what the store raises, except about a single object.
    """

    def __init__(self, store: Store, known_pages: Mapping[str, PageContent] = MappingProxyType({})) -> None:
        self._store = store
        #: The contents of valid pages, by their digests.
        self._pages = dict(known_pages)
        self._problems: dict[str, str] = {}
        self._references = _References()
        #: Problems that only reading layers can show.
        self._layer_problems: frozenset[str] = frozenset()
        self.environments = 0
        self.snapshots: dict[str, ObjectInfo] = {}
        self.layers: dict[str, ObjectInfo] = {}
        self._check_metadata()

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is wrong, by key."""
        return tuple(
            Problem(key, reason, self._references.environments(key))
            for key, reason in sorted(self._problems.items())
        )

    def check_layers(self, digests: Iterable[str], jobs: int | None, progress: Progress) -> None:
        """Read these layers, and check them against what snapshots say about them."""
        before = frozenset(self._problems)
        with WorkerPool(self._store, jobs) as workers:
            submitted: dict[int, str] = {}
            for digest in digests:
                job = AuditJob(digest, self._references.descriptions(digest))
                label = f"reading layer {digest[:12]}"
                submitted[workers.submit(audit_layer, job, self.layers[digest].size, label=label)] = digest
            progress.start("Reading layers", sum(self.layers[digest].size for digest in submitted.values()))
            with closing(workers.results()) as results:
                for number, result in results:
                    digest = submitted[number]
                    self._add_audit(digest, result)
                    progress.advance(self.layers[digest].size)
        progress.done()
        self._layer_problems = frozenset(self._problems) - before

    def confirm(self) -> None:
        """Read everything but layers and valid pages again, and keep only what is still a problem.

        Packs and prunes that ran during the check can look like problems.
        """
        again = StoreCheck(self._store, self._pages)
        lasting = {key for key in self._layer_problems if self._problems[key] != MISSING}
        lasting |= again._problems.keys()
        self._problems = {key: reason for key, reason in self._problems.items() if key in lasting}

    def _check_metadata(self) -> None:
        self._list_objects()
        manifests = self._read_manifests(self._read_refs())
        self._read_pages(manifests)
        for digest in self._references.described_layers():
            self._check_layer_size(digest)
        for snapshot_id, document in manifests.items():
            mismatch = find_mismatch(document, self._pages)
            if mismatch:
                self._problems[Layout.snapshot(snapshot_id)] = mismatch

    def _list_objects(self) -> None:
        for prefix in Layout.PREFIXES:
            for info in self._store.list_objects(prefix):
                parsed = Layout.parse(info.key)
                if parsed is None:
                    self._problems[info.key] = "it does not belong in a store"
                elif parsed.kind is ObjectKind.SNAPSHOT:
                    self.snapshots[parsed.name] = info
                elif parsed.kind is ObjectKind.LAYER:
                    self.layers[parsed.name] = info

    def _read_refs(self) -> Mapping[str, set[str]]:
        """Return the ids of all snapshots that refs mention, with the environments whose refs do."""
        mentioned: dict[str, set[str]] = defaultdict(set)
        for name in environment_names(self._store):
            self.environments += 1
            key = Layout.ref(name)
            self._references.add_environments(key, [name])
            try:
                data = self._store.read(key)
                ref = decode_ref(self._store, name, data)
            except SnapperError as error:
                self._add_error(key, error)
                continue
            if canonical.encode(ref) != data:
                self._problems[key] = _NOT_CANONICAL
            for snapshot_id in referenced_snapshots(ref):
                mentioned[snapshot_id].add(name)
        return mentioned

    def _read_manifests(self, mentioned: Mapping[str, set[str]]) -> dict[str, Manifest]:
        """Return the valid manifests, by their ids."""
        manifests = {}
        for snapshot_id in sorted(self.snapshots.keys() | mentioned.keys()):
            environments = mentioned.get(snapshot_id, set())
            self._references.add_environments(Layout.snapshot(snapshot_id), environments)
            document = self._read_manifest(snapshot_id)
            if document is None:
                continue
            manifests[snapshot_id] = document
            for page in document.pages:
                self._references.add_page(page.digest, snapshot_id, environments)
        return manifests

    def _read_manifest(self, snapshot_id: str) -> Manifest | None:
        key = Layout.snapshot(snapshot_id)
        try:
            data = self._store.read(key)
            document = decode_manifest(self._store, snapshot_id, data)
        except SnapperError as error:
            self._add_error(key, error)
            return None
        if canonical.encode(document) != data:
            self._problems[key] = _NOT_CANONICAL
        return document

    def _read_pages(self, manifests: Mapping[str, Manifest]) -> None:
        for page in check_pages(self._store, manifests.values(), self._pages):
            if page.content is None:
                self._problems[Layout.page(page.digest)] = page.problem
                continue
            self._pages[page.digest] = page.content
            for layer in page.content.layers or ():
                self._references.add_layer(layer, page.digest)

    def _check_layer_size(self, digest: str) -> None:
        """Check that the layer exists in its described size. If one description is right, blame the others; if none is,
        blame the layer.
        """
        key, stored = Layout.layer(digest), self.layers.get(digest)
        if stored is None:
            self._problems[key] = MISSING
            return
        if stored.archived and self._store.inspect(key) is None:
            self._problems[key] = stored.archived
            return
        descriptions = self._references.descriptions(digest)
        is_right = any(layer.size == stored.size for layer in descriptions)
        for layer in descriptions:
            if layer.size == stored.size:
                continue
            if is_right:
                self._blame_snapshots(
                    layer,
                    f"it lists layer {digest[:12]} with {layer.size:,} bytes instead of {stored.size:,}",
                )
            else:
                self._problems[key] = f"it has {stored.size:,} bytes instead of {layer.size:,}"

    def _add_audit(self, digest: str, result: AuditResult) -> None:
        if result.reason:
            self._problems.setdefault(Layout.layer(digest), result.reason)
        for layer, reason in result.false:
            self._blame_snapshots(layer, f"its entry for layer {digest[:12]} is wrong: {reason}")

    def _blame_snapshots(self, layer: Layer, reason: str) -> None:
        """Record a wrong description of a layer as a problem of the snapshots that contain it."""
        for snapshot_id in self._references.snapshots_with(layer):
            self._problems.setdefault(Layout.snapshot(snapshot_id), reason)

    def _add_error(self, key: str, error: SnapperError) -> None:
        """Record an error about one object as its problem; raise any other error."""
        if isinstance(error, NotInStore):
            self._problems[key] = MISSING
        elif isinstance(error, Corrupted) or (isinstance(error, StoreRefused) and error.unreadable):
            self._problems[key] = error.reason
        elif isinstance(error, UnsupportedFormat):
            self._problems[key] = (
                f"it has format {error.found}; this version of snapper supports formats up to {error.known}"
            )
        else:
            raise error


class _References:
    """Which environments need an object, which snapshots have a page, and which pages describe a layer."""

    def __init__(self) -> None:
        self._environments: dict[str, set[str]] = defaultdict(set)  # by key
        self._snapshots: dict[str, set[str]] = defaultdict(set)  # by a page's digest
        self._descriptions: dict[str, dict[Layer, set[str]]] = defaultdict(dict)  # by a layer's digest; pages

    def add_environments(self, key: str, environments: Iterable[str]) -> None:
        self._environments[key].update(environments)

    def add_page(self, digest: str, snapshot_id: str, environments: Iterable[str]) -> None:
        self._snapshots[digest].add(snapshot_id)
        self.add_environments(Layout.page(digest), environments)

    def add_layer(self, layer: Layer, page_digest: str) -> None:
        """Record a layer of a page. All snapshots with that page must have been added."""
        self._descriptions[layer.digest].setdefault(layer, set()).add(page_digest)
        self.add_environments(Layout.layer(layer.digest), self._environments[Layout.page(page_digest)])

    def environments(self, key: str) -> tuple[str, ...]:
        """Return the environments that need the object, by name."""
        return tuple(sorted(self._environments.get(key, ())))

    def described_layers(self) -> Iterable[str]:
        """Return the digests of all layers that pages describe."""
        return self._descriptions.keys()

    def descriptions(self, digest: str) -> tuple[Layer, ...]:
        """Return the different descriptions of the layer."""
        return tuple(self._descriptions.get(digest, ()))

    def snapshots_with(self, layer: Layer) -> Iterator[str]:
        """Yield the snapshots with a page that has this description of the layer."""
        for page_digest in self._descriptions[layer.digest][layer]:
            yield from self._snapshots[page_digest]
