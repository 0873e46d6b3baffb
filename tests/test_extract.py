"""Extraction: layers are restored byte for byte, and a hostile store cannot write outside the environment."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pkgutil
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from snapper.commands import verify
from snapper.commands.restore import RestoreFailure, RestoreResult, restore
from snapper.environment import state
from snapper.errors import (
    Corrupted,
    InsufficientSpace,
    TargetOccupied,
    TooManyDirectories,
    TooManyFiles,
    UnexpectedError,
)
from snapper.format import canonical
from snapper.format.layout import Layout
from snapper.format.member import Member, padding
from snapper.format.model import Continuation, Layer, Relocation
from snapper.fs.ownership import private_groups
from snapper.repository.refs import read_ref
from snapper.repository.specs import SnapshotSpec
from snapper.restoring.finalize import finalize_tree
from snapper.restoring.replaced import is_as_written
from snapper.restoring.requests import RestoreRequest
from snapper.store import open_store
from tests.conftest import tree_of, without_run_records
from tests.support.hostile_layers import GOOD, HOSTILE_LAYERS, with_description
from tests.support.layers import (
    META,
    PLACEHOLDER,
    PLACEHOLDER_BYTES,
    directory,
    encode_member,
    file,
    first_piece,
    hardlink,
    next_piece,
    pack_members,
    pack_segment,
    relocations_of,
    split_file,
    symlink,
)
from tests.support.sandbox import point_ref, publish_layers, restore_layers, restore_work, work_prefix

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

NOBODY = 65534

# --- contents ---------------------------------------------------------------------------------------------


def test_members_are_restored_with_type_mode_mtime_and_contents(sandbox: Path) -> None:
    prefix = restore_layers(
        sandbox,
        [
            pack_members(
                encode_member(META),
                file("bin/tool", b"#!/bin/sh\n", 0o755, 1),
                file("empty", b"", 0o600, 0),
                file("naïve/\udcff/" + "n" * 120, b"long"),
                symlink("bin/alias", "tool"),
                symlink("outside", "/etc/passwd"),
                symlink("dangling", "nowhere/at/all"),
            ),
            pack_members(
                hardlink("bin/same", "bin/tool"),
                directory("hollow", 0o700),
                directory("shared/below", 0o2775),
                file("suid", b"x", 0o4755),
            ),
        ],
    )
    tree = tree_of(prefix)
    assert tree["bin/tool"] == ("file", 0o755, b"#!/bin/sh\n")
    assert tree["empty"] == ("file", 0o600, b"")
    assert tree["naïve/\udcff/" + "n" * 120] == ("file", 0o644, b"long")
    assert tree["bin/alias"] == ("symlink", 0o777, b"tool")
    assert tree["outside"] == ("symlink", 0o777, b"/etc/passwd")
    assert tree["dangling"] == ("symlink", 0o777, b"nowhere/at/all")
    assert tree["hollow"][:2] == ("directory", 0o700)
    assert tree["shared"][:2] == ("directory", 0o755)
    assert tree["shared/below"][:2] == ("directory", 0o755)
    assert tree["suid"][:2] == ("file", 0o755)
    assert (prefix / "bin" / "tool").samefile(prefix / "bin" / "same")
    assert int((prefix / "bin" / "tool").stat().st_mtime) == 1
    assert "kept" not in tree
    assert (prefix.stat().st_mode & 0o7777) == 0o755


def test_restoring_again_finds_the_snapshot_present(sandbox: Path) -> None:
    cut = b"0123456789" * 300
    prefix = restore_layers(
        sandbox,
        [
            pack_members(encode_member(META), file("a"), hardlink("b", "a"), symlink("c", "a")),
            pack_segment(encode_member(Member("cut", "file", 0o644, 5, len(cut)), b"")[:512] + cut[:1000], 1),
            pack_segment(cut[1000:] + padding(len(cut)), 0, (), Continuation("cut", 1000, len(cut), 0)),
        ],
    )
    request = RestoreRequest(SnapshotSpec("work"), prefix=prefix)
    (again,) = restore(open_store(str(sandbox / "store")), [request], jobs=1)
    assert isinstance(again, RestoreResult), again
    assert again.present


@pytest.mark.parametrize("mask", [0o077, 0o002, 0])
def test_modes_do_not_depend_on_the_umask(sandbox: Path, mask: int) -> None:
    """Only the owner may write. This holds when files are written, and when a second restore links them."""
    one = pack_members(
        encode_member(META),
        *(file("d/f"), file("f", b"", 0o664), file("open", b"", 0o666), directory("open-too", 0o777)),
        symlink("only/links/here", "x"),
    )
    split = split_file(b"x" * 3000, [1000], (), mode=0o777)
    before = os.umask(mask)
    try:
        restore_layers(sandbox, [one, *split], mode=0o777)
        prefix = restore_layers(sandbox, [one, *split, pack_members(file("g"))], mode=0o777)
    finally:
        assert os.umask(before) == mask
    modes = {path: mode for path, (_, mode, _) in tree_of(prefix).items()}
    assert modes == {
        "conda-meta": 0o755,
        "d": 0o755,
        "d/f": 0o644,
        "f": 0o644,
        "open": 0o644,
        "open-too": 0o755,
        "before": 0o644,
        "behind": 0o644,
        "lib": 0o755,
        "lib/big": 0o755,
        "g": 0o644,
        "only": 0o755,
        "only/links": 0o755,
        "only/links/here": 0o777,
    }
    assert stat.S_IMODE(prefix.stat().st_mode) == 0o755
    found = verify.verify_environment(open_store(str(sandbox / "store")), prefix, jobs=1)
    assert not found.different


def test_owner_can_enter_every_directory_whatever_its_mode(sandbox: Path) -> None:
    prefix = restore_layers(sandbox, [pack_members(encode_member(META), directory("private", 0))], mode=0)
    assert stat.S_IMODE(prefix.stat().st_mode) == 0o700
    assert stat.S_IMODE((prefix / "private").stat().st_mode) == 0o500


def test_tree_with_more_directories_than_open_descriptors(sandbox: Path) -> None:
    paths = [f"d{number}/" + "below/" * (number % 3 // 2 * 2) + "file" for number in range(400)]
    layers = [
        pack_members(encode_member(META), *(file(path, path.encode()) for path in paths[start::3]))
        for start in range(3)
    ]
    links = pack_members(
        *(hardlink(f"{path}.hard", path) for path in paths[:200]), *(symlink(f"{p}.soft", p) for p in paths)
    )
    prefix = restore_layers(sandbox, [*layers, links])
    assert all((prefix / path).read_text() == path for path in paths)
    assert all((prefix / f"{path}.hard").read_text() == path for path in paths[:200])


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("mode", [None, "text", "binary"])
def test_split_file_is_joined_and_relocated(sandbox: Path, mode: str | None, jobs: int) -> None:
    data = b"".join(
        b"%d:" % number + PLACEHOLDER_BYTES + b"/lib\0".replace(b"\0", b"\0" * 40) for number in range(200)
    )
    if mode == "text":
        data = data.replace(b"\0", b"-")
    cuts = [data.index(b"50:"), data.index(b"99:"), data.index(b"180:")]
    relocations = relocations_of(mode, "lib/big") if mode else ()
    prefix = restore_layers(
        sandbox,
        [pack_members(encode_member(META)), *split_file(data, cuts, relocations)],
        jobs=jobs,
        prefix=sandbox / "p",
    )
    new = os.fsencode(prefix)
    expected = {
        None: data,
        "text": data.replace(PLACEHOLDER_BYTES, new),
        "binary": b"".join(
            b"%d:" % number + (new + b"/lib").ljust(len(PLACEHOLDER_BYTES) + 44, b"\0")
            for number in range(200)
        ),
    }[mode]
    big = prefix / "lib" / "big"
    if mode == "binary" and len(new) > len(PLACEHOLDER_BYTES):
        expected = data
    assert big.read_bytes() == expected
    assert stat.S_IMODE(big.stat().st_mode) == 0o755
    assert big.stat().st_mtime == 1_600_000_000
    assert (prefix / "behind").read_text() == "data"


def test_split_file_is_reported_unrelocated_once(sandbox: Path) -> None:
    data = (b"\x7fELF" + PLACEHOLDER_BYTES + b"\0" + b"x" * 100) * 3
    publish_layers(
        open_store(str(sandbox / "store")),
        [
            pack_members(encode_member(META)),
            *split_file(data, [130, 250], relocations_of("binary", "lib/big")),
        ],
    )
    outcome = restore_work(sandbox, prefix=sandbox / "a prefix that is longer than the placeholder")
    assert isinstance(outcome, RestoreResult)
    assert outcome.unrelocated == ("lib/big",)
    assert Path(outcome.prefix, "lib/big").read_bytes() == data


class CountedPaths(tuple[str, ...]):
    """Paths that count how often something looks through them."""

    scans = 0

    def __iter__(self) -> Iterator[str]:
        self.scans += 1
        return super().__iter__()

    def __contains__(self, path: object) -> bool:
        self.scans += 1
        return super().__contains__(path)


def test_split_files_are_looked_up_in_relocations_at_once(
    sandbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store can have millions of paths and thousands of split files, which would take hours."""
    paths = CountedPaths(["text", *"abcdefgh"])

    def finalize_counted(directory: Any, prefix: str, layers: tuple[Layer, ...], *rest: Any) -> list[bytes]:
        relocation = replace(layers[0].relocations[0], paths=paths)
        counted = (replace(layers[0], relocations=(relocation,)), *layers[1:])
        paths.scans = 0
        return finalize_tree(directory, prefix, counted, *rest)

    monkeypatch.setattr("snapper.restoring.unpacker.finalize_tree", finalize_counted)
    split = [
        layer
        for name in "abcdefgh"
        for layer in (first_piece(600, b"x" * 300, name), next_piece(300, b"x" * 300, 600, name))
    ]
    meta = pack_segment(encode_member(META) + file("text"), 2, relocations_of("text", "text"))
    restore_layers(sandbox, [meta, *split])
    assert paths.scans == 1


