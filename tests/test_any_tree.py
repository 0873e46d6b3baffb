"""Whatever an environment is made of, it comes back: random trees, packed, moved, packed again, moved again."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snapper.catalog import Reference
from snapper.pack import pack
from snapper.restore import Restored, restore
from snapper.store import open_store
from snapper.target import Wanted
from tests.conftest import tree_of

#: A part of a file: bytes as they are, or None for the prefix.
Parts = list[bytes | None]


@dataclass(frozen=True)
class Node:
    """One thing to make: `kind` is file, symlink, hardlink or directory."""

    path: str
    kind: str
    mode: int = 0o644
    parts: tuple[bytes | None, ...] = ()
    target: str = ""

    def data(self, prefix: Path) -> bytes:
        return b"".join(os.fsencode(prefix) if part is None else part for part in self.parts)


names = st.one_of(
    st.sampled_from(
        ["bin", "lib", "a", "A", "x y", "né", "日本", "-n", "new\nline", "\udcff\udcfe", ".hidden", "n" * 90]
    ),
    st.text(
        st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=12
    ).filter(
        lambda name: (
            name not in (".", "..", ".snapper") and len(name.encode()) < 200 and not name.endswith(".c~")
        )
    ),
)
paths = (
    st.lists(names, min_size=1, max_size=5).map("/".join).filter(lambda path: not path.startswith("envs/"))
)
modes = st.sampled_from([0o644, 0o755, 0o600, 0o444, 0o400, 0o664, 0o777, 0o700])
text_parts = st.lists(
    st.sampled_from(
        [None, b"/bin ", b"\n", b"=", b":", b" -I", b"plain text ", b"\xe9\n", b"#!", b'"', b"/lib'"]
    ),
    max_size=12,
)
binary_parts = st.lists(st.sampled_from([b"\0", b"\1\2\3", b"\0" * 40, b"text", os.urandom(64)]), max_size=8)


def separated(parts: Parts) -> tuple[bytes | None, ...]:
    """The parts with something between a prefix and what would make it part of a longer name."""
    whole: Parts = []
    for part in parts:
        whole += [b" ", None, b"/"] if part is None else [part]
    return tuple(whole)


files = st.builds(
    lambda path, mode, parts: Node(path, "file", mode, separated(parts)),
    paths,
    modes,
    st.one_of(text_parts, binary_parts),
)
symlinks = st.builds(
    lambda path, target: Node(path, "symlink", target=target),
    paths,
    st.sampled_from(
        [".", "..", "nowhere", "a/b", "/etc/passwd", "{prefix}", "{prefix}/bin", "{prefix}-other", "x y"]
    ),
)
hardlinks = st.builds(lambda path: Node(path, "hardlink"), paths)
directories = st.builds(
    lambda path, mode: Node(path, "directory", mode), paths, st.sampled_from([0o755, 0o700, 0o555, 0o775])
)
trees = st.lists(st.one_of(files, files, symlinks, hardlinks, directories), max_size=14)


def build(top: Path, nodes: list[Node]) -> dict[str, Node]:
    """Makes what of the nodes can be made; returns those files and symlinks by path."""
    made: dict[str, Node] = {}
    modes: dict[Path, int] = {}
    (top / "conda-meta").mkdir(parents=True)
    (top / "conda-meta" / "history").touch()
    for node in nodes:
        place = top / node.path
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(place):
                continue
            if node.kind == "file":
                place.write_bytes(node.data(top))
                place.chmod(node.mode)
                made[node.path] = node
            elif node.kind == "symlink":
                place.symlink_to(node.target.format(prefix=top))
                made[node.path] = node
            elif node.kind == "hardlink" and any(each.kind == "file" for each in made.values()):
                first = next(path for path, each in made.items() if each.kind == "file")
                os.link(top / first, place)
                made[node.path] = made[first]
            elif node.kind == "directory":
                place.mkdir()
                modes[place] = node.mode
        except (FileExistsError, NotADirectoryError, FileNotFoundError, OSError):
            continue
    for place, mode in modes.items():
        place.chmod(mode)
    return made


def remove(top: Path) -> None:
    for directory, _, _ in os.walk(top):
        Path(directory).chmod(0o700)
    shutil.rmtree(top)


def check(made: dict[str, Node], original: Path, moved: Path) -> None:
    before, after = tree_of(original), tree_of(moved)
    assert after.keys() == before.keys()
    for path, (kind, mode, data) in before.items():
        assert after[path][:2] == (kind, mode), path
        node = made.get(path)
        if node is None:
            expected = data
        elif node.kind == "symlink":
            inside = not node.target.endswith("-other")
            expected = os.fsencode(node.target.format(prefix=moved if inside else original))
        else:
            expected = node.data(moved) if b"\0" not in data else data
        assert after[path][2] == expected, path


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
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
        assert pack(store, original, "env", jobs=1).unchanged
        for name in ("s", "a-longer-directory-than-the-first"):
            moved = place / name / "env"
            (done,) = restore(store, [Wanted(Reference("env"), prefix=moved)], jobs=1)
            assert isinstance(done, Restored), done
            check(made, original, moved)
            again = pack(store, moved, "env", jobs=1)
            assert again.snapshot_id == packed.snapshot_id
    finally:
        os.environ["HOME"] = home
        remove(place)
