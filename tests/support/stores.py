"""Check, read and edit stores in a directory, without snapper: this module only knows docs/format.md."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zstandard


def check_store(store: Path, *, killed: bool = False) -> dict[str, str]:
    """Assert that every object in the store is valid and that nothing else is in it except empty lock files.

    With `killed`, a process was killed and may have left locks, and files whose names begin with a dot. Return the
    current snapshot of each environment.
    """
    files = {str(path.relative_to(store)) for path in store.rglob("*") if not path.is_dir()}
    files -= {f"{kind}/.lock" for kind in ("environments", "locks") if not _size(store / kind / ".lock")}
    if killed:
        files = {file for file in files if not Path(file).name.startswith(".")}
    assert json.loads((store / "snapper.json").read_bytes()) == {"format": 1}
    expected = {"snapper.json"}
    current: dict[str, str] = {}
    for file in files:
        kind, _, name = file.partition("/")
        if kind == "environments":
            document = json.loads((store / file).read_bytes())
            assert name == f"{document['name']}.json"
            current[document["name"]] = document["current"]
            assert document["history"][-1]["snapshot"] == document["current"]
            for digest in [move["snapshot"] for move in document["history"]] + [*document["tags"].values()]:
                assert f"snapshots/{digest}.json" in files, f"{file} refers to a missing snapshot"
        elif kind == "snapshots":
            _check_snapshot(store, file)
        elif kind == "pages":
            digest = Path(file).name.removesuffix(".json")
            assert file == f"pages/{digest[:2]}/{digest}.json"
            assert hashlib.sha256((store / file).read_bytes()).hexdigest() == digest
        elif kind == "layers":
            digest = Path(file).name.removesuffix(".tar.zst")
            assert file == f"layers/{digest[:2]}/{digest}.tar.zst"
            assert hashlib.sha256((store / file).read_bytes()).hexdigest() == digest
        elif kind == "locks" and killed:
            assert json.loads((store / file).read_bytes())["format"] == 1
        else:
            assert file in expected, f"{file} does not belong in a store"
    return current


def _check_snapshot(store: Path, file: str) -> None:
    data = (store / file).read_bytes()
    assert file == f"snapshots/{hashlib.sha256(data).hexdigest()}.json"
    for page in json.loads(data)["packages"] + json.loads(data)["layers"]:
        assert page_file(store, page["digest"]).stat().st_size == page["size"]
    for layer in snapshot_document(store, Path(file).stem)["layers"]:
        stored = (store / "layers" / layer["digest"][:2] / f"{layer['digest']}.tar.zst").read_bytes()
        assert len(stored) == layer["size"]
        segment = zstandard.ZstdDecompressor().decompress(stored, max_output_size=layer["diff_size"])
        assert len(segment) == layer["diff_size"]
        assert hashlib.sha256(segment).hexdigest() == layer["diff_id"]


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def edit_ref(store: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Edit the JSON document of an environment's ref without snapper."""
    file = store / "environments" / f"{name}.json"
    document = json.loads(file.read_bytes())
    change(document)
    file.write_text(json.dumps(document))


def page_file(store: Path, digest: str) -> Path:
    return store / "pages" / digest[:2] / f"{digest}.json"


def snapshot_document(store: Path, digest: str) -> dict[str, Any]:
    """Return a snapshot's JSON document, with each list of pages replaced by the items in them."""
    document: dict[str, Any] = json.loads((store / "snapshots" / f"{digest}.json").read_bytes())
    for name in ("packages", "layers"):
        pages = [json.loads(page_file(store, page["digest"]).read_bytes()) for page in document[name]]
        document[name] = [item for page in pages for item in page]
    return document


def write_snapshot(store: Path, fields: dict[str, Any]) -> str:
    """Write a snapshot with these fields, valid or not, with one page per list; return its id."""
    document = {**fields}
    for name in ("packages", "layers"):
        data = json.dumps(fields[name], sort_keys=True, separators=(",", ":")).encode()
        digest = hashlib.sha256(data).hexdigest()
        page_file(store, digest).parent.mkdir(parents=True, exist_ok=True)
        page_file(store, digest).write_bytes(data)
        document[name] = [{"digest": digest, "size": len(data)}] if fields[name] else []
    data = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    digest = hashlib.sha256(data).hexdigest()
    (store / "snapshots" / f"{digest}.json").write_bytes(data)
    return digest


def page_files(store: Path) -> list[Path]:
    return sorted((store / "pages").rglob("*.json"))


def layer_files(store: Path) -> list[Path]:
    return sorted((store / "layers").rglob("*.tar.zst"))
