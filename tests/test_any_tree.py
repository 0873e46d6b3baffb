"""Whatever an environment is made of, it comes back: random trees, packed, moved, packed again, moved again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from conda_pack.prefixes import binary_replace
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snapper.commands.pack import PackResult, pack
from snapper.commands.restore import RestoreResult, restore
from snapper.format.model import Deviation
from snapper.repository.specs import SnapshotSpec
from snapper.restoring.requests import RestoreRequest
from snapper.store import open_store
from tests.conftest import tree_of

PACKAGE = "any-1.0-0"
PLACEHOLDER = ("/build" + "_placehold" * 25)[:255]

#: A part of a file: bytes as they are, or None for the prefix.
Parts = tuple[bytes | None, ...]


@dataclass(frozen=True)
class Node:
    """One thing to make. `kind` is file, program (whose prefixes are padded with NULs), sparse, symlink, hardlink,
    directory, through (a file that its package lists through a symlinked directory), or what is to be passed over:
    pipe, socket, environment, cache. What becomes of a package's file is its `fate`: kept, altered or
    missing; it is empty for files that no package has.
    """

    path: str
    kind: str
    mode: int = 0o644
    parts: Parts = ()
    target: str = ""
    fate: str = ""

    def package_data(self, prefix: bytes = PLACEHOLDER.encode()) -> bytes:
        """The bytes of the file where the prefix is this, nothing padded."""
        if self.kind == "program":
            return b"\x7fELF\0" + b"".join(
                prefix + b"/lib\0" if part is None else part for part in self.parts
            )
        return b"".join(prefix if part is None else part for part in self.parts)

    def data(self, prefix: Path) -> bytes:
        """The bytes of the file on disk."""
        if self.kind == "program":
            found = bytes(binary_replace(self.package_data(), PLACEHOLDER.encode(), os.fsencode(prefix)))
        else:
            found = self.package_data(os.fsencode(prefix))
        return found + b"\nmine" if self.fate == "altered" else found


@dataclass
class Made:
    """What of the nodes could be made: files and symlinks by path, the package's entries, what is to be passed over."""

    nodes: dict[str, Node] = field(default_factory=dict)
    entries: list[dict[str, object]] = field(default_factory=list)
    altered: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    skipped: set[str] = field(default_factory=set)
    modes: dict[Path, int] = field(default_factory=dict)


names = st.one_of(
    st.sampled_from(
        [
            "bin",
            "lib",
            "a",
            "A",
            "x y",
            "né",
            "日本",
            "-n",
            "new\nline",
            "\udcff\udcfe",
            "{x}",
            ".hidden",
            "old.c~",
            "n" * 90,
        ]
    ),
    st.text(
        st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=12
    ).filter(lambda name: name not in (".", "..", ".snapper") and len(name.encode()) < 200),
)
paths = (
    st.lists(names, min_size=1, max_size=5)
    .map("/".join)
    .filter(lambda path: path.split("/")[0] not in ("envs", "pkgs", "conda-meta"))
)
modes = st.sampled_from([0o644, 0o755, 0o600, 0o444, 0o400, 0o664, 0o777, 0o700, 0o4755, 0o2755, 0o1644])
fates = st.sampled_from(["", "", "kept", "altered", "missing"])
text_parts = st.lists(
    st.sampled_from(
        [None, b"/bin ", b"\n", b"=", b":", b" -I", b"plain text ", b"\xe9\n", b"#!", b'"', b"/lib'"]
    ),
    max_size=12,
)
binary_parts = st.lists(st.sampled_from([b"\0", b"\1\2\3", b"\0" * 40, b"text", os.urandom(64)]), max_size=8)
program_parts = st.lists(st.sampled_from([None, b"\0", b"\1\2\3", b"\0" * 40, b"text\0"]), max_size=8)


def separated(parts: list[bytes | None]) -> Parts:
    """The parts with something between a prefix and what would make it part of a longer name."""
    whole: list[bytes | None] = []
    for part in parts:
        whole += [b" ", None, b"/"] if part is None else [part]
    return tuple(whole)


