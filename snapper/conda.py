"""What conda wrote about an environment: the package records in conda-meta.

A record is conda's PrefixRecord; `paths_data.paths` has an entry for each file (conda/models/records.py). Only
what is needed is read, and nothing is taken for granted: records come from conda, mamba, pixi and rattler.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snapper.errors import FileFailed, NoPermission, NotAnEnvironment
from snapper.model import Mode, Package

META = "conda-meta"


@dataclass(frozen=True)
class PathEntry:
    """A file that a package installed; `sha256` and `size` are those in the package, before relocation."""

    path: str
    type: str
    sha256: str
    sha256_in_prefix: str
    placeholder: str
    mode: Mode
    size: int | None


@dataclass(frozen=True)
class Record:
    """One installed package, and the files it brought."""

    file: str
    package: Package
    entries: tuple[PathEntry, ...]


def is_environment(prefix: Path) -> bool:
    """Whether the directory is a conda environment: conda's own test is this directory's presence."""
    return (prefix / META).is_dir()


def read_records(prefix: Path) -> list[Record]:
    """The records of all installed packages, by file name.

    Raises NotAnEnvironment, NoPermission, and FileFailed for a record that is no JSON object.
    """
    try:
        files = sorted((prefix / META).glob("*.json"))
        if not files and not is_environment(prefix):
            raise NotAnEnvironment(str(prefix))
        return [_read(file) for file in files]
    except PermissionError as error:
        raise NoPermission(str(error.filename), "read") from None


def _read(file: Path) -> Record:
    try:
        fields = json.loads(file.read_bytes())
        if not isinstance(fields, dict):
            raise ValueError("it is not a JSON object")
        package = _package(fields)
        listed = (fields.get("paths_data") or {}).get("paths") or []
        entries = tuple(_entry(item) for item in listed)
        if not listed:
            entries = tuple(_bare(path) for path in fields.get("files") or [])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileFailed(str(file), f"not a conda package record ({error})") from None
    return Record(f"{META}/{file.name}", package, entries)


def _package(fields: dict[str, Any]) -> Package:
    def text(key: str) -> str:
        value = fields.get(key)
        return "" if value is None else str(value)

    return Package(
        name=str(fields["name"]),
        version=str(fields["version"]),
        build=text("build") or text("build_string"),
        subdir=text("subdir"),
        channel=_without_secrets(text("channel")),
        url=_without_secrets(text("url")),
        md5=text("md5"),
        sha256=text("sha256"),
    )


def _without_secrets(url: str) -> str:
    """The URL without user, password, and the `/t/TOKEN` of anaconda.org and its kin."""
    return re.sub(r"/t/[^/]+", "", re.sub(r"//[^/@]*@", "//", url))


def _entry(item: dict[str, Any]) -> PathEntry:
    size = item.get("size_in_bytes")
    return PathEntry(
        path=str(item["_path"]),
        type=str(item.get("path_type") or ""),
        sha256=str(item.get("sha256") or ""),
        sha256_in_prefix=str(item.get("sha256_in_prefix") or ""),
        placeholder=str(item.get("prefix_placeholder") or ""),
        mode="binary" if item.get("file_mode") == "binary" else "text",
        size=size if isinstance(size, int) else None,
    )


def _bare(path: str) -> PathEntry:
    return PathEntry(str(path), "", "", "", "", "text", None)
