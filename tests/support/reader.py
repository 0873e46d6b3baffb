"""An independent reader of stores, written from docs/format.md: it shares no code with snapper.

It checks every rule of the format, and unpacks snapshots in memory.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import zstandard

LARGEST_SEGMENT = 134217728

_SNAPSHOT = re.compile(r"snapshots/([0-9a-f]{64})\.json")
_PAGE = re.compile(r"pages/([0-9a-f]{2})/(\1[0-9a-f]{62})\.json")
_LAYER = re.compile(r"layers/([0-9a-f]{2})/([0-9a-f]{64})\.tar\.zst")
_ENVIRONMENT = re.compile(r"environments/(\w[\w.+-]*)\.json")
_LOCK = re.compile(r"locks/(?:prune|pack-[0-9a-f]{32}|trial-[0-9a-f]{32})\.json")
_SNAPSHOT_FIELDS = {
    *("format", "platform", "mode", "packages", "pip", "kernels", "altered", "missing", "layers"),
}
_PACKAGE_FIELDS = {"name", "version", "build", "subdir", "channel", "url", "md5", "sha256"}
_LAYER_FIELDS = {"digest", "size", "diff_id", "diff_size", "kind", "owner", "members", "relocations"}
_HISTORY_FIELDS = {
    *("snapshot", "action", "time", "user", "host", "prefix", "message", "packages", "size"),
    *("stored_size", "added_size"),
}

#: Type, mode and contents (or a link's target) of a path.
Tree = dict[str, tuple[str, int, bytes]]


class Broken(AssertionError):
    """The store violates docs/format.md."""


def require(condition: object, what: str) -> None:
    if not condition:
        raise Broken(what)


@dataclass(frozen=True)
class Reader:
    """A store as its keys and a function that reads an object, wherever it is."""

    keys: frozenset[str]
    read: Callable[[str], bytes]

    @classmethod
    def of_directory(cls, top: Path) -> Reader:
        """Return a reader of a store in a directory. Files whose names begin with a dot are not objects."""
        files = [path for path in top.rglob("*") if not path.is_dir() and not path.name.startswith(".")]
        keys = frozenset(str(path.relative_to(top)) for path in files)
        return cls(keys, lambda key: (top / key).read_bytes())

    def check(self, *, locks: bool = True) -> dict[str, str]:
        """Check everything and return the current snapshot of each environment; raise Broken.

        With `locks`, locks are allowed: processes may be running, or have been killed.
        """
        require(json.loads(self.read("snapper.json")) == {"format": 1}, "the marker")
        named: dict[str, str] = {}
        checked: set[tuple[object, ...]] = set()
        for key in sorted(self.keys):
            environment = _ENVIRONMENT.fullmatch(key)
            if environment:
                named[environment[1]] = self._check_environment(key, environment[1])
            elif _SNAPSHOT.fullmatch(key):
                self._check_snapshot(key, checked)
            elif _PAGE.fullmatch(key):
                _parsed(self.read(key), key)
                require(_digest(self.read(key)) == key[-len(".json") - 64 : -len(".json")], key)
            elif _LAYER.fullmatch(key):
                require(_digest(self.read(key)) == key[-len(".tar.zst") - 64 : -len(".tar.zst")], key)
            elif locks and _LOCK.fullmatch(key):
                _canonical(self.read(key), key)
            else:
                require(key == "snapper.json", f"{key} does not belong in a store")
        return named

    def document(self, key: str) -> dict[str, Any]:
        return _canonical(self.read(key), key)

    def items(self, pages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the items of all these pages."""
        return [item for page in pages for item in self._page(page)]

    def unpack(self, snapshot_id: str, prefix: str) -> Tree:
        """Return the snapshot's files as they are at `prefix`, with relocated text and links."""
        layers = self.items(self.document(f"snapshots/{snapshot_id}.json")["layers"])
        stream = b"".join(self._segment(layer) for layer in layers) + bytes(1024)
        found: Tree = {}
        with tarfile.open(fileobj=io.BytesIO(stream), mode="r:") as archive:
            for member in archive:
                require(member.name not in found, f"{member.name} occurs twice")
                found[member.name] = _file(archive, member, found)
        for layer in layers:
            for relocation in layer["relocations"]:
                for path in relocation["paths"]:
                    kind, mode, data = found[path]
                    if relocation["mode"] != "link" or kind == "symlink":
                        found[path] = kind, mode, _relocated(data, relocation, prefix)
        return found

    def _check_environment(self, key: str, name: str) -> str:
        document = self.document(key)
        require(document.keys() == {"format", "name", "current", "history", "tags"}, key)
        require(document["format"] == 1 and document["name"] == name, key)
        require(document["history"][-1]["snapshot"] == document["current"], f"{key}: its last history entry")
        for step in document["history"]:
            require(step.keys() == _HISTORY_FIELDS, f"{key}: the fields of a history entry")
            require(step["action"] in ("pack", "import", "rollback"), f"{key}: {step['action']}")
        for snapshot in [step["snapshot"] for step in document["history"]] + [*document["tags"].values()]:
            require(f"snapshots/{snapshot}.json" in self.keys, f"{key} names {snapshot}, which is missing")
        return str(document["current"])

    def _check_snapshot(self, key: str, checked: set[tuple[object, ...]]) -> None:
        """Check a snapshot and its layers, except those that have been checked: most are those of others, too."""
        require(key == f"snapshots/{_digest(self.read(key))}.json", f"{key}: its name")
        document = self.document(key)
        require(document.keys() == _SNAPSHOT_FIELDS and document["format"] == 1, f"{key}: its fields")
        lists = {name: [self._page(page) for page in document[name]] for name in ("packages", "layers")}
        for package in chain(*lists["packages"]):
            require(package.keys() == _PACKAGE_FIELDS, f"{key}: the fields of a package")
        require(
            lists["packages"] == _split_into_pages(lists["packages"], _name_of_package),
            f"{key}: pages of packages",
        )
        require(
            lists["layers"] == _split_into_pages(lists["layers"], _name_of_owner), f"{key}: pages of layers"
        )
        for layer in chain(*lists["layers"]):
            require(layer.keys() - {"begins"} == _LAYER_FIELDS, f"{key}: the fields of a layer")
            facts = tuple(layer[name] for name in ("digest", "size", "diff_id", "diff_size"))
            if facts not in checked:
                self._segment(layer)
                checked.add(facts)

    def _page(self, page: dict[str, Any]) -> list[dict[str, Any]]:
        digest = page["digest"]
        key = f"pages/{digest[:2]}/{digest}.json"
        require(key in self.keys, f"{key} is missing")
        data = self.read(key)
        require((len(data), _digest(data)) == (page["size"], digest), f"{key} is corrupted")
        found = _parsed(data, key)
        require(isinstance(found, list) and found, f"{key} is empty")
        items: list[dict[str, Any]] = found
        return items

    def _segment(self, layer: dict[str, Any]) -> bytes:
        digest = layer["digest"]
        key = f"layers/{digest[:2]}/{digest}.tar.zst"
        require(key in self.keys, f"{key} is missing")
        data = self.read(key)
        require((len(data), _digest(data)) == (layer["size"], digest), f"{key} is corrupted")
        require(layer["diff_size"] <= LARGEST_SEGMENT, f"{key} is too large")
        segment = zstandard.ZstdDecompressor().decompress(data, max_output_size=layer["diff_size"])
        require(
            (len(segment), _digest(segment)) == (layer["diff_size"], layer["diff_id"]), f"{key}: its segment"
        )
        return segment


