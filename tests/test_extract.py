"""Extraction: layers come back byte for byte, and nothing that a hostile store says reaches outside."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard

from snapper.commands.restore import RestoreFailure, RestoreResult, restore
from snapper.environment import this_platform
from snapper.errors import Corrupted, SnapperError
from snapper.format import canonical, manifest
from snapper.format.layout import Layout
from snapper.format.model import FORMAT, Continuation, HistoryEntry, Layer, Ref, Relocation, Snapshot
from snapper.format.segment import Member, encode_header, padding
from snapper.repository.objects import write_pages
from snapper.repository.refs import read_ref
from snapper.repository.snapshots import write_snapshot
from snapper.repository.specs import SnapshotSpec
from snapper.restoring.target import RestoreRequest
from snapper.store import Store, open_store
from tests.conftest import tree_of, untold

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

NOBODY = 65534
PLACEHOLDER = "/opt/placeholder"
P = PLACEHOLDER.encode()
META = Member("conda-meta", "directory", 0o755, 0)

Stored = tuple[Layer, bytes]


# --- layers by hand ---------------------------------------------------------------------------------------


def whole(member: Member, data: bytes = b"") -> bytes:
    return encode_header(member) + data + padding(len(data))


def file(path: str, data: bytes = b"data", mode: int = 0o644, mtime: int = 1_600_000_000) -> bytes:
    return whole(Member(path, "file", mode, mtime, len(data)), data)


def directory(path: str, mode: int = 0o755) -> bytes:
    return whole(Member(path, "directory", mode, 0))


def symlink(path: str, target: str | Path) -> bytes:
    return whole(Member(path, "symlink", 0o777, 0, 0, str(target)))


def hardlink(path: str, target: str) -> bytes:
    return whole(Member(path, "hardlink", 0o644, 0, 0, target))


def typed(path: str, flag: bytes) -> bytes:
    """A member of a type that no layer has."""
    block = bytearray(file(path, b""))
    block[156:157] = flag
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def packed(
    segment: bytes,
    members: int,
    relocations: tuple[Relocation, ...] = (),
    begins: Continuation | None = None,
    stored: bytes | None = None,
) -> Stored:
    """A layer and its bytes, which are `stored` where they are not simply the segment's."""
    data = zstandard.compress(segment) if stored is None else stored
    digest, diff_id = hashlib.sha256(data).hexdigest(), hashlib.sha256(segment).hexdigest()
    return Layer(digest, len(data), diff_id, len(segment), "files", "", members, relocations, begins), data


def layer(*parts: bytes) -> Stored:
    return packed(b"".join(parts), len(parts))


def relocated(mode: Any, *paths: str) -> tuple[Relocation, ...]:
    return (Relocation(mode, PLACEHOLDER, paths),)


# --- a store by hand --------------------------------------------------------------------------------------


def keep(store: Store, layers: list[Stored], mode: int = 0o755) -> None:
    """Makes a snapshot of the layers, and an environment `work` that is at it."""
    for each, data in layers:
        store.put(Layout.layer(each.digest), data)
    whole_snapshot = Snapshot(
        FORMAT, this_platform(), mode, (), (), (), (), (), tuple(each for each, _ in layers)
    )
    point(store, put(store, whole_snapshot))


def put(store: Store, found: Snapshot) -> str:
    """Writes the snapshot, whose layers need not be there; its id."""
    encoded = manifest.encode(found)
    write_pages(store, encoded.pages)
    write_snapshot(store, encoded)
    return encoded.digest


def point(store: Store, digest: str) -> None:
    step = HistoryEntry(
        digest, "pack", "2026-01-01T00:00:00Z", "ada", "host", "/nowhere/work", "", 0, 0, 0, 0
    )
    try:
        version = store.read_versioned(Layout.ref("work"))[1]
    except SnapperError:
        version = None
    entry = Ref(FORMAT, "work", digest, (step,), {})
    store.replace(Layout.ref("work"), canonical.encode(entry), version)


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home with an environment to be replaced, and next to it what must not be touched."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "home" / "jupyter"))
    (tmp_path / "home" / "envs" / "work" / "conda-meta").mkdir(parents=True)
    (tmp_path / "home" / "envs" / "work" / "kept").write_text("as it was")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    (tmp_path / "outside" / "victim").write_text("untouched")
    open_store(str(tmp_path / "store"), create=True)
    return tmp_path


