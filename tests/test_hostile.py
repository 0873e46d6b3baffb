"""Stores, archives and manifests of an attacker: costs are bounded, and nothing outside is read or written.

Attacks on extraction are in tests/support/hostile_layers.py, those on archives in test_bad_archives.py. Here, all
other readers of layers are tested with the former, and all readers with random changes.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snapper.archives.importer import unpacked_archive
from snapper.checks.audit import AuditJob, audit_layer
from snapper.checks.compare import compare_environment
from snapper.checks.contents import list_contents
from snapper.commands import diff, verify
from snapper.commands.export import ExportRequest as Exporting
from snapper.commands.export import export_snapshot
from snapper.commands.lockfile import render_environment_yml
from snapper.commands.repair import repair_objects
from snapper.commands.restore import RestoreFailure
from snapper.environment.conda_unpack import ADDED_FILES
from snapper.environment.installed import InstalledEnvironment
from snapper.errors import (
    Corrupted,
    EntryTooLarge,
    FileOperationFailed,
    InvalidArchive,
    NotAnArchive,
    ObjectTooLarge,
    SnapperError,
    UnsupportedFormat,
)
from snapper.format import canonical, manifest
from snapper.format.canonical import LARGEST_DOCUMENT
from snapper.format.layer_reader import LayerReader
from snapper.format.layout import Layout
from snapper.format.manifest import EncodedSnapshot
from snapper.format.member import Member
from snapper.format.model import (
    FORMAT,
    LARGEST_OBJECT,
    Continuation,
    HistoryEntry,
    Layer,
    Mode,
    PipPackage,
    Ref,
    Relocation,
    sha256_hex,
)
from snapper.fs.directories import opened_directory
from snapper.fs.handles import directory_handle
from snapper.process.pool import WorkerPool
from snapper.process.progress import NO_PROGRESS
from snapper.repository.objects import write_pages
from snapper.repository.refs import ROLLBACK, advance_ref, environment_names, lineage, read_ref
from snapper.repository.snapshots import read_snapshot
from snapper.repository.snapshots import write_snapshot as write_encoded
from snapper.repository.specs import SnapshotSpec
from snapper.restoring.layer_writer import ExtractJob, extract_layer
from snapper.store import open_store
from snapper.store.local import LocalStore
from tests.conftest import Machine, tree_of
from tests.support.archives import member, need_tools, write_tar
from tests.support.documents import sample_snapshot
from tests.support.environments import make_data
from tests.support.hostile_layers import HOSTILE_LAYERS
from tests.support.layers import (
    META,
    directory,
    encode_member,
    file,
    first_piece,
    hardlink,
    next_piece,
    pack_members,
    pack_segment,
    symlink,
)
from tests.support.sandbox import point_ref, publish_layers, put_snapshot, restore_layers, restore_work
from tests.support.stores import edit_ref, snapshot_document, write_snapshot

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

ESCAPES = "\x1b]0;owned\x07\x1b[31mred\x9b1m\r\u202e"

# --- all readers of layers --------------------------------------------------------------------------------


def test_every_reader_of_layers_survives_every_attack_on_extraction(sandbox: Path) -> None:
    """verify and diff reject an attack as corruption, or are not affected by it."""
    outside = sandbox / "outside"
    before = tree_of(outside)
    prefix = sandbox / "home" / "envs" / "work"
    refused = {"contents": 0, "compare": 0, "verify": 0}
    for number, attack in enumerate(HOSTILE_LAYERS.values()):
        store = open_store(str(sandbox / f"store{number}"), create=True)
        stored = [pack_members(encode_member(META)), *attack(outside)]
        publish_layers(store, stored)
        layers = tuple(layer for layer, _ in stored)
        with WorkerPool(store, 1) as workers:
            for name in ("contents", "compare"):
                try:
                    if name == "contents":
                        list_contents(layers, workers, NO_PROGRESS)
                    else:
                        current = read_ref(store, "work").ref.current
                        snapshot = read_snapshot(store, current)
                        compare_environment(
                            current, snapshot, InstalledEnvironment(prefix), workers, NO_PROGRESS
                        )
                except Corrupted:
                    refused[name] += 1
        refused["verify"] += bool(verify.verify_store(store, verify.LayerSample(), jobs=1).problems)
    assert tree_of(outside) == before
    assert min(refused.values()) > 30, refused


def test_names_of_a_file_in_pieces_share_its_contents(sandbox: Path) -> None:
    """Thousands of pieces and of hard links to the file would take gigabytes."""
    pieces = [
        first_piece(900, b"x" * 300),
        next_piece(300, b"x" * 300, 900),
        next_piece(600, b"x" * 300, 900),
    ]
    links = pack_members(encode_member(META), *(hardlink(f"link{number}", "big") for number in range(3)))
    store = open_store(str(sandbox / "store"), create=True)
    publish_layers(store, [*pieces, links])
    with WorkerPool(store, 1) as workers:
        whole = list_contents([layer for layer, _ in (*pieces, links)], workers, NO_PROGRESS)
        part = list_contents([layer for layer, _ in (*pieces[:2], links)], workers, NO_PROGRESS)
    assert {id(whole[f"link{number}"]) for number in range(3)} == {id(whole["big"])}
    assert part["link0"] == part["big"] != whole["big"]


def test_comparing_does_not_follow_links_outside(sandbox: Path) -> None:
    """A directory of the environment, with a file in the snapshot, has been replaced by a link."""
    prefix = restore_layers(sandbox, [pack_members(encode_member(META), file("a/secret", b"secret"))])
    store = open_store(str(sandbox / "store"))
    (prefix / "a" / "secret").unlink()
    (prefix / "a").rmdir()
    (prefix / "a").symlink_to(sandbox / "outside")
    found = verify.verify_environment(store, prefix, jobs=1).different
    assert [(item.path, item.what) for item in found] == [("a", "extra"), ("a/secret", "missing")]
    found_files = diff.diff_installed(store, SnapshotSpec("work"), prefix, files=True, jobs=1).files
    assert found_files is not None
    assert "a/secret" in found_files.removed


def test_comparing_does_not_read_files_larger_than_any_of_a_layer(sandbox: Path) -> None:
    """The owner of an environment can make a file as large as the file system allows, without using space."""
    prefix = restore_layers(sandbox, [pack_members(encode_member(META), file("data", b"data"))])
    store = open_store(str(sandbox / "store"))
    os.truncate(prefix / "data", 2**42)
    current = read_ref(store, "work").ref.current
    snapshot = read_snapshot(store, current)
    with WorkerPool(store, 1) as workers:
        found = compare_environment(current, snapshot, InstalledEnvironment(prefix), workers, NO_PROGRESS)
    assert [tuple(difference) for difference in found] == [("data", "contents")]


def publish_descriptions(store: LocalStore, *layers: Layer) -> str:
    """Make a snapshot with these descriptions of its layers the current one of `work`; return its key."""
    found = read_snapshot(store, read_ref(store, "work").ref.current)
    described = {layer.digest for layer in layers}
    others = (layer for layer in found.layers if layer.digest not in described)
    snapshot_id = put_snapshot(store, replace(found, layers=(*others, *layers)))
    point_ref(store, snapshot_id)
    return Layout.snapshot(snapshot_id)


@pytest.mark.parametrize(
    "false_fields", [{"members": 3}, {"diff_size": 1024}, {"diff_id": "0" * 64}, {"size": 7}]
)
def test_false_descriptions_of_layers_are_problems_of_their_snapshot(
    false_fields: dict[str, Any], sandbox: Path
) -> None:
    """They are no problem of the layer or of other snapshots, and do not prevent its repair."""
    store = open_store(str(sandbox / "store"))
    assert isinstance(store, LocalStore)
    good = pack_members(encode_member(META), file("a"))
    publish_layers(store, [good])
    rightly = read_ref(store, "work").ref
    store.replace(Layout.ref("mine"), canonical.encode(replace(rightly, name="mine")), None)
    key = publish_descriptions(store, replace(good[0], **false_fields))
    (problem,) = verify.verify_store(store, verify.LayerSample(), jobs=1).problems
    assert (problem.key, problem.environments) == (key, ("work",))
    path = Path(store.url) / Layout.layer(good[0].digest)
    path.write_bytes(good[1][:-1] + b"?")
    copy = open_store(str(sandbox / "copy"), create=True)
    copy.put(Layout.layer(good[0].digest), good[1])
    found = verify.verify_store(store, verify.LayerSample(), jobs=1).problems
    assert repair_objects(store, [problem.key for problem in found], {"copy": copy})
    assert path.read_bytes() == good[1]


def test_layer_is_decompressed_once_for_all_its_descriptions(
    sandbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment = bytes(128 * 1024 * 1024)
    data = zstandard.compress(segment)
    store = open_store(str(sandbox / "store"))
    stored = pack_segment(segment, 0, stored=data)[0]
    store.put(Layout.layer(stored.digest), data)
    ways = tuple(replace(stored, begins=Continuation("a", 0, 512 * number, 0)) for number in range(100_000))
    unpacked = []
    decompress = LayerReader.decompress

    def counted(reader: LayerReader, data: bytes) -> memoryview:
        unpacked.append(len(data))
        return decompress(reader, data)

    monkeypatch.setattr(LayerReader, "decompress", counted)
    found = audit_layer(store, AuditJob(stored.digest, ways))
    assert len(unpacked) == 1
    assert sum("describe it differently" in reason for _, reason in found.false) > 90_000


@pytest.mark.parametrize("mode", ["text", "binary", "record", "sized-record", "link"])
@pytest.mark.parametrize("path", ["way/secret", "way", "kept", "nowhere"])
def test_export_changes_nothing_through_links(mode: Mode, path: str, sandbox: Path) -> None:
    """This holds for all paths that the snapshot claims to be relocated."""
    way = encode_member(Member("way", "symlink", 0o777, 0, 0, str(sandbox / "outside")))
    placeholder = "" if "record" in mode else "/opt/placeholder"
    said = pack_segment(way + file("kept", b"kept"), 2, (Relocation(mode, placeholder, (path,)),))
    publish_layers(open_store(str(sandbox / "store")), [pack_members(encode_member(META)), said])
    (sandbox / "outside" / "secret").chmod(0o400)
    before = tree_of(sandbox / "outside")
    output = sandbox / "work.tar"
    export_snapshot(open_store(str(sandbox / "store")), Exporting(SnapshotSpec("work"), output), jobs=1)
    assert tree_of(sandbox / "outside") == before
    with tarfile.open(output) as archive:
        assert archive.extractfile("kept").read() == b"kept"  # type: ignore[union-attr]


@pytest.mark.parametrize("form", ["tar", "zip", "squashfs"])
def test_export_adds_and_removes_no_scripts_through_links(form: str, sandbox: Path) -> None:
    need_tools(form)
    scripts = sandbox / "outside" / "bin"
    scripts.mkdir()
    for path in ADDED_FILES:
        (scripts / Path(path).name).write_text("untouched")
    publish_layers(
        open_store(str(sandbox / "store")), [pack_members(encode_member(META), symlink("bin", scripts))]
    )
    before = tree_of(sandbox / "outside")
    output = sandbox / f"work.{form}"
    with pytest.raises(FileOperationFailed, match="bin: it is not a directory"):
        export_snapshot(open_store(str(sandbox / "store")), Exporting(SnapshotSpec("work"), output), jobs=1)
    assert tree_of(sandbox / "outside") == before
    assert not output.exists()


def test_paths_that_cannot_be_encoded_are_refused(sandbox: Path) -> None:
    publish_layers(open_store(str(sandbox / "store")), [pack_members(encode_member(META))])
    before = tree_of(sandbox)
    found = pack_segment(encode_member(META), 1)[0]
    with pytest.raises(ValueError, match="surrogates"):
        replace(found, relocations=(Relocation("text", "/placeholder", ("a\ud800b",)),))
    assert tree_of(sandbox) == before


def test_only_permission_bits_are_restored(sandbox: Path) -> None:
    prefix = restore_layers(
        sandbox,
        [
            pack_members(
                encode_member(META),
                file("a", mode=0o6755),
                encode_member(Member("d", "directory", 0o7700, 0)),
            )
        ],
    )
    assert (prefix / "a").stat().st_mode & 0o7777 == 0o755
    assert (prefix / "d").stat().st_mode & 0o7777 == 0o700


def test_pieces_are_not_written_into_reused_files(sandbox: Path) -> None:
    """The snapshot has pieces of a file that is linked from the existing environment."""
    good = pack_members(encode_member(META), file("a", b"good" * 10))
    prefix = restore_layers(sandbox, [good])
    with (prefix / "a").open("rb") as taken_over:
        publish_layers(
            open_store(str(sandbox / "store")),
            [good, first_piece(80, b"evil" * 10, "a"), next_piece(40, b"evil" * 10, 80, "a")],
        )
        outcome = restore_work(sandbox)
        assert isinstance(outcome, RestoreFailure)
        assert isinstance(outcome.error, Corrupted)
        assert taken_over.read() == (prefix / "a").read_bytes() == b"good" * 10


# --- size -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["environments/work.json", "snapshots", "pages", "layers"])
def test_oversized_objects_are_not_read(kind: str, sandbox: Path) -> None:
    """They have a terabyte, none of which may be read into memory."""
    publish_layers(
        open_store(str(sandbox / "store")), [pack_members(encode_member(META)), pack_members(file("good"))]
    )
    place = sandbox / "store" / kind
    target = place if place.is_file() else next(path for path in place.rglob("*.*") if path.is_file())
    os.truncate(target, 2**40)
    outcome = restore_work(sandbox)
    assert outcome.error.code == 12  # type: ignore[union-attr]
    store = LocalStore.opened(sandbox / "store")
    with pytest.raises(ObjectTooLarge):
        store.read(str(target.relative_to(store.root)))
    os.truncate(target, LARGEST_OBJECT + 1)
    with pytest.raises(ObjectTooLarge):
        store.read_versioned(str(target.relative_to(store.root)))


def test_oversized_documents_are_not_parsed() -> None:
    data = b"[" + b"0," * (canonical.LARGEST_DOCUMENT // 2) + b"0]"
    with pytest.raises(canonical.MalformedDocument, match="larger"):
        canonical.parse(data)


def test_manifests_with_oversized_layers_are_rejected() -> None:
    good = pack_members(file("good"))[0]
    for name, value in (("size", LARGEST_OBJECT + 1), ("diff_size", 2**40), ("members", -1)):
        with pytest.raises(canonical.MalformedDocument, match=r"larger|negative"):
            canonical.decode(Layer, {**canonical.to_jsonable(good), name: value})


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_oversized_headers_of_archives_are_not_read(kind: bytes, tmp_path: Path) -> None:
    info = tarfile.TarInfo("header")
    info.type, info.size = kind, 2**32
    target = tmp_path / "hostile.tar"
    target.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(InvalidArchive, match="too long"), unpacked_archive(target, NO_PROGRESS):
        pass


def test_sparse_members_of_archives_are_refused(tmp_path: Path) -> None:
    """A few bytes would become files of any size."""
    info = tarfile.TarInfo("sparse")
    info.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(2**60), "GNU.sparse.major": "0"}
    info.size = 1
    target = tmp_path / "hostile.tar"
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("conda-meta/history"))
        archive.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(InvalidArchive), unpacked_archive(target, NO_PROGRESS):
        pass


# --- names ------------------------------------------------------------------------------------------------


def test_names_that_no_object_can_have_are_ignored_and_reported(sandbox: Path) -> None:
    store = open_store(str(sandbox / "store"))
    publish_layers(store, [pack_members(encode_member(META))])
    names = [
        "environments/+x.json",
        "environments/a b.json",
        "environments/-x.json",
        "environments/deep/x.json",
    ]
    names += [
        f"snapshots/{'A' * 64}.json",
        f"layers/00/{'1' * 64}.tar.zst",
        f"pages/00/{'1' * 64}.json",
        "layers/../x",
        "locks/x",
    ]
    for name in names:
        place = Path(os.path.normpath(sandbox / "store" / name))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("{}")
    assert list(environment_names(store)) == ["work"]
    found = {problem.key for problem in verify.verify_store(store, jobs=1).problems}
    assert found == {name for name in names if ".." not in name.split("/")}


def test_entries_do_not_grow_beyond_what_can_be_read(sandbox: Path) -> None:
    """A history entry may come from another store, with a message of any length."""
    publish_layers(open_store(str(sandbox / "store")), [pack_members(encode_member(META))])
    store = open_store(str(sandbox / "store"))
    latest = read_ref(store, "work").ref.latest
    long = replace(latest, message="x" * (LARGEST_DOCUMENT - 1000))
    advance_ref(store, "work", long, read_ref(store, "work"))
    with pytest.raises(EntryTooLarge, match="entry of 'work'"):
        advance_ref(store, "work", replace(latest, message="y" * 1000), read_ref(store, "work"))
    assert read_ref(store, "work").ref.latest == long


def test_long_histories_are_followed_in_linear_time() -> None:
    ids = [sha256_hex(b"%d" % number) for number in range(30_000)]
    entries = [HistoryEntry(digest, "pack", "", "", "", "", "", 0, 0, 0, 0) for digest in ids]
    history = (*entries, *[replace(entries[-1], action=ROLLBACK)] * len(ids))
    started = time.process_time()
    assert lineage(Ref(FORMAT, "work", ids[-1], history, {})) == ids
    assert time.process_time() - started < 5


def test_escape_sequences_in_a_store_never_reach_the_terminal(machine: Machine) -> None:
    """There are escapes in all free text: packages, kernels, paths, and the history."""
    machine.run_json("pack", "-p", make_data(machine.envs / "data"))
    original = next((machine.store / "snapshots").iterdir())
    document = snapshot_document(machine.store, original.stem)
    for package in document["packages"]:
        for name in ("name", "version", "build", "channel", "url", "md5"):
            package[name] += ESCAPES
    document["pip"] = [{"name": ESCAPES, "version": ESCAPES}]
    document["kernels"] = [{"name": ESCAPES, "display_name": ESCAPES, "language": ESCAPES}]
    for name in ("altered", "missing"):
        document[name] = [{"package": ESCAPES, "paths": [ESCAPES]}]
    document["platform"] += ESCAPES
    document["layers"][0]["owner"] = ESCAPES
    digest = write_snapshot(machine.store, document)

    def forge(entry: dict[str, Any]) -> None:
        entry["current"] = digest
        entry["history"].append(
            {**entry["history"][0], "snapshot": digest, "action": ESCAPES}
            | dict.fromkeys(("user", "host", "message", "time", "prefix"), ESCAPES)
        )

    edit_ref(machine.store, "data", forge)
    shown = ""
    for command in (
        *(("list",), ("show", "data"), ("show", "data", "--explicit"), ("show", "data", "--yaml")),
        *(("log", "data"), ("diff", "data@~1", "data"), ("diff", "data@~1", "data", "--files")),
        *(("diff", "data"), ("status",), ("restore", "data", "--prefix", machine.home / "there")),
        *(("verify",), ("verify", "data@~0"), ("prune", "--keep-last", 1), ("tag", "data", ESCAPES)),
        *(("rollback", "data", "--replace"), ("doctor",), ("export", "data", "-o", machine.home / "x.tar")),
        *(("import", machine.home / ESCAPES), (ESCAPES,), ("pack", ESCAPES), ("list", f"--{ESCAPES}")),
    ):
        outcome = machine.snapper(*command)
        shown += outcome.out + outcome.err
        for control in "\x1b\x07\x9b\r\u202e":
            assert control not in outcome.out + outcome.err, (command, outcome)
    assert "\\x1b]0;owned" in shown


def test_packages_in_an_environment_yml_are_no_options_and_no_locations() -> None:
    hostile = (
        "--index-url http://evil x",
        "x @ file:///tmp/x #",
        "-e /tmp/x",
        "x; x",
        "c::x",
        "x[url=u]",
        "x\ny",
    )
    sample = sample_snapshot()
    snapshot = replace(
        sample,
        packages=(*sample.packages, *(replace(sample.packages[0], name=name) for name in hostile)),
        pip=(PipPackage("good_1.x", "1!2.0+local-3"), *(PipPackage(name, "1") for name in hostile)),
    )
    text = render_environment_yml("work", snapshot)
    *conda, by_pip = yaml.safe_load(text)["dependencies"]
    assert by_pip == {"pip": ["good_1.x==1!2.0+local-3"]}
    assert [each.partition("=")[0] for each in conda if each != "pip"] == [
        each.name for each in sample.packages
    ]
    assert text.count("# left out") == 2 * len(hostile)


# --- random changes --------------------------------------------------------------------------------------------


def examples(request: pytest.FixtureRequest, few: int) -> settings:
    """Run few examples, or 50 times as many in the long form."""
    return settings(
        max_examples=few * (50 if request.config.getoption("--long") else 1),
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )


#: Changes of bytes: an offset, the new bytes, and whether they are inserted instead of overwriting others.
CHANGES = st.lists(
    st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=8), st.booleans()), max_size=4
)


def apply_changes(data: bytes, changes: list[tuple[int, bytes, bool]]) -> bytes:
    for position, new, insert in changes:
        offset = position % (len(data) + 1)
        data = data[:offset] + new + data[offset + (0 if insert else len(new)) :]
    return data


SEGMENT = b"".join(
    (
        *(
            encode_member(META),
            file("a/b", b"text of /opt/placeholder\n"),
            symlink("link", "a/b"),
            hardlink("hard", "a/b"),
        ),
        *(directory("d", 0o700), file("x" * 150 + "/" + "y" * 120, b"long"), symlink("far", "z" * 200)),
    )
)


def test_randomly_changed_layers(
    request: pytest.FixtureRequest, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Extraction succeeds or reports corruption, and never leaves its directory."""
    store = open_store(str(tmp_path_factory.mktemp("shelf") / "store"), create=True)
    outside = tree_of(tmp_path)

    @examples(request, 150)
    @given(changes=CHANGES, in_frame=st.booleans())
    def run(changes: list[tuple[int, bytes, bool]], in_frame: bool) -> None:
        segment = SEGMENT if in_frame else apply_changes(SEGMENT, changes)
        data = zstandard.compress(segment)
        stored, data = pack_segment(segment, 7, stored=apply_changes(data, changes) if in_frame else data)
        store.put(Layout.layer(stored.digest), data)
        found = audit_layer(store, AuditJob(stored.digest, (stored,)))
        assert not found.reason  # its name is the checksum of its bytes
        with tempfile.TemporaryDirectory(dir=tmp_path) as target, opened_directory(target) as opened:
            directory = directory_handle(opened, target)
            try:
                extract_layer(store, ExtractJob(directory, "/final/prefix", stored, 0), data)
            except SnapperError as error:
                assert error.code == 12, error
                assert "\n" not in error.message
            else:
                reasons = {reason for _, reason in found.false}
                assert reasons <= {"its uncompressed content does not match its checksum"}
        assert tree_of(tmp_path) == outside

    mask = os.umask(0o022)
    try:
        run()
    finally:
        os.umask(mask)