files = st.builds(
    lambda path, mode, parts, fate: Node(path, "file", mode, separated(parts), fate=fate),
    paths,
    modes,
    st.one_of(text_parts, binary_parts),
    fates,
)
programs = st.builds(
    lambda path, mode, parts, fate: Node(path, "program", mode, tuple(parts), fate=fate),
    paths,
    modes,
    program_parts,
    fates.filter(bool),
)
through = st.builds(
    lambda path, parts: Node(path, "through", parts=separated(parts), fate="kept"), paths, text_parts
)
symlinks = st.builds(
    lambda path, target: Node(path, "symlink", target=target),
    paths,
    st.sampled_from(
        [".", "..", "nowhere", "a/b", "/etc/passwd", "{prefix}", "{prefix}/bin", "{prefix}-other", "x y"]
    ),
)
directories = st.builds(
    lambda path, mode: Node(path, "directory", mode), paths, st.sampled_from([0o755, 0o700, 0o555, 0o775])
)
others = st.builds(
    Node, paths, st.sampled_from(["hardlink", "sparse", "pipe", "socket", "environment", "cache"])
)
trees = st.lists(st.one_of(files, files, programs, through, symlinks, directories, others), max_size=20)


@contextmanager
def within(directory: Path) -> Iterator[None]:
    """Inside a directory, for names that are too long for the path of a socket."""
    before = Path.cwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)


def build(top: Path, nodes: list[Node]) -> Made:
    """Makes what of the nodes can be made."""
    made = Made()
    (top / "conda-meta").mkdir(parents=True)
    (top / "conda-meta" / "history").touch()
    for number, node in enumerate(nodes):
        place = top / node.path
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            if not os.path.lexists(place) and os.path.realpath(place.parent) == str(place.parent):
                make_node(top, node, number, made)
        except OSError:
            continue
    if made.entries:
        record = {"name": "any", "version": "1.0", "build": "0", "build_number": 0, "subdir": "noarch"}
        document = {**record, "paths_data": {"paths_version": 1, "paths": made.entries}}
        (top / "conda-meta" / f"{PACKAGE}.json").write_text(json.dumps(document, indent=2))
    for place, mode in made.modes.items():
        place.chmod(mode)
    return made


def make_node(top: Path, node: Node, number: int, made: Made) -> None:
    place = top / node.path
    if node.kind in ("file", "program"):
        if node.fate == "missing":
            node = Node(f"gone-{number}", node.kind, parts=node.parts, fate=node.fate)
            made.missing.add(node.path)
        else:
            write(top, node, made)
        if node.fate:
            own(top, node, node.path, made)
        if node.fate == "altered":
            made.altered.add(node.path)
    elif node.kind == "through":
        (place / "real").mkdir(parents=True)
        (place / "listed").symlink_to("real")
        made.nodes[f"{node.path}/listed"] = Node("", "symlink", target="real")
        write(top, Node(f"{node.path}/real/file", "file", parts=node.parts, fate="kept"), made)
        own(top, node, f"{node.path}/listed/file", made)
    elif node.kind == "sparse":
        place.touch()
        os.truncate(place, 300_000)
    elif node.kind == "symlink":
        place.symlink_to(node.target.format(prefix=top))
        made.nodes[node.path] = node
    elif node.kind == "hardlink":
        loose = [path for path, each in made.nodes.items() if each.kind == "file" and not each.fate]
        if loose:
            os.link(top / loose[0], place)
            made.nodes[node.path] = made.nodes[loose[0]]
    elif node.kind == "directory":
        place.mkdir()
        made.modes[place] = node.mode
    else:
        make_foreign(top, node, number, made)