def prefix_of(top: Path) -> Path:
    return top / "home" / "envs" / "work"


def brought_back(top: Path, *, jobs: int = 2, prefix: Path | None = None) -> RestoreResult | RestoreFailure:
    store = open_store(str(top / "store"))
    wanted = RestoreRequest(SnapshotSpec("work"), prefix=prefix or prefix_of(top), replace=True)
    (done,) = restore(store, [wanted], jobs=jobs)
    return done


def done(top: Path, layers: list[Stored], **options: Any) -> Path:
    """Restores the layers; where they are then."""
    keep(open_store(str(top / "store")), layers)
    outcome = brought_back(top, **options)
    assert isinstance(outcome, RestoreResult), outcome
    return Path(outcome.prefix)


# --- what is restored -------------------------------------------------------------------------------------


def test_members_come_back_as_they_were(top: Path) -> None:
    prefix = done(
        top,
        [
            layer(
                whole(META),
                file("bin/tool", b"#!/bin/sh\n", 0o755, 1),
                file("empty", b"", 0o600, 0),
                file("naïve/\udcff/" + "n" * 120, b"long"),
                symlink("bin/alias", "tool"),
                symlink("outside", "/etc/passwd"),
                symlink("dangling", "nowhere/at/all"),
            ),
            layer(
                hardlink("bin/same", "bin/tool"),
                directory("hollow", 0o700),
                directory("shared/below", 0o2775),
                file("suid", b"x", 0o4755),
            ),
        ],
    )
    found = tree_of(prefix)
    assert found["bin/tool"] == ("file", 0o755, b"#!/bin/sh\n")
    assert found["empty"] == ("file", 0o600, b"")
    assert found["naïve/\udcff/" + "n" * 120] == ("file", 0o644, b"long")
    assert found["bin/alias"] == ("symlink", 0o777, b"tool")
    assert found["outside"] == ("symlink", 0o777, b"/etc/passwd")
    assert found["dangling"] == ("symlink", 0o777, b"nowhere/at/all")
    assert found["hollow"][:2] == ("directory", 0o700)
    assert found["shared"][:2] == ("directory", 0o755)
    assert found["shared/below"][:2] == ("directory", 0o775)
    assert found["suid"][:2] == ("file", 0o755)
    assert (prefix / "bin" / "tool").samefile(prefix / "bin" / "same")
    assert int((prefix / "bin" / "tool").stat().st_mtime) == 1
    assert "kept" not in found
    assert (prefix.stat().st_mode & 0o7777) == 0o755


def test_what_was_restored_is_present_the_next_time(top: Path) -> None:
    cut = b"0123456789" * 300
    prefix = done(
        top,
        [
            layer(whole(META), file("a"), hardlink("b", "a"), symlink("c", "a")),
            packed(whole(Member("cut", "file", 0o644, 5, len(cut)), b"")[:512] + cut[:1000], 1),
            packed(cut[1000:] + padding(len(cut)), 0, (), Continuation("cut", 1000, len(cut), 0)),
        ],
    )
    wanted = RestoreRequest(SnapshotSpec("work"), prefix=prefix)
    (again,) = restore(open_store(str(top / "store")), [wanted], jobs=1)
    assert isinstance(again, RestoreResult), again
    assert again.present