def test_randomly_changed_frames(request: pytest.FixtureRequest) -> None:
    good, data = pack_segment(SEGMENT, 7)
    reader = LayerReader()

    @examples(request, 300)
    @given(CHANGES)
    def run(changes: list[tuple[int, bytes, bool]]) -> None:
        with suppress(Corrupted):
            members = reader.open(good, apply_changes(data, changes), "store").members()
            assert len(list(members)) == good.members

    run()


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=6)
    | st.sampled_from(["../x", "/etc", "A" * 64]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def replace_at(value: Any, path: list[int], junk: Any) -> Any:
    """Return the document with something else at the path."""
    if not path or not isinstance(value, dict | list) or not value:
        return junk
    keys = sorted(value) if isinstance(value, dict) else range(len(value))
    key: Any = list(keys)[path[0] % len(value)]
    copy = value.copy()
    copy[key] = replace_at(value[key], path[1:], junk)
    return copy


def items(pages: list[dict[str, Any]], encoded: EncodedSnapshot) -> list[Any]:
    """Return the items on these pages of the snapshot."""
    return [item for page in pages for item in json.loads(encoded.pages[page["digest"]])]


def test_randomly_changed_manifests(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Only the canonical encoding of a snapshot is accepted, but with any page boundaries."""
    store = open_store(str(tmp_path / "store"), create=True)
    encoded = manifest.encode(sample_snapshot())
    good = {
        "document": json.loads(encoded.document),
        **{digest: json.loads(data) for digest, data in encoded.pages.items()},
    }
    pages = [*encoded.pages]

    @examples(request, 400)
    @given(st.integers(0, 8), st.lists(st.integers(0, 100), max_size=6), JUNK, CHANGES, st.booleans())
    def run(
        part: int, path: list[int], junk: Any, changes: list[tuple[int, bytes, bool]], in_bytes: bool
    ) -> None:
        which = ("document", *pages)[part % (1 + len(pages))]
        changed_part = good[which] if in_bytes else replace_at(good[which], path, junk)
        data = json.dumps(changed_part, sort_keys=True, separators=(",", ":")).encode()
        data = apply_changes(data, changes) if in_bytes else data
        document = encoded.document
        if which == "document":
            document = data
        else:  # with its actual digest and size
            size = f'"size":{len(encoded.pages[which])}}}'.encode()
            document = document.replace(which.encode(), sha256_hex(data).encode())
            document = document.replace(size, f'"size":{len(data)}}}'.encode())
        whole = EncodedSnapshot(sha256_hex(document), document, {**encoded.pages, sha256_hex(data): data})
        write_pages(store, whole.pages)
        write_encoded(store, whole)
        try:
            found = read_snapshot(store, whole.digest)
        except (Corrupted, UnsupportedFormat):
            return
        again = manifest.encode(found)
        given = {key: value for key, value in json.loads(document).items() if value is not None}
        written = json.loads(again.document)
        for key in ("packages", "layers"):
            if len(written[key]) != len(given[key]):  # readers accept pages with any boundaries
                given[key], written[key] = items(given[key], whole), items(written[key], again)
        assert written == given

    run()


def test_randomly_changed_archives(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    target = write_tar(
        tmp_path / "good.tar",
        member("conda-meta/history", b"==> 2026 <==\n"),
        member("bin/tool", b"#!/bin/sh\necho /old/prefix\n", mode=0o755),
        member("lib/link", type=tarfile.SYMTYPE, linkname="../bin/tool"),
        member("lib/hard", type=tarfile.LNKTYPE, linkname="bin/tool"),
        member("bin/conda-unpack", b"_prefix_records = [\n('bin/tool', '/old/prefix', 'text')\n]\n"),
    )
    good = target.read_bytes()
    before = {path.name for path in tmp_path.iterdir()}

    @examples(request, 120)
    @given(CHANGES)
    def run(changes: list[tuple[int, bytes, bool]]) -> None:
        target.write_bytes(apply_changes(good, changes))
        try:
            with unpacked_archive(target, NO_PROGRESS) as unpacked:
                assert unpacked.prefix.is_relative_to(temporary)
        except (InvalidArchive, NotAnArchive) as error:
            assert "\n" not in error.message
        assert not list(temporary.iterdir())
        assert {path.name for path in tmp_path.iterdir()} == before

    run()
