"""Manifests and their pages: equal snapshots have equal bytes, similar ones share pages, invalid ones are refused."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapper.commands.log import read_log
from snapper.commands.prune import prune
from snapper.commands.repair import repair_objects
from snapper.commands.restore import RestoreResult
from snapper.commands.retention import RetentionPolicy
from snapper.commands.verify import verify_store
from snapper.environment import state
from snapper.errors import Corrupted, ManifestTooLarge, NotInStore, TooManyPackages
from snapper.format import canonical, manifest
from snapper.format.layout import Layout
from snapper.format.manifest import EncodedSnapshot
from snapper.format.model import (
    FORMAT,
    Continuation,
    Layer,
    Package,
    Page,
    PipPackage,
    Ref,
    Snapshot,
    sha256_hex,
)
from snapper.repository import objects
from snapper.repository.known_layers import known_layers
from snapper.repository.objects import iter_pages, write_pages
from snapper.repository.refs import read_ref
from snapper.repository.snapshots import read_encoded_snapshot, read_snapshot, write_snapshot
from snapper.store import Store, open_store
from snapper.store.local import LocalStore
from tests.support.documents import sample_snapshot
from tests.support.layers import META, encode_member, pack_members
from tests.support.reader import Reader
from tests.support.sandbox import point_ref, publish_layers, put_snapshot, restore_work, work_prefix

NAMES = st.lists(st.text("ab-", min_size=1, max_size=6), max_size=60)


def package(name: str, version: str = "1") -> Package:
    return Package(name, version, "0", "linux-64", "conda-forge", f"https://host/{name}")


def layer_of(name: str, number: int = 0, version: str = "1") -> Layer:
    digest = sha256_hex(f"{name} {number} {version}".encode())
    return Layer(digest, 10, digest, 512, "package", f"{name}-{version}-0", 1, ())


def large(names: list[str], version: str = "1") -> Snapshot:
    """Return a snapshot with these packages; the first has this version."""
    versions = [version, *itertools.repeat("1", len(names))]
    return sample_snapshot(
        packages=tuple(package(name, each) for name, each in zip(names, versions, strict=False)),
        layers=tuple(
            layer_of(name, 2 * names[:position].count(name) + number, each)  # no layer is listed twice
            for position, (name, each) in enumerate(zip(names, versions, strict=False))
            for number in (0, 1)
        ),
    )


def document_of(found: Snapshot) -> manifest.Manifest:
    return canonical.decode(manifest.Manifest, canonical.parse(manifest.encode(found).document))


MANY = [f"package{number:03}" for number in range(300)]


@given(NAMES)
def test_encode_and_decode(names: list[str]) -> None:
    found = large(names)
    encoded = manifest.encode(found)
    assert manifest.decode(encoded) == manifest.decode(EncodedSnapshot.parse(encoded.joined())) == found
    assert EncodedSnapshot.parse(encoded.joined()) == encoded
    assert encoded.digest == sha256_hex(encoded.document)
    assert all(sha256_hex(data) == digest for digest, data in encoded.pages.items())


def test_pages_that_the_last_snapshot_does_not_have_are_forgotten() -> None:
    """A history can refer to any number of them."""
    first, second = (manifest.encode(large(MANY, version)) for version in ("1", "2"))
    documents = [document_of(large(MANY, version)) for version in ("1", "2")]
    decoder = manifest.SnapshotDecoder()
    decoder.decode(documents[0], first.pages)
    added = decoder.unknown(documents[1])
    assert 0 < len(added) < len(documents[1].pages) / 2
    decoder.decode(documents[1], {page.digest: second.pages[page.digest] for page in added})
    assert {page.digest for page in decoder.unknown(documents[0])} == first.pages.keys() - second.pages.keys()


def test_the_id_of_a_snapshot_does_not_depend_on_the_writer() -> None:
    """The division into pages is part of the format, which an independent reader verifies; so is this id."""
    assert manifest.encode(large(MANY)).digest == (
        "4c018187803d7a896160b260319637875e8be86408dbc1cc5b4efd8090d93ad3"
    )


def test_a_list_may_contain_the_same_page_twice() -> None:
    """The same items far apart in a list are on equal pages."""
    found = large([*MANY, *MANY])
    assert manifest.decode(manifest.encode(found)) == found
    pages = [page.digest for page in document_of(found).packages]
    assert len(pages) > len(set(pages))


def test_layers_cannot_have_more_members_than_headers_fit() -> None:
    """Space for files is reserved by their number, which is known to be false only when the layer has been read."""
    encoded = manifest.encode(sample_snapshot(layers=(layer_of("a"),)))
    pages = [page.replace(b'"members":1', b'"members":2') for page in encoded.pages.values()]
    document = encoded.document
    for page, changed in zip(encoded.pages, pages, strict=True):
        document = document.replace(page.encode(), sha256_hex(changed).encode())
    with pytest.raises(canonical.MalformedDocument, match="a layer of 512 bytes cannot have 2 members"):
        manifest.decode(EncodedSnapshot(sha256_hex(document), document, {sha256_hex(p): p for p in pages}))


def test_a_layer_with_members_is_listed_once() -> None:
    """Parts of a large file can be equal. Anything else would be written to the same paths twice."""
    first, part = layer_of("a"), replace(layer_of("a", 1), members=0)
    parts = [replace(part, begins=Continuation("x", offset, 200, 0)) for offset in (50, 100)]
    accepted = sample_snapshot(layers=(first, *parts))
    assert manifest.decode(manifest.encode(accepted)) == accepted
    for layers in ((first, first), (first, part, part), (first, *parts, first)):
        with pytest.raises(canonical.MalformedDocument, match="listed twice"):
            manifest.decode(manifest.encode(sample_snapshot(layers=layers)))


@pytest.mark.parametrize(
    "changes",
    [
        {"owner": "another-1-0"},
        {"kind": "files"},
        {"begins": Continuation("y", 100, 200, 0)},
        {"begins": Continuation("x", 100, 300, 0)},
        {"begins": Continuation("x", 50, 200, 0)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_parts_of_a_file_follow_each_other(changes: dict[str, Any]) -> None:
    """What is done once for a file, such as computing its checksum, would otherwise be done for each of its parts."""
    first, part = layer_of("a"), replace(layer_of("a", 1), members=0, begins=Continuation("x", 50, 200, 0))
    wrong = replace(part, **{"begins": Continuation("x", 100, 200, 0), **changes})
    for layers in ((first, part, wrong), (first, part, layer_of("a", 2), part)):
        with pytest.raises(canonical.MalformedDocument, match="does not continue"):
            manifest.decode(manifest.encode(sample_snapshot(layers=layers)))


@pytest.mark.parametrize("changed", [0, 150, 299])
def test_small_changes_affect_few_pages(changed: int) -> None:
    """A package is added, removed, or changes its version: few of the pages are new."""
    before = manifest.encode(large(MANY)).pages
    assert len(before) > 60
    assert max(map(len, before.values())) < 12_000
    others = (
        large([*MANY[:changed], "new", *MANY[changed:]]),
        large(MANY[:changed] + MANY[changed + 1 :]),
        large([*MANY[:changed], f"{MANY[changed]}-more", *MANY[changed + 1 :]]),
    )
    for other in others:
        after = manifest.encode(other).pages
        assert 1 <= len(after.keys() - before.keys()) <= 6


def test_layers_of_one_package_are_adjacent() -> None:
    layers = tuple(layer_of("large", number) for number in range(500))
    assert len(manifest.encode(sample_snapshot(layers=layers)).pages) == 2


# --- in a store -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counting(LocalStore):
    """A store that records which keys are read."""

    seen: list[str] = field(default_factory=list, compare=False)

    def read(self, key: str, *limit: int) -> bytes:
        self.seen.append(key)
        return super().read(key, *limit)

    def pages(self) -> list[str]:
        return [key for key in self.seen if key.startswith("pages/")]


@pytest.fixture
def store(tmp_path: Path) -> Counting:
    """Return a store with an environment `work` that has one snapshot."""
    open_store(str(tmp_path / "store"), create=True)
    store = Counting(tmp_path / "store", identity=LocalStore.opened(tmp_path / "store").identity)
    publish_layers(store, [pack_members(encode_member(META))])
    return store


def current(store: Store) -> Snapshot:
    return read_snapshot(store, read_ref(store, "work").ref.current)


def encode_with_small_pages(found: Snapshot) -> EncodedSnapshot:
    """Encode the snapshot with each item on its own page."""
    document = document_of(found)
    packages, layers = (
        [canonical.encode([item]) for item in items] for items in (found.packages, found.layers)
    )
    data = canonical.encode(
        replace(
            document,
            packages=tuple(Page(sha256_hex(page), len(page)) for page in packages),
            layers=tuple(Page(sha256_hex(page), len(page)) for page in layers),
        )
    )
    return EncodedSnapshot(sha256_hex(data), data, {sha256_hex(page): page for page in packages + layers})


def test_any_division_into_pages_can_be_read(store: Counting) -> None:
    found = large(MANY[:20])
    other = encode_with_small_pages(found)
    write_pages(store, other.pages)
    write_snapshot(store, other)
    assert other.digest != manifest.encode(found).digest
    assert read_snapshot(store, other.digest) == found
    assert read_encoded_snapshot(store, other.digest) == other


def test_restored_environments_keep_the_id_of_the_writer(
    store: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the next restore could not link unchanged files."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "home" / "jupyter"))
    other = encode_with_small_pages(replace(current(store), packages=(package("a"), package("b"))))
    assert other.digest != manifest.encode(manifest.decode(other)).digest
    write_pages(store, other.pages)
    write_snapshot(store, other)
    point_ref(store, other.digest)
    assert isinstance(restore_work(tmp_path), RestoreResult)
    previous = state.read_previous(work_prefix(tmp_path))
    assert previous is not None and previous.encoded == other


def test_each_page_is_read_once(store: Counting) -> None:
    """The snapshots of the history differ in one package each."""
    snapshots = [large(MANY, str(version)) for version in range(5)]
    digests = [put_snapshot(store, each) for each in snapshots]
    for digest in {found.digest for each in snapshots for found in each.layers}:
        store.put(Layout.layer(digest), b"0123456789")
    current = read_ref(store, "work")
    history = tuple(replace(current.ref.latest, snapshot=digest) for digest in digests)
    store.replace(
        Layout.ref("work"),
        canonical.encode(replace(current.ref, history=history, current=digests[-1])),
        current.version,
    )
    for look in (
        lambda: read_log(store, "work"),
        lambda: prune(store, RetentionPolicy(), dry=True),
        lambda: prune(store, RetentionPolicy(), dry=False),
        lambda: verify_store(store, jobs=1),
    ):
        store.seen.clear()
        look()
        assert 30 < len(store.pages()) == len(set(store.pages())) < 100


def without(key: str, store: Store) -> None:
    store.delete(key)


def longer(key: str, store: Store) -> None:
    (Path(store.url) / key).write_bytes(store.read(key) + b" ")


def endless(key: str, store: Store) -> None:
    with (Path(store.url) / key).open("r+b") as file:
        file.truncate(2**40)


def other(key: str, store: Store) -> None:
    data = store.read(key)
    (Path(store.url) / key).write_bytes(data.replace(b"{", b"["))


@pytest.mark.parametrize("damage", [without, longer, endless, other])
def test_corrupted_pages_are_refused(damage: Callable[[str, Store], None], store: Counting) -> None:
    (page,) = manifest.encode(current(store)).pages
    damage(Layout.page(page), store)
    with pytest.raises(Corrupted, match=page[:12]):
        current(store)
    found = verify_store(store, jobs=1).problems
    assert [(each.key, each.environments) for each in found] == [(Layout.page(page), ("work",))]
    with pytest.raises(Corrupted):
        prune(store, RetentionPolicy(), dry=True)
    assert known_layers(store, "work") == {}


@pytest.mark.parametrize(
    "data",
    [b"[]", b"{}", b"[1]", b"[{}]", b"", b"[" * 100_000, b'[{"digest":1,"digest":2}]', b"[1.0]", b"\xff"],
    ids=range(9),
)
def test_pages_with_a_valid_digest_but_invalid_content_are_refused(data: bytes, store: Counting) -> None:
    found = current(store)
    document = store.read(Layout.snapshot(manifest.encode(found).digest))
    (page,) = canonical.decode(manifest.Manifest, canonical.parse(document)).layers
    forged = document.replace(canonical.encode(page), canonical.encode(Page(sha256_hex(data), len(data))))
    write_pages(store, {sha256_hex(data): data})
    write_snapshot(store, EncodedSnapshot(sha256_hex(forged), forged, {}))
    point_ref(store, sha256_hex(forged))
    with pytest.raises(Corrupted) as error:
        current(store)
    assert "\n" not in error.value.message
    problems = {each.key: each.environments for each in verify_store(store, jobs=1).problems}
    assert problems == {Layout.page(sha256_hex(data)): ("work",)}


@pytest.mark.parametrize("more", [-1, 1])
def test_intact_pages_are_not_reported_for_a_wrong_snapshot(
    more: int, store: Counting, tmp_path: Path
) -> None:
    """A repair does not replace them either, because others may be reading them."""
    document = store.read(Layout.snapshot(manifest.encode(current(store)).digest))
    (page,) = canonical.decode(manifest.Manifest, canonical.parse(document)).layers
    forged = document.replace(canonical.encode(page), canonical.encode(replace(page, size=page.size + more)))
    write_snapshot(store, EncodedSnapshot(sha256_hex(forged), forged, {}))
    good = open_store(str(shutil.copytree(store.url, tmp_path / "good")))
    point_ref(store, sha256_hex(forged))
    (found,) = verify_store(store, jobs=1).problems
    assert (found.key, found.environments) == (Layout.snapshot(sha256_hex(forged)), ("work",))
    assert page.digest[:12] in found.reason
    before = (Path(store.url) / Layout.page(page.digest)).stat().st_ino
    assert repair_objects(store, [found.key, Layout.page(page.digest)], {"good": good}) == ()
    assert (Path(store.url) / Layout.page(page.digest)).stat().st_ino == before


def publish_document(store: Counting, document: bytes) -> str:
    """Make these bytes the current snapshot of `work`; return its key."""
    write_snapshot(store, EncodedSnapshot(sha256_hex(document), document, {}))
    point_ref(store, sha256_hex(document))
    return Layout.snapshot(sha256_hex(document))


def test_intact_pages_are_not_reported_for_being_in_the_wrong_list(store: Counting) -> None:
    """Environments that have the page in the right list are not reported either."""
    found = large(MANY[:2])
    for each in found.layers:
        store.put(Layout.layer(each.digest), b"0123456789")
    put_snapshot(store, found)
    document = document_of(found)
    swapped = replace(document, packages=document.layers, layers=document.packages)
    key = publish_document(store, canonical.encode(swapped))
    (problem,) = verify_store(store, jobs=1).problems
    assert (problem.key, problem.environments) == (key, ("work",))
    assert "wrong kind" in problem.reason


def test_large_pages_are_read_once_whatever_size_snapshots_state(store: Counting) -> None:
    (page,) = document_of(current(store)).layers
    document = canonical.encode(document_of(current(store)))
    keys = {
        publish_document(
            store, document.replace(canonical.encode(page), canonical.encode(replace(page, size=size)))
        )
        for size in range(page.size - 9, page.size)
    }
    store.seen.clear()
    assert {each.key for each in verify_store(store, jobs=1).problems} == keys
    assert len(store.pages()) <= 2  # problems are checked a second time, but not in pages


def test_pages_are_processed_in_batches(store: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory for pages is limited, however many there are."""
    found = large(MANY)
    put_snapshot(store, found)
    pages = document_of(found).pages
    batch_size = 3 * max(page.size for page in pages)
    monkeypatch.setattr(objects, "_BATCH_SIZE", batch_size)
    store.seen.clear()
    before = 0
    for count, (page, data) in enumerate(iter_pages(store, pages)):
        assert isinstance(data, bytes) and sha256_hex(data) == page.digest
        assert sum(each.size for each in pages[count : len(store.pages())]) <= batch_size
        before = count
    assert before == len(pages) - 1