@pytest.mark.parametrize("mask", [0o077, 0o002, 0])
def test_modes_do_not_depend_on_the_umask(top: Path, mask: int) -> None:
    """Nor do those of what is taken over the second time."""
    one = layer(whole(META), file("d/f"), file("f", b"", 0o664), symlink("only/links/here", "x"))
    before = os.umask(mask)
    try:
        done(top, [one])
        prefix = done(top, [one, layer(file("g"))])
    finally:
        assert os.umask(before) == mask
    modes = {path: mode for path, (_, mode, _) in tree_of(prefix).items()}
    assert modes == {
        "conda-meta": 0o755,
        "d": 0o755,
        "d/f": 0o644,
        "f": 0o664,
        "g": 0o644,
        "only": 0o755,
        "only/links": 0o755,
        "only/links/here": 0o777,
    }


def test_more_directories_than_descriptors(top: Path) -> None:
    paths = [f"d{number}/" + "below/" * (number % 9) + "file" for number in range(400)]
    layers = [
        layer(whole(META), *(file(path, path.encode()) for path in paths[start::3])) for start in range(3)
    ]
    links = layer(
        *(hardlink(f"{path}.hard", path) for path in paths[:200]), *(symlink(f"{p}.soft", p) for p in paths)
    )
    prefix = done(top, [*layers, links])
    assert all((prefix / path).read_text() == path for path in paths)
    assert all((prefix / f"{path}.hard").read_text() == path for path in paths[:200])


def cut_layers(
    data: bytes, cuts: list[int], relocations: tuple[Relocation, ...], mode: int = 0o755
) -> list[Stored]:
    """A file `lib/big` in pieces, among whole ones."""
    ends = [*cuts, len(data)]
    first = Member("lib/big", "file", mode, 1_600_000_000, len(data))
    layers = [packed(file("before") + encode_header(first) + data[: cuts[0]], 2, relocations)]
    for start, end in itertools.pairwise(ends):
        replaced = data[:start].count(P) if relocations and relocations[0].mode == "text" else 0
        begins = Continuation("lib/big", start, len(data), replaced)
        tail = padding(len(data)) + file("behind") if end == len(data) else b""
        layers.append(packed(data[start:end] + tail, int(end == len(data)), relocations, begins))
    return layers


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("mode", [None, "text", "binary"])
def test_a_file_that_several_layers_hold(top: Path, mode: str | None, jobs: int) -> None:
    data = b"".join(b"%d:" % number + P + b"/lib\0".replace(b"\0", b"\0" * 40) for number in range(200))
    if mode == "text":
        data = data.replace(b"\0", b"-")
    cuts = [data.index(b"50:"), data.index(b"99:"), data.index(b"180:")]
    relocations = relocated(mode, "lib/big") if mode else ()
    prefix = done(
        top, [layer(whole(META)), *cut_layers(data, cuts, relocations)], jobs=jobs, prefix=top / "p"
    )
    new = os.fsencode(prefix)
    expected = {
        None: data,
        "text": data.replace(P, new),
        "binary": b"".join(
            b"%d:" % number + (new + b"/lib").ljust(len(P) + 44, b"\0") for number in range(200)
        ),
    }[mode]
    big = prefix / "lib" / "big"
    if mode == "binary" and len(new) > len(P):
        expected = data
    assert big.read_bytes() == expected
    assert stat.S_IMODE(big.stat().st_mode) == 0o755
    assert big.stat().st_mtime == 1_600_000_000
    assert (prefix / "behind").read_text() == "data"


def test_a_prefix_that_does_not_fit_is_told_once(top: Path) -> None:
    data = (b"\x7fELF" + P + b"\0" + b"x" * 100) * 3
    keep(
        open_store(str(top / "store")),
        [layer(whole(META)), *cut_layers(data, [130, 250], relocated("binary", "lib/big"))],
    )
    outcome = brought_back(top, prefix=top / "a prefix that is longer than the placeholder")
    assert isinstance(outcome, RestoreResult)
    assert outcome.unrelocated == ("lib/big",)
    assert Path(outcome.prefix, "lib/big").read_bytes() == data


def test_targets_of_links_follow_the_prefix(top: Path) -> None:
    links = symlink("a", f"{PLACEHOLDER}/bin/x") + symlink("b", "/opt/other") + symlink("c", PLACEHOLDER)
    prefix = done(top, [packed(whole(META) + links, 4, relocated("link", "a", "c"))])
    assert [os.readlink(prefix / name) for name in "abc"] == [f"{prefix}/bin/x", "/opt/other", str(prefix)]


