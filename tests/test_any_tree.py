"""Pack random trees, and restore them to other prefixes: whatever an environment contains is restored exactly."""

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

from snapper.commands.pack import pack
from snapper.commands.pack_result import PackResult
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
    """A file to create, or something that is not part of an environment.

    `kind` is file, program (whose prefixes are padded with NULs), sparse, symlink, hardlink, directory, or through (a
    file that its package lists through a symlinked directory); pipe, socket, environment and cache are to be skipped.
    `fate` says what happens to a package's file: kept, altered or missing; it is empty for files without a package.
    """

    path: str
    kind: str
    mode: int = 0o644
    parts: Parts = ()
    target: str = ""
    fate: str = ""

    def package_data(self, prefix: bytes = PLACEHOLDER.encode()) -> bytes:
        """Return the file's data with this prefix, without padding."""
        if self.kind == "program":
            return b"\x7fELF\0" + b"".join(
                prefix + b"/lib\0" if part is None else part for part in self.parts
            )
        return b"".join(prefix if part is None else part for part in self.parts)

    def data(self, prefix: Path) -> bytes:
        """Return the file's data on disk."""
        if self.kind == "program":
            data = bytes(binary_replace(self.package_data(), PLACEHOLDER.encode(), os.fsencode(prefix)))
        else:
            data = self.package_data(os.fsencode(prefix))
        return data + b"\nmine" if self.fate == "altered" else data


@dataclass
class CreatedTree:
    """What could be created: files and symlinks by path, the package's entries, and paths to be skipped."""

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
    """Return the parts with delimiters around prefixes, which would otherwise be part of a longer name."""
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
    """Change to a directory: the path of a socket must not be too long."""
    before = Path.cwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)


def create_tree(top: Path, nodes: list[Node]) -> CreatedTree:
    """Create those of the nodes that can be created together."""
    created = CreatedTree()
    (top / "conda-meta").mkdir(parents=True)
    (top / "conda-meta" / "history").touch()
    for number, node in enumerate(nodes):
        target = top / node.path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if not os.path.lexists(target) and os.path.realpath(target.parent) == str(target.parent):
                create_node(top, node, number, created)
        except OSError:
            continue
    if created.entries:
        record = {"name": "any", "version": "1.0", "build": "0", "build_number": 0, "subdir": "noarch"}
        document = {**record, "paths_data": {"paths_version": 1, "paths": created.entries}}
        (top / "conda-meta" / f"{PACKAGE}.json").write_text(json.dumps(document, indent=2))
    for target, mode in created.modes.items():
        target.chmod(mode)
    return created


def create_node(top: Path, node: Node, number: int, created: CreatedTree) -> None:
    target = top / node.path
    if node.kind in ("file", "program"):
        if node.fate == "missing":
            node = Node(f"gone-{number}", node.kind, parts=node.parts, fate=node.fate)
            created.missing.add(node.path)
        else:
            write(top, node, created)
        if node.fate:
            add_entry(top, node, node.path, created)
        if node.fate == "altered":
            created.altered.add(node.path)
    elif node.kind == "through":
        (target / "real").mkdir(parents=True)
        (target / "listed").symlink_to("real")
        created.nodes[f"{node.path}/listed"] = Node("", "symlink", target="real")
        write(top, Node(f"{node.path}/real/file", "file", parts=node.parts, fate="kept"), created)
        add_entry(top, node, f"{node.path}/listed/file", created)
    elif node.kind == "sparse":
        target.touch()
        os.truncate(target, 300_000)
    elif node.kind == "symlink":
        target.symlink_to(node.target.format(prefix=top))
        created.nodes[node.path] = node
    elif node.kind == "hardlink":
        loose = [path for path, other in created.nodes.items() if other.kind == "file" and not other.fate]
        if loose:
            os.link(top / loose[0], target)
            created.nodes[node.path] = created.nodes[loose[0]]
    elif node.kind == "directory":
        target.mkdir()
        created.modes[target] = node.mode
    else:
        create_foreign(top, node, number, created)


