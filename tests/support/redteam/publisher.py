"""A publisher who writes stores without snapper: this module only knows docs/format.md."""

from __future__ import annotations

import hashlib
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import zstandard

_BLOCK = 512
_PLATFORM = {"x86_64": "linux-64", "aarch64": "linux-aarch64"}

#: The description of a layer in a snapshot.
Layer = Mapping[str, Any]

#: Placeholder for relocated files.
PLACEHOLDER = "/opt/snapper_prefix_of_the_attacker"


def encode(value: object) -> bytes:
    """Return canonical JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# --- members ----------------------------------------------------------------------------------------------


def member(path: str, data: bytes = b"", **fields: Any) -> bytes:
    """Return a tar member; `fields` are those of `tarfile.TarInfo`."""
    return header(path, len(data), **fields) + data + bytes(-len(data) % _BLOCK)


def header(path: str, size: int, **fields: Any) -> bytes:
    """Return the header of a tar member, as `member` does."""
    info = tarfile.TarInfo(path)
    info.size, info.mtime = size, 1_600_000_000
    for name, value in fields.items():
        setattr(info, name, value)
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def file(path: str, data: bytes | str = b"data", mode: int = 0o644) -> bytes:
    return member(path, data.encode() if isinstance(data, str) else data, mode=mode)


def link(path: str, target: str | Path) -> bytes:
    """Return a symbolic link."""
    return member(path, type=tarfile.SYMTYPE, linkname=str(target), mode=0o777)


def hard_link(path: str, target: str) -> bytes:
    return member(path, type=tarfile.LNKTYPE, linkname=target)


def directory(path: str, mode: int = 0o755) -> bytes:
    return member(path, type=tarfile.DIRTYPE, mode=mode)


def kernelspec(name: str = "python3", **fields: object) -> bytes:
    """Return the `kernel.json` of a kernel that has these fields."""
    spec = {"argv": ["/bin/true"], "display_name": "Python 3", "language": "python", **fields}
    return file(f"share/jupyter/kernels/{name}/kernel.json", json.dumps(spec))


#: The members of the smallest environment.
ENVIRONMENT = (file("conda-meta/history", ""), kernelspec())


# --- objects ----------------------------------------------------------------------------------------------


def make_store(store: Path) -> Path:
    """Make an empty store, and return it."""
    store.mkdir(parents=True, exist_ok=True)
    (store / "snapper.json").write_bytes(encode({"format": 1}))
    return store


def put(store: Path, key: str, data: bytes) -> None:
    (store / key).parent.mkdir(parents=True, exist_ok=True)
    (store / key).write_bytes(data)


def put_layer(store: Path, segment: bytes, stored: bytes | None = None, **changes: Any) -> dict[str, Any]:
    """Write a layer, and return its description; `stored` is its data if that is not the compressed segment."""
    data = zstandard.compress(segment) if stored is None else stored
    digest = sha256(data)
    put(store, f"layers/{digest[:2]}/{digest}.tar.zst", data)
    description = {
        "digest": digest,
        "size": len(data),
        "diff_id": sha256(segment),
        "diff_size": len(segment),
        "kind": "files",
        "owner": "",
        "members": _count_members(segment),
        "relocations": [],
    }
    return {**description, **changes}


def put_snapshot(store: Path, layers: Sequence[Mapping[str, Any]], **changes: Any) -> str:
    """Write a snapshot and its pages, and return its id."""
    document = {
        "format": 1,
        "platform": _PLATFORM[platform.machine()],
        "mode": 0o755,
        "packages": [],
        "pip": [],
        "kernels": [{"name": "python3", "display_name": "Python 3", "language": "python"}],
        "altered": [],
        "missing": [],
        "layers": list(layers),
        **changes,
    }
    for name in ("packages", "layers"):
        document[name] = [_put_page(store, document[name])] if document[name] else []
    data = encode(document)
    put(store, f"snapshots/{sha256(data)}.json", data)
    return sha256(data)


def put_entry(store: Path, name: str, snapshot: str, prefix: str | Path, **changes: Any) -> None:
    """Write the entry of an environment; `tags` replaces its tags, other changes are those of its history entry."""
    tags = changes.pop("tags", {})
    step = {
        "snapshot": snapshot,
        "action": "pack",
        "time": "2026-01-01T00:00:00Z",
        "user": "mallory",
        "host": "evil",
        "prefix": str(prefix),
        "message": "",
        "packages": 0,
        "size": 0,
        "stored_size": 0,
        "added_size": 0,
        **changes,
    }
    entry = {"format": 1, "name": name, "current": snapshot, "history": [step], "tags": tags}
    put(store, f"environments/{name}.json", encode(entry))


def publish(
    store: Path,
    name: str,
    *members: bytes,
    prefix: str | Path = "/nowhere/envs/work",
    relocations: Sequence[Mapping[str, Any]] = (),
    snapshot: Mapping[str, Any] | None = None,
    **changes: Any,
) -> str:
    """Publish an environment with the members and return its snapshot's id.

    It has the members of the smallest environment as well, unless there is something else at their paths. It is said to
    have been packed at `prefix`. `snapshot` changes the snapshot's fields; the other changes are those of `put_entry`.
    """
    make_store(store)
    given = [_path_of(member) for member in members if not member.startswith(b"././@")]
    usual = [
        member
        for member in ENVIRONMENT
        if not any(f"{_path_of(member)}/".startswith(f"{path}/") for path in given)
    ]
    layer = put_layer(store, b"".join([*usual, *members]), relocations=list(relocations))
    digest = put_snapshot(store, [layer], **(snapshot or {}))
    put_entry(store, name, digest, prefix, **changes)
    return digest


def _path_of(member: bytes) -> str:
    """Return the path in the header of a member, if that is where it is; a directory's ends in a slash."""
    return member[:100].rstrip(b"\0").decode("utf-8", "surrogateescape")


def _put_page(store: Path, items: list[Any]) -> dict[str, Any]:
    data = encode(items)
    put(store, f"pages/{sha256(data)[:2]}/{sha256(data)}.json", data)
    return {"digest": sha256(data), "size": len(data)}


def _count_members(segment: bytes) -> int:
    """Return how many members there are, extended headers not counted; 0 if it is no valid segment."""
    count, at = 0, 0
    while at < len(segment):
        header = segment[at : at + _BLOCK]
        try:
            size = int(header[124:136].rstrip(b"\0 ") or b"0", 8)
        except ValueError:
            return count
        is_extended = header[156:157] in b"xg"
        count += not is_extended
        at += _BLOCK + -(-size // _BLOCK) * _BLOCK
    return count