def test_a_hard_link_across_layers_goes_with_its_file(top: Path) -> None:
    """Also where the environment has the link's layer already, and only that."""
    link = layer(hardlink("b", "a"))
    for text in (b"one", b"two"):
        prefix = done(top, [layer(whole(META)), layer(file("a", text)), link])
        assert (prefix / "b").read_bytes() == text
        assert (prefix / "b").samefile(prefix / "a")


# --- what is refused --------------------------------------------------------------------------------------

GOOD = layer(whole(META), file("good"))


def begun(size: int, held: bytes, path: str = "big", **options: Any) -> Stored:
    """A layer that ends inside a file's data."""
    return packed(encode_header(Member(path, "file", 0o644, 0, size)) + held, 1, **options)


def rest(
    offset: int, held: bytes, size: int = 2000, path: str = "big", replaced: int = 0, **options: Any
) -> Stored:
    """A layer that begins inside a file's data."""
    return packed(held, 0, begins=Continuation(path, offset, size, replaced), **options)


def with_manifest(of: Stored, **changes: Any) -> Stored:
    return replace(of[0], **changes), of[1]


def stored_as(segment: bytes, data: bytes) -> list[Stored]:
    return [GOOD, packed(segment, 1, stored=data)]


PLAIN = file("plain", b"plain" * 1000)