def create_foreign(top: Path, node: Node, number: int, created: CreatedTree) -> None:
    """Create something that does not belong to the environment."""
    target = top / node.path
    if node.kind == "pipe":
        os.mkfifo(target)
        created.skipped.add(node.path)
    elif node.kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener, within(target.parent):
            listener.bind(target.name)
        created.skipped.add(node.path)
    elif node.kind == "environment":
        (top / "envs" / str(number) / "conda-meta").mkdir(parents=True)
        (top / "envs" / f"{number}.txt").write_text("mine")
        created.skipped.add("envs")
    else:
        (top / "pkgs" / str(number)).mkdir(parents=True)
        (top / "pkgs" / "urls.txt").touch()
        created.skipped.add("pkgs")


def write(top: Path, node: Node, created: CreatedTree) -> None:
    target = top / node.path
    target.write_bytes(node.data(top))
    target.chmod(node.mode)
    created.nodes[node.path] = node


def add_entry(top: Path, node: Node, listed: str, created: CreatedTree) -> None:
    """Add the file to the package's record."""
    data = node.package_data()
    entry: dict[str, object] = {"_path": listed, "path_type": "hardlink", "size_in_bytes": len(data)}
    entry["sha256"] = hashlib.sha256(data).hexdigest()
    if None in node.parts:
        entry["prefix_placeholder"] = PLACEHOLDER
        entry["file_mode"] = "binary" if node.kind == "program" else "text"
        entry["sha256_in_prefix"] = hashlib.sha256(replace(node, fate="kept").data(top)).hexdigest()
    created.entries.append(entry)


def remove_tree(top: Path) -> None:
    for directory, _, _ in os.walk(top):
        Path(directory).chmod(0o700)
    shutil.rmtree(top)


def check_moved(created: CreatedTree, original: Path, moved: Path) -> None:
    record = f"conda-meta/{PACKAGE}.json"
    before, after = tree_of(original), tree_of(moved)
    expected_paths = {
        path for path in before if not any(f"{path}/".startswith(f"{other}/") for other in created.skipped)
    }
    assert after.keys() == expected_paths
    for path in expected_paths - {record}:
        kind, mode, data = before[path]
        assert after[path][:2] == (kind, mode if kind == "symlink" else mode & 0o755), path
        node = created.nodes.get(path)
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
    if record in expected_paths:
        entries = (json.loads(tree[record][2])["paths_data"]["paths"] for tree in (before, after))
        for was, now in zip(*entries, strict=True):
            node = created.nodes.get(was["_path"])
            if "sha256_in_prefix" in was and node and node.fate == "kept":
                was["sha256_in_prefix"] = hashlib.sha256(after[was["_path"]][2]).hexdigest()
            assert now == was


def deviating_paths(deviations: tuple[Deviation, ...]) -> set[str]:
    return {path for deviation in deviations for path in deviation.paths}


def check_report(created: CreatedTree, packed: PackResult) -> None:
    assert {path for path, _ in packed.skipped} == created.skipped
    assert deviating_paths(packed.snapshot.altered) == created.altered
    assert deviating_paths(packed.snapshot.missing) == created.missing


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(nodes=trees)
def test_random_tree_is_restored_exactly(nodes: list[Node]) -> None:
    temporary = Path(tempfile.mkdtemp(prefix="s"))
    home = os.environ["HOME"]
    try:
        os.environ["HOME"] = str(temporary / "home")
        original = temporary / "first" / "env"
        created = create_tree(original, nodes)
        store = open_store(str(temporary / "store"), create=True)
        packed = pack(store, original, "env", jobs=1)
        check_report(created, packed)
        assert pack(store, original, "env", jobs=1).unchanged
        for name in ("s", "a-longer-directory-than-the-first"):
            moved = temporary / name / "env"
            (done,) = restore(store, [RestoreRequest(SnapshotSpec("env"), prefix=moved)], jobs=1)
            assert isinstance(done, RestoreResult), done
            check_moved(created, original, moved)
            repacked = pack(store, moved, "env", jobs=1)
            assert repacked.snapshot_id == packed.snapshot_id
    finally:
        os.environ["HOME"] = home
        remove_tree(temporary)