def make_foreign(top: Path, node: Node, number: int, made: Made) -> None:
    """What does not belong to the environment."""
    place = top / node.path
    if node.kind == "pipe":
        os.mkfifo(place)
        made.skipped.add(node.path)
    elif node.kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener, within(place.parent):
            listener.bind(place.name)
        made.skipped.add(node.path)
    elif node.kind == "environment":
        (top / "envs" / str(number) / "conda-meta").mkdir(parents=True)
        (top / "envs" / f"{number}.txt").write_text("mine")
        made.skipped.add(f"envs/{number}")
    else:
        (top / "pkgs" / str(number)).mkdir(parents=True)
        (top / "pkgs" / "urls.txt").touch()
        made.skipped.add("pkgs")


def write(top: Path, node: Node, made: Made) -> None:
    place = top / node.path
    place.write_bytes(node.data(top))
    place.chmod(node.mode)
    made.nodes[node.path] = node


def own(top: Path, node: Node, listed: str, made: Made) -> None:
    """Notes the file in the package's record."""
    data = node.package_data()
    entry: dict[str, object] = {"_path": listed, "path_type": "hardlink", "size_in_bytes": len(data)}
    entry["sha256"] = hashlib.sha256(data).hexdigest()
    if None in node.parts:
        entry["prefix_placeholder"] = PLACEHOLDER
        entry["file_mode"] = "binary" if node.kind == "program" else "text"
        entry["sha256_in_prefix"] = hashlib.sha256(replace(node, fate="kept").data(top)).hexdigest()
    made.entries.append(entry)


def remove(top: Path) -> None:
    for directory, _, _ in os.walk(top):
        Path(directory).chmod(0o700)
    shutil.rmtree(top)


def check(made: Made, original: Path, moved: Path) -> None:
    record = f"conda-meta/{PACKAGE}.json"
    before, after = tree_of(original), tree_of(moved)
    kept = {path for path in before if not any(f"{path}/".startswith(f"{each}/") for each in made.skipped)}
    assert after.keys() == kept
    for path in kept - {record}:
        kind, mode, data = before[path]
        assert after[path][:2] == (kind, mode if kind == "directory" else mode & 0o777), path
        node = made.nodes.get(path)
        if node is None:
            expected = data
        elif node.kind == "symlink":
            inside = not node.target.endswith("-other")
            expected = os.fsencode(node.target.format(prefix=moved if inside else original))
        elif node.kind == "program" or b"\0" not in data:
            expected = node.data(moved)
        else:
            expected = data
        assert after[path][2] == expected, path
    if record in kept:
        entries = (json.loads(each[record][2])["paths_data"]["paths"] for each in (before, after))
        for was, now in zip(*entries, strict=True):
            node = made.nodes.get(was["_path"])
            if "sha256_in_prefix" in was and node and node.fate == "kept":
                was["sha256_in_prefix"] = hashlib.sha256(after[was["_path"]][2]).hexdigest()
            assert now == was


def named(deviations: tuple[Deviation, ...]) -> set[str]:
    return {path for each in deviations for path in each.paths}


def check_report(made: Made, packed: PackResult) -> None:
    assert {path for path, _ in packed.skipped} == made.skipped
    assert named(packed.snapshot.altered) == made.altered
    assert named(packed.snapshot.missing) == made.missing


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(nodes=trees)
def test_any_tree(nodes: list[Node]) -> None:
    place = Path(tempfile.mkdtemp(prefix="s"))
    home = os.environ["HOME"]
    try:
        os.environ["HOME"] = str(place / "home")
        original = place / "first" / "env"
        made = build(original, nodes)
        store = open_store(str(place / "store"), create=True)
        packed = pack(store, original, "env", jobs=1)
        check_report(made, packed)
        assert pack(store, original, "env", jobs=1).unchanged
        for name in ("s", "a-longer-directory-than-the-first"):
            moved = place / name / "env"
            (done,) = restore(store, [RestoreRequest(SnapshotSpec("env"), prefix=moved)], jobs=1)
            assert isinstance(done, RestoreResult), done
            check(made, original, moved)
            again = pack(store, moved, "env", jobs=1)
            assert again.snapshot_id == packed.snapshot_id
    finally:
        os.environ["HOME"] = home
        remove(place)