HOSTILE: dict[str, Callable[[Path], list[Stored]]] = {
    # paths
    "a file above": lambda _: [layer(file("../victim"))],
    "a file beside": lambda _: [layer(file("a/../../../outside/victim"))],
    "a file at an absolute path": lambda out: [layer(file(f"{out}/victim"))],
    "a file at a long absolute path": lambda out: [layer(file(f"{out}/{'v' * 200}"))],
    "a directory above": lambda _: [layer(directory(".."))],
    "a directory at an absolute path": lambda out: [layer(directory(str(out), 0))],
    "a symlink above": lambda _: [layer(symlink("../link", "victim"))],
    "a hard link above": lambda _: [layer(file("a"), hardlink("../../outside/new", "a"))],
    "a path that stays": lambda _: [layer(file("./a"))],
    "a path with a gap": lambda _: [layer(file("a//b"))],
    "a path that ends in a slash": lambda _: [layer(file("a/"))],
    "a directory that is the top": lambda _: [layer(directory(".", 0o777))],
    "no path": lambda _: [layer(file(""))],
    "a path without end": lambda _: [layer(file("a/" * 3000 + "a"))],
    "a NUL in a long path": lambda _: [layer(file("x" * 101 + "\0/../../victim"))],
    "snapper's own directory": lambda _: [layer(directory(".snapper"))],
    "a symlink for snapper's own directory": lambda out: [layer(symlink(".snapper", out))],
    "snapper's own state": lambda _: [layer(file(".snapper/state.json"))],
    # links
    "a file through a symlink": lambda out: [layer(symlink("a", out), file("a/victim"))],
    "a file through a symlink that comes later": lambda out: [layer(file("a/victim"), symlink("a", out))],
    "a file through another layer's symlink": lambda out: [layer(symlink("a", out)), layer(file("a/victim"))],
    "a file through a later layer's symlink": lambda out: [layer(file("a/victim")), layer(symlink("a", out))],
    "a file at a symlink": lambda out: [layer(symlink("a", out / "victim"), file("a"))],
    "a directory at a symlink": lambda out: [layer(symlink("a", out), directory("a", 0o700))],
    "a directory through a symlink": lambda out: [layer(symlink("a", out), directory("a/new"))],
    "a symlink through a symlink": lambda out: [layer(symlink("a", out), symlink("a/new", "x"))],
    "a hard link through a symlink": lambda out: [
        layer(symlink("a", out), file("f"), hardlink("a/new", "f"))
    ],
    "a hard link to what a symlink leads to": lambda out: [
        layer(symlink("a", out), hardlink("b", "a/secret"))
    ],
    "a hard link to a symlink": lambda out: [layer(symlink("a", out / "secret"), hardlink("b", "a"))],
    "a hard link to another layer's symlink": lambda out: [
        layer(symlink("a", out / "secret")),
        layer(hardlink("b", "a")),
    ],
    "a hard link out": lambda _: [layer(hardlink("a", "../../../outside/secret"))],
    "a hard link to an absolute path": lambda out: [layer(hardlink("a", f"{out}/secret"))],
    "a hard link to nothing": lambda _: [layer(hardlink("a", "b"))],
    "a hard link to a directory": lambda _: [layer(directory("a", 0o700), hardlink("b", "a"))],
    "a hard link to itself": lambda _: [layer(hardlink("a", "a"))],
    "a hard link to the state": lambda _: [layer(hardlink("a", ".snapper/state.json"))],
    "a symlink to the empty path": lambda _: [layer(symlink("a", ""))],
    # names twice
    "a file twice": lambda _: [layer(file("a", b"1"), file("a", b"2"))],
    "a file in two layers": lambda _: [layer(file("a", b"1")), layer(file("a", b"2"))],
    "a file and a directory": lambda _: [layer(file("a"), directory("a", 0o700))],
    "a directory and a file": lambda _: [layer(directory("a", 0o700), file("a"))],
    "a file and what is below it": lambda _: [layer(file("a"), file("a/b"))],
    "what is below a file, and it": lambda _: [layer(file("a/b"), file("a"))],
    "a symlink twice": lambda _: [layer(symlink("a", "b"), symlink("a", "c"))],
    "a symlink and a file": lambda _: [layer(symlink("a", "b")), layer(file("a"))],
    "a hard link and a symlink": lambda _: [layer(file("f"), hardlink("a", "f"), symlink("a", "f"))],
    "a cut file and then a whole one": lambda _: [
        begun(2000, b"x" * 500),
        rest(500, b"x" * 1548),
        layer(file("big")),
    ],
    "a whole file and then a cut one": lambda _: [
        layer(file("big", b"y" * 9000)),
        begun(2000, b"x" * 500),
        rest(500, b"x" * 1548),
    ],
    # types
    "a character device": lambda _: [layer(typed("dev", b"3"))],
    "a block device": lambda _: [layer(typed("dev", b"4"))],
    "a fifo": lambda _: [layer(typed("pipe", b"6"))],
    # sizes
    "more members than the manifest says": lambda _: [with_manifest(layer(file("a"), file("b")), members=1)],
    "fewer members than the manifest says": lambda _: [with_manifest(layer(file("a")), members=2)],
    "a layer that unpacks to more": lambda _: stored_as(PLAIN, zstandard.compress(PLAIN + file("more"))),
    "a layer that unpacks to less": lambda _: stored_as(PLAIN, zstandard.compress(PLAIN[:-512])),
    "a layer that unpacks to nothing": lambda _: stored_as(PLAIN, zstandard.compress(b"")),
    "a layer of two frames": lambda _: stored_as(
        PLAIN, zstandard.compress(PLAIN) + zstandard.compress(file("more"))
    ),
    "a layer with a tail": lambda _: stored_as(PLAIN, zstandard.compress(PLAIN) + b"tail"),
    "a layer that is cut off": lambda _: stored_as(PLAIN, zstandard.compress(PLAIN)[:-20]),
    "a layer that is not compressed": lambda _: stored_as(PLAIN, PLAIN),
    "an empty object": lambda _: stored_as(PLAIN, b""),
    "a layer that unpacks without end": lambda _: stored_as(PLAIN, zstandard.compress(b"\0" * 100_000_000)),
    "no members at all": lambda _: [packed(b"\xff" * 1024, 1)],
    "the end of an archive inside": lambda _: [layer(file("a"), b"\0" * 1024)],
    "a layer that ends inside a header": lambda _: [packed(file("a")[:100], 1)],
    # cut files
    "a cut file without its end": lambda _: [begun(2000, b"x" * 500)],
    "a cut file without its middle": lambda _: [begun(2000, b"x" * 500), rest(700, b"x" * 1300)],
    "a cut file that overlaps": lambda _: [begun(2000, b"x" * 500), rest(400, b"x" * 1600)],
    "a cut file that goes on with another": lambda _: [
        begun(2000, b"x" * 500),
        rest(500, b"x" * 1548, path="b"),
    ],
    "a cut file that goes on in another size": lambda _: [
        begun(2000, b"x" * 500),
        rest(500, b"x" * 2048, size=2500),
    ],
    "a cut file that something parts": lambda _: [begun(2000, b"x" * 500), GOOD, rest(500, b"x" * 1548)],
    "a cut file whose end comes twice": lambda _: [
        begun(2000, b"x" * 500),
        rest(500, b"x" * 1548),
        rest(500, b"y" * 1548),
    ],
    "members behind a cut file": lambda _: [
        layer(encode_header(Member("big", "file", 0o644, 0, 100_000)), file("a"))
    ],
    "a middle without a beginning": lambda _: [GOOD, layer(file("f", b"x" * 4000)), rest(500, b"x" * 1548)],
    "an end that begins at the end": lambda _: [layer(file("f", b"x" * 4000)), rest(2000, b"")],
    "a cut file at a path outside": lambda _: [begun(2000, b"x" * 500, "../big")],
    "a cut file at a symlink": lambda out: [
        layer(symlink("big", out / "victim")),
        begun(2000, b"x" * 500),
        rest(500, b"x" * 1548),
    ],
    "a cut file through a symlink": lambda out: [
        layer(symlink("a", out)),
        begun(2000, b"x" * 500, "a/victim"),
        rest(500, b"x" * 1548, path="a/victim"),
    ],
    "a cut file at a directory": lambda _: [
        begun(2000, b"x" * 500, "d"),
        rest(500, b"x" * 1548, path="d"),
        layer(file("d/f")),
    ],
    "a cut text that counts too few placeholders": lambda _: cut_text(PLACEHOLDER, 0),
    "a cut text that counts too many placeholders": lambda _: cut_text(PLACEHOLDER, 2),
    "a cut text that counts more placeholders than fit": lambda _: cut_text("/long" * 100, 700),
}