@pytest.mark.parametrize(
    "lists",
    [
        {"packages": tuple(package(f"{number:0400000}") for number in range(90))},
        {"pip": (PipPackage("x" * canonical.LARGEST_DOCUMENT, "1"),)},
    ],
    ids=["pages", "document"],
)
def test_snapshots_beyond_the_limits_of_the_format_are_not_written(lists: dict[str, Any]) -> None:
    with pytest.raises(ManifestTooLarge) as error:
        manifest.encode(sample_snapshot(**lists))
    assert error.value.size > error.value.limit == canonical.LARGEST_DOCUMENT


def test_prune_fails_if_a_referenced_snapshot_disappears(
    store: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(store.list_keys(""))

    def gone(_: Store, snapshot_id: str) -> manifest.Manifest:
        raise NotInStore(f"snapshot {snapshot_id}", store.url)

    monkeypatch.setattr("snapper.commands.prune.read_manifest", gone)
    with pytest.raises(Corrupted, match="missing"):
        prune(store, RetentionPolicy(), dry=False, grace=-1)
    assert sorted(store.list_keys("")) == before


def test_invalid_layers_are_not_reused(store: Counting) -> None:
    """The description of a layer on a page is copied into the snapshots that reuse the layer."""
    before = known_layers(store, "work")
    assert before
    found = current(store)
    document = store.read(Layout.snapshot(manifest.encode(found).digest))
    (page,) = canonical.decode(manifest.Manifest, canonical.parse(document)).layers
    size = f'"size":{found.layers[0].size}'.encode()
    data = store.read(Layout.page(page.digest))
    forged_page = data.replace(size, size + b".0")
    assert forged_page != data
    changed = Page(sha256_hex(forged_page), len(forged_page))
    forged = document.replace(canonical.encode(page), canonical.encode(changed))
    write_pages(store, {changed.digest: forged_page})
    write_snapshot(store, EncodedSnapshot(sha256_hex(forged), forged, {}))
    point_ref(store, sha256_hex(forged))
    assert known_layers(store, "work") == {}


def publish(store: Store, name: str, digest: str, message: str = "") -> None:
    """Make the snapshot the first one of the environment."""
    entry = replace(read_ref(store, "work").ref.history[0], snapshot=digest, message=message)
    store.replace(Layout.ref(name), canonical.encode(Ref(FORMAT, name, digest, (entry,), {})), None)


@pytest.mark.parametrize("name", ["a", "zzz"])
def test_smallest_of_equal_layers_is_reused(name: str, store: Counting) -> None:
    """A publisher can pad layers whose contents others have, too."""
    before = known_layers(store, "work")
    found = current(store)
    layer = found.layers[0]
    padded = replace(layer, digest="0" * 64, size=layer.size + 1)
    digest = put_snapshot(store, replace(found, layers=(padded,)))
    publish(store, name, digest)
    assert known_layers(store, "work") == before
    with pytest.raises(ValueError, match="is larger than"):
        replace(layer, size=2 * layer.diff_size + 1024)


@pytest.mark.parametrize("what", ["pages", "manifest", "entry"])
def test_little_of_what_others_publish_is_read_for_known_layers(
    what: str, store: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others choose how much they publish. The environment that is packed comes first, then the smallest."""
    publish(store, "zz", put_snapshot(store, large(["small"])))
    small = {layer.diff_id for layer in (*large(["small"]).layers, *current(store).layers)}
    long = large(MANY)
    if what == "manifest":
        long = replace(large(["other"]), pip=(PipPackage("x" * 100_000, "1"),))
    publish(store, "a", put_snapshot(store, long), "x" * 100_000 * (what == "entry"))
    monkeypatch.setattr("snapper.repository.known_layers._MOST_DATA", 100_000)
    store.seen.clear()
    assert small <= known_layers(store, "work").keys() < {*small, *(layer.diff_id for layer in long.layers)}
    assert sum(store.size(key) or 0 for key in {*store.seen}) <= 100_000
    monkeypatch.setattr("snapper.repository.known_layers._MOST_ENVIRONMENTS", 1)
    assert known_layers(store, "zz").keys() == {layer.diff_id for layer in large(["small"]).layers}
    monkeypatch.setattr("snapper.repository.known_layers._MOST_LAYERS", 1)
    assert len(known_layers(store, "zz")) == 1


def test_snapshots_with_too_many_pages_are_refused(store: Counting) -> None:
    document = store.read(Layout.snapshot(manifest.encode(current(store)).digest))
    (page,) = canonical.decode(manifest.Manifest, canonical.parse(document)).layers
    many = b",".join([canonical.encode(replace(page, size=canonical.LARGEST_DOCUMENT // 8))] * 9)
    forged = document.replace(canonical.encode(page), many)
    write_snapshot(store, EncodedSnapshot(sha256_hex(forged), forged, {}))
    point_ref(store, sha256_hex(forged))
    store.seen.clear()
    with pytest.raises(Corrupted, match="larger"):
        current(store)
    publish(store, "many", put_listing(store, manifest.MOST_PAGES + 1))
    with pytest.raises(Corrupted, match="more than 4,096"):
        read_snapshot(store, read_ref(store, "many").ref.current)
    assert store.pages() == []


def put_listing(store: Store, pages: int, exist: bool = False) -> str:
    """Write a snapshot with these many pages of layers, of some bytes each; return its digest."""
    contents = [b"%d" % number for number in range(pages)]
    listed = [Page(sha256_hex(data), len(data)) for data in contents]
    if exist:
        write_pages(store, {page.digest: data for page, data in zip(listed, contents, strict=True)})
    data = manifest.encode(large([])).document.replace(
        b'"layers":[]', b'"layers":' + canonical.encode(listed)
    )
    write_snapshot(store, EncodedSnapshot(sha256_hex(data), data, {}))
    return sha256_hex(data)


def test_snapshots_with_too_many_packages_are_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand packages, with the files that were created when these were installed, are far below the limit."""
    names = [f"package-{number}" for number in range(1000)]
    layers = [layer_of(name, number, "1") for number in (0, 1) for name in names]
    found = sample_snapshot(packages=tuple(map(package, names)), layers=tuple(layers))
    assert len(manifest.encode(found).pages) < manifest.MOST_PAGES / 10
    monkeypatch.setattr(manifest, "MOST_PAGES", 10)
    with pytest.raises(TooManyPackages):
        manifest.encode(found)


@pytest.mark.parametrize("exist", [True, False])
def test_many_small_pages_are_not_read_for_known_layers(
    exist: bool, store: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = known_layers(store, "work")
    publish(store, "many", put_listing(store, 400, exist))
    store.seen.clear()
    assert known_layers(store, "work") == before
    assert len(store.pages()) < 200
    monkeypatch.setattr("snapper.repository.known_layers._MOST_DATA", 200_000)
    store.seen.clear()
    assert known_layers(store, "work") == before
    assert len(store.pages()) < 20


def test_an_independent_reader_finds_the_same_pages(store: Counting) -> None:
    """It reads what snapper wrote, and computes by itself where each page ends."""
    empty = replace(current(store), packages=tuple(map(package, MANY)))
    point_ref(store, put_snapshot(store, empty))
    assert Reader.of_directory(store.root).check().keys() == {"work"}