def tree_at(top: Path) -> Tree:
    """Return what is on disk below `top`, except snapper's own state and directories that are not empty."""
    found: Tree = {}
    for path in sorted(top.rglob("*")):
        name = str(path.relative_to(top))
        if name.partition("/")[0] == ".snapper":
            continue
        mode = path.lstat().st_mode & 0o777
        if path.is_symlink():
            found[name] = "symlink", 0o777, bytes(path.readlink())
        elif path.is_file():
            found[name] = "file", mode, path.read_bytes()
        elif mode != 0o755 or not any(path.iterdir()):
            found[name] = "directory", mode, b""
    return found


def _file(archive: tarfile.TarFile, member: tarfile.TarInfo, before: Tree) -> tuple[str, int, bytes]:
    require(not Path(member.name).is_absolute() and ".." not in Path(member.name).parts, member.name)
    if member.issym():
        return "symlink", 0o777, member.linkname.encode("utf-8", "surrogateescape")
    if member.islnk():
        return before[member.linkname]
    if member.isdir():
        return "directory", member.mode & 0o777, b""
    require(member.isreg(), f"{member.name}: its type")
    data = archive.extractfile(member)
    assert data is not None
    return "file", member.mode & 0o777, data.read()


def _relocated(data: bytes, relocation: dict[str, Any], prefix: str) -> bytes:
    placeholder = relocation["placeholder"].encode()
    if relocation["mode"] == "text":
        return data.replace(placeholder, prefix.encode())
    if relocation["mode"] == "link":
        return prefix.encode() + data[len(placeholder) :]
    require(
        relocation["mode"] in ("record", "sized-record"),
        f"mode {relocation['mode']} is not supported by this reader",
    )
    return data


def _split_into_pages(
    pages: list[list[dict[str, Any]]], name_of: Callable[[dict[str, Any]], str]
) -> list[list[dict[str, Any]]]:
    """Split the items of the pages into pages as a writer must."""
    items = list(chain(*pages))
    runs: list[tuple[bytes, list[dict[str, Any]]]] = []
    for before, item in zip([None, *items], items, strict=False):
        if before is None or name_of(before) != name_of(item):
            runs.append((hashlib.sha256(name_of(item).encode("utf-8", "surrogatepass")).digest(), []))
        runs[-1][1].append(item)
    cut: list[list[dict[str, Any]]] = [[]]
    for number, (weight, run) in enumerate(runs):
        cut[-1] += run
        around = runs[max(number - 4, 0) : number + 5]
        if number + 1 < len(runs) and sum(other <= weight for other, _ in around) == 1:
            cut.append([])
    return [page for page in cut if page]


def _name_of_package(package: dict[str, Any]) -> str:
    return str(package["name"])


def _name_of_owner(layer: dict[str, Any]) -> str:
    parts = layer["owner"].split("-")
    kept = len(parts) - (2 if layer["kind"] in ("package", "link") else 1)
    return "-".join(parts[: max(kept, 1)])


def _canonical(data: bytes, key: str) -> dict[str, Any]:
    document = _parsed(data, key)
    require(isinstance(document, dict), f"{key} is not an object")
    found: dict[str, Any] = document
    return found


def _parsed(data: bytes, key: str) -> Any:
    document = json.loads(data, object_pairs_hook=_reject_duplicates)
    written = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
    require(written == data, f"{key} is not canonical")
    return document


def _reject_duplicates(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    listed = list(pairs)
    require(len({key for key, _ in listed}) == len(listed), "duplicate key")
    return dict(listed)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