def cut_text(placeholder: str, replaced: int) -> list[Stored]:
    """A file in two pieces, the second of which says that so many placeholders stand before it."""
    data = b"x" * 600 + P + b"y" * 600 + P + b"z" * 300
    how = (Relocation("text", placeholder, ("big",)),)
    first, second = data[:700], data[700:] + padding(len(data))
    return [
        begun(len(data), first, relocations=how),
        rest(700, second, len(data), replaced=replaced, relocations=how),
    ]


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_layers_are_refused_and_nothing_happens(top: Path, what: str) -> None:
    layers = HOSTILE[what](top / "outside")
    keep(open_store(str(top / "store")), [layer(whole(META)), *layers])
    before = untold(tree_of(top))
    for jobs in (1, 2):
        outcome = brought_back(top, jobs=jobs)
        assert isinstance(outcome, RestoreFailure), outcome
        assert isinstance(outcome.error, Corrupted), (outcome.error, outcome.error.message)
        assert outcome.error.code == 12
        assert "\n" not in outcome.error.message
        assert untold(tree_of(top)) == before


def test_a_middle_by_itself_never_makes_a_large_file(top: Path) -> None:
    """What a manifest may say of places in files is bounded by what its layers hold."""
    with pytest.raises(ValueError, match="begins"):
        keep(open_store(str(top / "store")), [rest(2**40, b"x", 2**41)])
    with pytest.raises(ValueError, match="outside"):
        rest(2001, b"")