def test_package_records_are_limited_in_total(sandbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No environment with more can be packed, and they are edited by the process that restores all others."""
    paths = [f"conda-meta/p-{number}-0.json" for number in range(3)]
    relocations = (Relocation("record", "", tuple(paths)),)
    layers = [pack_segment(b"".join(file(path, b"x" * 1000) for path in paths), 3, relocations)]
    monkeypatch.setattr("snapper.restoring.finalize.LARGEST_RECORDS", 2500)
    publish_layers(open_store(str(sandbox / "store")), layers)
    outcome = restore_work(sandbox)
    assert isinstance(outcome, RestoreFailure)
    assert "package records have more than 2,500 bytes" in str(outcome.error)


def test_link_targets_are_relocated(sandbox: Path) -> None:
    links = symlink("a", f"{PLACEHOLDER}/bin/x") + symlink("b", "/opt/other") + symlink("c", PLACEHOLDER)
    prefix = restore_layers(
        sandbox, [pack_segment(encode_member(META) + links, 4, relocations_of("link", "a", "c"))]
    )
    assert [os.readlink(prefix / name) for name in "abc"] == [f"{prefix}/bin/x", "/opt/other", str(prefix)]


def test_hard_link_to_file_of_another_layer(sandbox: Path) -> None:
    """The link leads to the new file even if the environment has the layer with the link already."""
    link = pack_members(hardlink("b", "a"))
    for text in (b"one", b"two"):
        prefix = restore_layers(
            sandbox, [pack_members(encode_member(META)), pack_members(file("a", text)), link]
        )
        assert (prefix / "b").read_bytes() == text
        assert (prefix / "b").samefile(prefix / "a")


@pytest.mark.parametrize("name", ["envs", "pkgs", "Envs"])
def test_files_in_a_shared_directory_are_left_out(sandbox: Path, name: str) -> None:
    """Version 0.1.0 packed those that it did not take for environments or packages."""
    parts = [encode_member(META), directory(f"{name}/other"), file(f"{name}/notes", b"mine"), file("z", b"z")]
    prefix = restore_layers(sandbox, [pack_members(*parts)], jobs=1)
    assert (prefix / "z").read_bytes() == b"z"
    assert not (prefix / name).exists()


@pytest.mark.parametrize("name", ["envs", "pkgs"])
def test_link_in_place_of_a_shared_directory_survives_a_restore(sandbox: Path, name: str) -> None:
    """It is not part of the environment, like the environments or the package cache that it leads to."""
    link = work_prefix(sandbox) / name
    link.symlink_to(sandbox / "outside")
    before = tree_of(sandbox / "outside")
    for data in (b"1", b"2"):
        restore_layers(sandbox, [pack_members(encode_member(META), file("a", data))])
        assert link.readlink() == sandbox / "outside"
    assert tree_of(sandbox / "outside") == before


# --- hostile and corrupted stores -------------------------------------------------------------------------


@pytest.mark.parametrize("what", HOSTILE_LAYERS)
def test_hostile_layer_is_refused_and_changes_nothing(sandbox: Path, what: str) -> None:
    layers = HOSTILE_LAYERS[what](sandbox / "outside")
    publish_layers(open_store(str(sandbox / "store")), [pack_members(encode_member(META)), *layers])
    before = without_run_records(tree_of(sandbox))
    for jobs in (1, 2):
        outcome = restore_work(sandbox, jobs=jobs)
        assert isinstance(outcome, RestoreFailure), outcome
        assert isinstance(outcome.error, Corrupted), (outcome.error, outcome.error.message)
        assert outcome.error.code == 12
        assert "\n" not in outcome.error.message
        assert without_run_records(tree_of(sandbox)) == before


@pytest.mark.parametrize("where", ["layer_writer", "unpacker"])
@pytest.mark.parametrize("kind", ["links", "directories"])
def test_links_that_would_take_too_much_memory_are_refused(
    sandbox: Path, kind: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are kept until all files are written; a layer of many with long names takes a thousandth in the store."""
    monkeypatch.setattr(f"snapper.restoring.{where}.MOST_KEPT", 100_000)
    long = "/".join(["x" * 200] * 20)
    members = [symlink(f"link{number}", long) for number in range(30)]
    if kind == "directories":
        members = [encode_member(Member(f"{long}/{number}", "directory", 0o700, 0)) for number in range(30)]
    parts = 1 if where == "layer_writer" else 3
    layers = [pack_members(*members[part::parts]) for part in range(parts)]
    publish_layers(open_store(str(sandbox / "store")), [pack_members(encode_member(META)), *layers])
    outcome = restore_work(sandbox)
    assert isinstance(outcome, RestoreFailure)
    assert isinstance(outcome.error, TooManyFiles)
    assert "links and directories" in outcome.error.message


DEEP = "/".join(["d"] * 250)


def test_directories_of_a_layer_are_limited_by_the_members_that_it_has(sandbox: Path) -> None:
    """What is stated does not count: it is found to be false only at the end of the layer."""
    layer = pack_members(
        *(file(f"{number}/{DEEP}", b"") for number in range(9)), file("data", bytes(1 << 20))
    )
    most = with_description(layer, members=layer.layer.diff_size // 512)
    publish_layers(open_store(str(sandbox / "store")), [pack_members(encode_member(META)), most])
    outcome = restore_work(sandbox)
    assert isinstance(outcome, RestoreFailure)
    assert isinstance(outcome.error, Corrupted)
    assert "more directories than members" in outcome.error.message


@pytest.mark.parametrize(("layers", "error"), [(2, None), (2, InsufficientSpace), (5, TooManyDirectories)])
def test_directories_of_all_layers_are_limited(
    sandbox: Path, layers: int, error: type[Exception] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For more than were expected, there must be space to spare."""
    packed = [pack_members(file(f"{number}/{DEEP}", b"")) for number in range(layers)]
    publish_layers(open_store(str(sandbox / "store")), [pack_members(encode_member(META)), *packed])
    if error is InsufficientSpace:
        monkeypatch.setattr("snapper.restoring.unpacker._SPARE_SPACE", 1 << 60)
    outcome = restore_work(sandbox)
    assert isinstance(outcome, RestoreFailure if error else RestoreResult)
    if isinstance(outcome, RestoreFailure):
        assert isinstance(outcome.error, error or ())


@pytest.mark.parametrize("limit", ["layer_writer._LARGEST_BLOCK", "unpacker._MOST_DESCRIBED"])
def test_paths_that_would_take_too_much_memory_are_refused(
    sandbox: Path, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index of all files is in memory until all are written."""
    monkeypatch.setattr(f"snapper.restoring.{limit}", 10_000)
    long = "/".join(["x" * 200] * 20)
    members = [file(f"{long}/{number}", b"") for number in range(3)]
    layers = [pack_members(*members)] if "layer_writer" in limit else list(map(pack_members, members))
    publish_layers(open_store(str(sandbox / "store")), [pack_members(encode_member(META)), *layers])
    outcome = restore_work(sandbox)
    assert isinstance(outcome, RestoreFailure)
    assert isinstance(outcome.error, TooManyFiles)
    assert "paths" in outcome.error.message


def test_continuation_without_its_file_is_refused(sandbox: Path) -> None:
    """A manifest cannot name offsets beyond what its layers contain, which would create huge sparse files."""
    with pytest.raises(ValueError, match="starts"):
        publish_layers(open_store(str(sandbox / "store")), [next_piece(2**40, b"x", 2**41)])
    with pytest.raises(ValueError, match="outside"):
        next_piece(2001, b"")


@pytest.mark.parametrize("what", ["missing", "cut off", "altered", "empty", "longer"])
def test_layer_that_does_not_match_its_digest_is_refused(sandbox: Path, what: str) -> None:
    store = open_store(str(sandbox / "store"))
    publish_layers(store, [pack_members(encode_member(META)), GOOD])
    path = sandbox / "store" / Layout.layer(GOOD[0].digest)
    data = GOOD[1]
    altered = data[:20] + bytes([data[20] ^ 1]) + data[21:]
    path.write_bytes(
        {"cut off": data[:-1], "altered": altered, "empty": b"", "longer": data + b"x"}.get(what, b"")
    )
    if what == "missing":
        path.unlink()
    before = without_run_records(tree_of(sandbox))
    outcome = restore_work(sandbox)
    assert isinstance(outcome, RestoreFailure)
    assert outcome.error.code == 12
    assert GOOD[0].digest[:12] in outcome.error.message
    assert without_run_records(tree_of(sandbox)) == before


def test_snapshot_that_does_not_match_its_digest_is_refused(sandbox: Path) -> None:
    store = open_store(str(sandbox / "store"))
    publish_layers(store, [pack_members(encode_member(META))])
    (path,) = (sandbox / "store" / "snapshots").iterdir()
    path.write_bytes(path.read_bytes().replace(b'"mode":493', b'"mode":511'))
    outcome = restore_work(sandbox)
    assert isinstance(outcome, RestoreFailure)
    assert outcome.error.code == 12


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"mode":493', b'"mode":493.0'),
        (b'"mode":493', b'"mode":493,"more":1'),
        (b'"mode":493', b'"mode":493,"mode":1'),
        (b'"mode":493', b'"mode":' + b"9" * 5000),
        (b'"members":1', b'"members":-1'),
        (b'"digest":"', b'"digest":"../'),
        (b'"relocations":[]', b'"relocations":[{"mode":"text","paths":["../x"],"placeholder":"/p"}]'),
        (b'"relocations":[]', b'"relocations":[{"mode":"text","paths":["x"],"placeholder":"/\\udcff"}]'),
        (b'"relocations":[]', b'"relocations":' + b"[" * 50_000),
    ],
    ids=range(9),
)
def test_malformed_snapshot_with_matching_digest_is_refused(sandbox: Path, old: bytes, new: bytes) -> None:
    store = open_store(str(sandbox / "store"))
    publish_layers(store, [pack_members(encode_member(META))])
    (path,) = (sandbox / "store" / "snapshots").iterdir()
    before_it = path.read_bytes()
    (page,) = json.loads(before_it)["layers"]
    held = store.read(Layout.page(page["digest"]))
    forged = held.replace(old, new)
    name = hashlib.sha256(forged).hexdigest()
    store.put(Layout.page(name), forged)
    pages = canonical.encode([page]), canonical.encode([{"digest": name, "size": len(forged)}])
    document = before_it.replace(old, new) if forged == held else before_it.replace(*pages)
    assert document != before_it
    digest = hashlib.sha256(document).hexdigest()
    store.put(Layout.snapshot(digest), document)
    point_ref(store, digest)
    before = without_run_records(tree_of(sandbox))
    outcome = restore_work(sandbox)
    assert isinstance(outcome, RestoreFailure)
    assert outcome.error.code == 12
    assert "\n" not in outcome.error.message
    assert without_run_records(tree_of(sandbox)) == before


def test_workers_restore_other_snapshots_after_a_failure(sandbox: Path) -> None:
    """Nothing of a failed snapshot gets into the next one."""
    store = open_store(str(sandbox / "store"))
    publish_layers(store, [pack_members(encode_member(META), file("new"), file("new"))])
    bad = read_ref(store, "work").ref
    publish_layers(store, [pack_members(encode_member(META), file("new", b"second"), file("old", b"first"))])
    good = read_ref(store, "work")
    both = replace(good.ref, history=(*bad.history, *good.ref.history))
    store.replace(Layout.ref("work"), canonical.encode(both), good.version)
    requests = [
        RestoreRequest(SnapshotSpec("work", name), prefix=work_prefix(sandbox), replace=True)
        for name in ("~1", "", "~1", "")
    ]
    outcomes = list(restore(store, requests, jobs=1))
    assert [type(outcome) for outcome in outcomes] == [
        RestoreFailure,
        RestoreResult,
        RestoreFailure,
        RestoreResult,
    ]
    assert tree_of(work_prefix(sandbox)) == {
        "conda-meta": ("directory", 0o755, b""),
        "new": ("file", 0o644, b"second"),
        "old": ("file", 0o644, b"first"),
    }


def test_workers_restore_two_snapshots_to_one_prefix_in_turn(sandbox: Path) -> None:
    store = open_store(str(sandbox / "store"))
    publish_layers(store, [pack_members(encode_member(META), file("a", b"1"), file("d/only-first"))])
    first = read_ref(store, "work").ref
    publish_layers(store, [pack_members(encode_member(META), file("a", b"2"))])
    second = read_ref(store, "work")
    both = replace(second.ref, history=(*first.history, *second.ref.history))
    store.replace(Layout.ref("work"), canonical.encode(both), second.version)
    prefix = sandbox / "p"
    requests = [RestoreRequest(SnapshotSpec("work", name), prefix=prefix) for name in ("~1", "", "~1", "")]
    for outcome in restore(store, requests, jobs=1):
        assert isinstance(outcome, RestoreResult), outcome
    assert tree_of(prefix) == {"conda-meta": ("directory", 0o755, b""), "a": ("file", 0o644, b"2")}


# --- failures of one environment --------------------------------------------------------------------------


def run_out_of_memory() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def recurse() -> None:
    recurse()


def allocate() -> None:
    raise MemoryError


def encode() -> None:
    "\ud800".encode()


def read_damaged_disk() -> None:
    raise OSError(errno.EIO, "Input/output error")


#: The steps of a restore: functions, and how to tell by their arguments which environment they are called for.
STEPS: dict[str, tuple[str, Callable[..., object]]] = {
    "planning": (
        "snapper.restoring.plan.make_plan",
        lambda _store, inspected, _time: inspected.target.prefix,
    ),
    "announcing": ("snapper.kernels.Registrar.register_pending", lambda _registrar, prefix, *_: prefix),
    "staging": ("snapper.restoring.engine.stage", lambda prefix: prefix),
    "linking": ("snapper.restoring.unpacker.link_unchanged", lambda prefix, *_: prefix),
    "writing": ("snapper.restoring.layer_writer._Writer.write_members", lambda writer, _: writer._job.prefix),
    "finalizing": ("snapper.restoring.unpacker.finalize_tree", lambda _directory, prefix, *_: prefix),
    "swapping": ("snapper.restoring.staging.Staging.swap", lambda staging, *_: staging.target),
    "registering": ("snapper.kernels.Registrar.register", lambda _registrar, prefix, _name: prefix),
}


@pytest.mark.parametrize(
    ("step", "fail"),
    [
        *((step, recurse) for step in STEPS),
        *(("writing", fail) for fail in (run_out_of_memory, allocate, encode, read_damaged_disk)),
        *(("finalizing", fail) for fail in (allocate, encode, read_damaged_disk)),
        ("registering", read_damaged_disk),
    ],
)
def test_failure_of_one_environment_never_stops_the_others(
    sandbox: Path, monkeypatch: pytest.MonkeyPatch, step: str, fail: Callable[[], None]
) -> None:
    """Whatever happens while it is restored is reported as its error; the log has the tracebacks of bugs."""
    target, prefix_of = STEPS[step]
    bad = sandbox / "home" / "envs" / "2"
    original = pkgutil.resolve_name(target)

    def failing(*arguments: Any, **options: Any) -> Any:
        if str(prefix_of(*arguments)) == str(bad):
            fail()
        return original(*arguments, **options)

    monkeypatch.setattr(target, failing)
    layers = [pack_members(encode_member(META)), *(pack_members(file(str(n))) for n in range(20))]
    store = open_store(str(sandbox / "store"))
    publish_layers(store, layers)
    requests = [RestoreRequest(SnapshotSpec("work"), prefix=bad.with_name(str(n))) for n in range(4)]
    outcomes = list(restore(store, requests, jobs=2))
    (failure,) = (outcome for outcome in outcomes if isinstance(outcome, RestoreFailure))
    restored = {outcome.prefix for outcome in outcomes if isinstance(outcome, RestoreResult)}
    assert restored == {str(bad.with_name(str(n))) for n in (0, 1, 3)}
    assert all((Path(prefix) / "19").is_file() for prefix in restored)
    assert "\n" not in failure.error.message
    if isinstance(failure.error, UnexpectedError):
        assert "Traceback" in Path(failure.error.log).read_text()
    assert bad.exists() == (step == "registering")
    assert not list(bad.parent.glob(".*.snapper"))


# --- as another user --------------------------------------------------------------------------------------


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a home and a store for a user who is not exempt from permissions."""
    top = Path(tempfile.mkdtemp())
    monkeypatch.setenv("HOME", str(top))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(top / "jupyter"))
    open_store(str(top / "store"), create=True)
    yield top
    shutil.rmtree(top)


RECORD = b'{"name":"p","paths_data":{"paths":[{"_path":"t","sha256_in_prefix":"%b"}]}}' % (b"0" * 64)


def test_unprivileged_user_restores_read_only_files_and_directories(public: Path) -> None:
    parts = [
        directory("d", 0o555),
        file("d/e/f", b"x", 0o444),
        directory("d/e", 0o500),
        symlink("d/e/link", "f"),
        hardlink("d/hard", "d/e/f"),
        file("t", PLACEHOLDER_BYTES, 0o444),
    ]
    relocations = relocations_of("text", "t")
    record = file("conda-meta/p.json", RECORD, 0o444)
    records = (Relocation("record", "", ("conda-meta/p.json",)),)
    layers = [pack_segment(b"".join(parts), len(parts), relocations), pack_segment(record, 1, records)]
    layers += split_file(b"x" * 3000, [1000, 2000], (), mode=0o444)
    publish_layers(open_store(str(public / "store")), layers, mode=0o555)
    pid = os.fork()
    if pid == 0:
        try:
            if os.getuid() == 0:
                os.chown(public, NOBODY, NOBODY)
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            store = open_store(str(public / "store"))
            request = RestoreRequest(SnapshotSpec("work"), prefix=public / "work")
            (outcome,) = restore(store, [request], jobs=2)
            os._exit(not isinstance(outcome, RestoreResult))
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    tree = tree_of(public / "work")
    assert (public / "work").stat().st_mode & 0o777 == 0o755
    assert tree["d"][:2] == ("directory", 0o555)
    assert tree["d/e"][:2] == ("directory", 0o500)
    assert tree["d/e/f"] == ("file", 0o444, b"x")
    assert tree["d/hard"] == ("file", 0o444, b"x")
    assert tree["t"] == ("file", 0o444, os.fsencode(public / "work"))
    digest = hashlib.sha256(os.fsencode(public / "work")).hexdigest().encode()
    assert tree["conda-meta/p.json"] == ("file", 0o444, RECORD.replace(b"0" * 64, digest))
    assert tree["lib/big"] == ("file", 0o444, b"x" * 3000)


# --- what a snapshot brings that is read again ------------------------------------------------------------

MALFORMED_RECORDS = {
    "no JSON": b'{"_path": "t", "sha256_in_prefix": ' + b'"' + b"0" * 64 + b'"',
    "a path that is none": b'{"_path": ["t"], "sha256_in_prefix": "%b"}' % (b"0" * 64),
    "the word alone": b'{"name": "_path"}',
    "nesting without end": b'{"_path": ' + b"[" * 100_000 + b"}",
    "objects that never end": b'{"_path"' * 100_000,
    "paths that never end": b"{" + b'"_path"' * 100_000,
    "one path without end": b"{" + b'"_path":"t",' * 100_000 + b'"size":0}',
    "no UTF-8": b'{"_path": "\xff"}',
    "nothing": b"",
}


@pytest.mark.parametrize(
    "record",
    [
        RECORD,
        b'{"files":["t"],"link":{"source":"t"},"paths":[{"sha256_in_prefix" : "%b",\n "_path"\n : "t"}]}',
        b'{"paths":[{"_path":"s"},{"_path":"\\u0074","sha256_in_prefix":"%b"},{"_path":"u"}]}',
        b'{"paths":[{"_path":"{s"},{"_path":"t","prefix":"}","sha256_in_prefix":"%b"},{"_path":"u"}]}',
        b'{"paths":[{"kind":"_path","_path":"t","sha256_in_prefix":"%b"},{"_path":"t\xc3\xa9"}]}',
    ],
)
def test_records_are_updated_whatever_their_formatting(sandbox: Path, record: bytes) -> None:
    record = record.replace(b"%b", b"0" * 64)
    text = pack_segment(file("t", PLACEHOLDER_BYTES), 1, relocations_of("text", "t"))
    records = (Relocation("record", "", ("conda-meta/p.json",)),)
    prefix = restore_layers(sandbox, [text, pack_segment(file("conda-meta/p.json", record), 1, records)])
    digest = hashlib.sha256((prefix / "t").read_bytes()).hexdigest().encode()
    assert (prefix / "conda-meta" / "p.json").read_bytes() == record.replace(b"0" * 64, digest)


@pytest.mark.parametrize("what", MALFORMED_RECORDS)
def test_malformed_records_are_restored_unchanged(sandbox: Path, what: str) -> None:
    """A hostile store cannot make records slow to process or fail the restore."""
    record = file("conda-meta/p.json", MALFORMED_RECORDS[what])
    text = pack_segment(file("t", PLACEHOLDER_BYTES), 1, relocations_of("text", "t"))
    began = time.process_time()
    prefix = restore_layers(
        sandbox, [text, pack_segment(record, 1, (Relocation("sized-record", "", ("conda-meta/p.json",)),))]
    )
    assert (prefix / "conda-meta" / "p.json").read_bytes() == MALFORMED_RECORDS[what]
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: b"{}\n",
        lambda data: b"5",
        lambda data: b"[" * 100_000,
        lambda data: b"\0" * 100,
        lambda data: data[:-1],
        lambda data: data[: data.index(b"\n") + 9],
        lambda data: data + b"\0" * 24 + b"\xff",
        lambda data: data.replace(b"\n", b"\n" + b"\xff" * 24),
        lambda data: data.replace(b'"taken"', b'"token"'),
        lambda data: data.replace(b'"format": 1', b'"format": 9'),
    ],
)
def test_malformed_index_does_not_allow_replacing_the_environment(
    sandbox: Path, change: Callable[[bytes], bytes]
) -> None:
    prefix = restore_layers(sandbox, [pack_members(encode_member(META), file("a"))])
    index = prefix / ".snapper" / "index"
    index.write_bytes(change(index.read_bytes()))
    before = without_run_records(tree_of(sandbox))
    (outcome,) = restore(
        open_store(str(sandbox / "store")), [RestoreRequest(SnapshotSpec("work"), prefix=prefix)]
    )
    assert isinstance(outcome, RestoreFailure)
    assert outcome.error.code == 11
    assert without_run_records(tree_of(sandbox)) == before


@pytest.mark.parametrize("worked_in", [False, True])
def test_new_environment_that_gives_way_to_the_old_one_is_removed_if_nobody_has_worked_in_it(
    sandbox: Path, worked_in: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is at the path while the old one is checked, and must not be lost with what was saved in it."""
    prefix = restore_layers(sandbox, [pack_members(encode_member(META), file("a", b"1"))])

    def refuse(*_: object) -> str:
        assert (prefix / "a").read_bytes() == b"2"
        if worked_in:
            (prefix / "result").write_text("saved")
        raise TargetOccupied(str(prefix), "it has changed", "")

    monkeypatch.setattr("snapper.restoring.engine.check_replaced", refuse)
    publish_layers(open_store(str(sandbox / "store")), [pack_members(encode_member(META), file("a", b"2"))])
    assert isinstance(restore_work(sandbox), RestoreFailure)
    assert (prefix / "a").read_bytes() == b"1"
    kept = [path for path in prefix.parent.iterdir() if path.name.startswith("work.replaced-")]
    assert [(path / "result").read_text() for path in kept] == (["saved"] if worked_in else [])
    assert not prefix.with_name(".work.snapper").exists()


@pytest.mark.parametrize("inspected", ["an environment", "an empty directory"])
def test_only_the_environment_that_was_inspected_is_discarded(
    inspected: str, sandbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others may rename in a shared directory, while the restore goes on."""
    prefix = restore_layers(sandbox, [pack_members(encode_member(META), file("a", b"1"))])
    if inspected == "an empty directory":
        shutil.rmtree(prefix)
        prefix.mkdir()
    write_state = state.write

    def replace_target(*arguments: Any) -> None:
        write_state(*arguments)
        prefix.rename(prefix.with_name("moved"))
        (prefix / "conda-meta").mkdir(parents=True)
        (prefix / "work").write_text("of some weeks")

    monkeypatch.setattr(state, "write", replace_target)
    publish_layers(open_store(str(sandbox / "store")), [pack_members(encode_member(META), file("a", b"2"))])
    outcome = restore_work(sandbox)
    assert isinstance(outcome, RestoreFailure)
    assert "it was replaced while restoring" in outcome.error.message
    assert (prefix / "work").read_text() == "of some weeks"


@pytest.mark.parametrize("path", [".", "lib"])
def test_leftover_that_others_may_write_to_does_not_count_as_unchanged(path: str, sandbox: Path) -> None:
    """It would be removed after a kill, with what they have moved there."""
    prefix = restore_layers(sandbox, [pack_members(encode_member(META), file("lib/a", b"1"))])
    directory = os.open(prefix, os.O_RDONLY)
    assert is_as_written(directory, prefix)
    (prefix / path).chmod(0o777)
    assert not is_as_written(directory, prefix)
    os.close(directory)


@pytest.mark.skipif(os.getegid() not in private_groups(), reason="others are in this user's group")
def test_environment_that_only_the_users_own_group_may_write_to_is_replaced(
    sandbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many systems give each user such a group, and the umask 002."""
    prefix = restore_layers(sandbox, [pack_members(encode_member(META), file("lib/a", b"1"))])
    for path in (prefix, prefix / "lib", prefix / ".snapper"):
        path.chmod(0o775)
    monkeypatch.setenv("HOME", str(sandbox / "elsewhere"))
    restore_layers(sandbox, [pack_members(encode_member(META), file("lib/a", b"2"))], prefix=prefix)
    assert (prefix / "lib/a").read_bytes() == b"2"