@pytest.mark.parametrize("what", ["missing", "cut off", "altered", "empty", "longer"])
def test_layers_that_are_not_what_their_name_says(top: Path, what: str) -> None:
    store = open_store(str(top / "store"))
    keep(store, [layer(whole(META)), GOOD])
    place = top / "store" / Layout.layer(GOOD[0].digest)
    data = GOOD[1]
    altered = data[:20] + bytes([data[20] ^ 1]) + data[21:]
    place.write_bytes(
        {"cut off": data[:-1], "altered": altered, "empty": b"", "longer": data + b"x"}.get(what, b"")
    )
    if what == "missing":
        place.unlink()
    before = untold(tree_of(top))
    outcome = brought_back(top)
    assert isinstance(outcome, RestoreFailure)
    assert outcome.error.code == 12
    assert GOOD[0].digest[:12] in outcome.error.message
    assert untold(tree_of(top)) == before


def test_a_snapshot_that_is_not_what_its_name_says(top: Path) -> None:
    store = open_store(str(top / "store"))
    keep(store, [layer(whole(META))])
    (place,) = (top / "store" / "snapshots").iterdir()
    place.write_bytes(place.read_bytes().replace(b'"mode":493', b'"mode":511'))
    outcome = brought_back(top)
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
def test_a_malformed_snapshot_of_the_right_name(top: Path, old: bytes, new: bytes) -> None:
    store = open_store(str(top / "store"))
    keep(store, [layer(whole(META))])
    (place,) = (top / "store" / "snapshots").iterdir()
    before_it = place.read_bytes()
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
    point(store, digest)
    before = untold(tree_of(top))
    outcome = brought_back(top)
    assert isinstance(outcome, RestoreFailure)
    assert outcome.error.code == 12
    assert "\n" not in outcome.error.message
    assert untold(tree_of(top)) == before


def test_the_next_environment_is_restored_by_the_same_workers(top: Path) -> None:
    """What went wrong in one leaves nothing that could get into another."""
    store = open_store(str(top / "store"))
    keep(store, [layer(whole(META), file("new"), file("new"))])
    bad, _ = read_ref(store, "work")
    keep(store, [layer(whole(META), file("new", b"second"), file("old", b"first"))])
    good, version = read_ref(store, "work")
    both = replace(good, history=(*bad.history, *good.history))
    store.replace(Layout.ref("work"), canonical.encode(both), version)
    wanted = [
        RestoreRequest(SnapshotSpec("work", name), prefix=prefix_of(top), replace=True)
        for name in ("~1", "", "~1", "")
    ]
    outcomes = list(restore(store, wanted, jobs=1))
    assert [type(each) for each in outcomes] == [RestoreFailure, RestoreResult, RestoreFailure, RestoreResult]
    assert tree_of(prefix_of(top)) == {
        "conda-meta": ("directory", 0o755, b""),
        "new": ("file", 0o644, b"second"),
        "old": ("file", 0o644, b"first"),
    }


def test_one_place_is_restored_to_twice_by_the_same_workers(top: Path) -> None:
    store = open_store(str(top / "store"))
    keep(store, [layer(whole(META), file("a", b"1"), file("d/only-first"))])
    first, _ = read_ref(store, "work")
    keep(store, [layer(whole(META), file("a", b"2"))])
    second, version = read_ref(store, "work")
    both = replace(second, history=(*first.history, *second.history))
    store.replace(Layout.ref("work"), canonical.encode(both), version)
    prefix = top / "p"
    wanted = [RestoreRequest(SnapshotSpec("work", name), prefix=prefix) for name in ("~1", "", "~1", "")]
    for outcome in restore(store, wanted, jobs=1):
        assert isinstance(outcome, RestoreResult), outcome
    assert tree_of(prefix) == {"conda-meta": ("directory", 0o755, b""), "a": ("file", 0o644, b"2")}


# --- as another user --------------------------------------------------------------------------------------


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of a user whom permissions bind."""
    top = Path(tempfile.mkdtemp())
    monkeypatch.setenv("HOME", str(top))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(top / "jupyter"))
    open_store(str(top / "store"), create=True)
    yield top
    shutil.rmtree(top)


RECORD = b'{"name":"p","paths_data":{"paths":[{"_path":"t","sha256_in_prefix":"%b"}]}}' % (b"0" * 64)


def test_read_only_files_and_directories_are_restored_by_who_may_not_do_everything(public: Path) -> None:
    parts = [
        directory("d", 0o555),
        file("d/e/f", b"x", 0o444),
        directory("d/e", 0o500),
        symlink("d/e/link", "f"),
        hardlink("d/hard", "d/e/f"),
        file("t", P, 0o444),
    ]
    relocations = relocated("text", "t")
    record = file("conda-meta/p.json", RECORD, 0o444)
    records = (Relocation("record", "", ("conda-meta/p.json",)),)
    layers = [packed(b"".join(parts), len(parts), relocations), packed(record, 1, records)]
    layers += cut_layers(b"x" * 3000, [1000, 2000], (), mode=0o444)
    keep(open_store(str(public / "store")), layers, mode=0o555)
    pid = os.fork()
    if pid == 0:
        try:
            if os.getuid() == 0:
                os.chown(public, NOBODY, NOBODY)
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            store = open_store(str(public / "store"))
            wanted = RestoreRequest(SnapshotSpec("work"), prefix=public / "work")
            (outcome,) = restore(store, [wanted], jobs=2)
            os._exit(not isinstance(outcome, RestoreResult))
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    found = tree_of(public / "work")
    assert (public / "work").stat().st_mode & 0o777 == 0o555
    assert found["d"][:2] == ("directory", 0o555)
    assert found["d/e"][:2] == ("directory", 0o500)
    assert found["d/e/f"] == ("file", 0o444, b"x")
    assert found["d/hard"] == ("file", 0o444, b"x")
    assert found["t"] == ("file", 0o444, os.fsencode(public / "work"))
    digest = hashlib.sha256(os.fsencode(public / "work")).hexdigest().encode()
    assert found["conda-meta/p.json"] == ("file", 0o444, RECORD.replace(b"0" * 64, digest))
    assert found["lib/big"] == ("file", 0o444, b"x" * 3000)


# --- what a snapshot brings that is read again -----------------------------------------------------------

NO_RECORDS = {
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
def test_records_are_restated_however_they_are_written(top: Path, record: bytes) -> None:
    record = record.replace(b"%b", b"0" * 64)
    text = packed(file("t", P), 1, relocated("text", "t"))
    records = (Relocation("record", "", ("conda-meta/p.json",)),)
    prefix = done(top, [text, packed(file("conda-meta/p.json", record), 1, records)])
    digest = hashlib.sha256((prefix / "t").read_bytes()).hexdigest().encode()
    assert (prefix / "conda-meta" / "p.json").read_bytes() == record.replace(b"0" * 64, digest)


@pytest.mark.parametrize("what", NO_RECORDS)
def test_records_that_are_none_come_back_as_they_are(top: Path, what: str) -> None:
    """Such as a hostile store has them: they cost neither much time nor the restore."""
    record = file("conda-meta/p.json", NO_RECORDS[what])
    text = packed(file("t", P), 1, relocated("text", "t"))
    began = time.process_time()
    prefix = done(top, [text, packed(record, 1, (Relocation("sized-record", "", ("conda-meta/p.json",)),))])
    assert (prefix / "conda-meta" / "p.json").read_bytes() == NO_RECORDS[what]
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
        lambda data: data.replace(b'"version": "', b'"version": "9'),
    ],
)
def test_an_index_that_makes_no_sense_vouches_for_nothing(
    top: Path, change: Callable[[bytes], bytes]
) -> None:
    prefix = done(top, [layer(whole(META), file("a"))])
    index = prefix / ".snapper" / "index"
    index.write_bytes(change(index.read_bytes()))
    before = untold(tree_of(top))
    (outcome,) = restore(
        open_store(str(top / "store")), [RestoreRequest(SnapshotSpec("work"), prefix=prefix)]
    )
    assert isinstance(outcome, RestoreFailure)
    assert outcome.error.code == 11
    assert untold(tree_of(top)) == before
