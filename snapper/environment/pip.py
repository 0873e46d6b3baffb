"""Python distributions that pip installed: what their RECORD says is theirs.

Format: the Python packaging specification "Recording installed projects" (PEP 376, PEP 627).
"""

from __future__ import annotations

import base64
import csv
import io
import posixpath
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from email.parser import BytesHeaderParser
from pathlib import Path

from snapper.environment.tree import File
from snapper.errors import PermissionDenied
from snapper.format.model import PipPackage


@dataclass(frozen=True)
class Distribution:
    """An installed distribution and the environment's files that it lists."""

    package: PipPackage
    files: tuple[str, ...]

    @property
    def owner(self) -> str:
        return f"{self.package.name}-{self.package.version}"


def distributions(prefix: Path, free: Mapping[str, File]) -> list[Distribution]:
    """The distributions whose metadata is among the free files, that is, which no conda package owns. What a
    distribution has inside of it, such as setuptools its vendored packages, is none of its own.

    Raises PermissionDenied.
    """
    found: dict[str, Distribution] = {}
    for path in sorted(free):
        directory, name = posixpath.split(path)
        if name == "METADATA" and directory.endswith(".dist-info"):
            try:
                record = prefix / directory / "RECORD"
                files = _listed(record.read_bytes(), posixpath.dirname(directory)) if record.is_file() else []
                package = _package((prefix / path).read_bytes(), directory)
            except PermissionError as error:
                raise PermissionDenied(str(error.filename), "read") from None
            found[path] = Distribution(package, tuple(file for file in files if file in free))
    inside = {file for path, each in found.items() for file in each.files if file != path}
    return [each for path, each in found.items() if path not in inside]


def checksums(prefix: Path, paths: Collection[str]) -> dict[str, str]:
    """The sha256, in hexadecimal, that distributions list of files as they were installed."""
    found: dict[str, str] = {}
    for path in paths:
        directory, name = posixpath.split(path)
        if name == "RECORD" and directory.endswith(".dist-info"):
            for listed, checksum in _rows((prefix / path).read_bytes(), posixpath.dirname(directory)):
                kind, _, value = checksum.partition("=")
                if kind == "sha256":
                    found[listed] = _hexadecimal(value)
    return found


def _hexadecimal(value: str) -> str:
    """What RECORD has as base64 without its padding; empty if it is none."""
    try:
        return base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).hex()
    except ValueError:
        return ""


def _listed(record: bytes, site: str) -> list[str]:
    """The paths of a RECORD, from the environment's root on."""
    return sorted({path for path, _ in _rows(record, site)})


def _rows(record: bytes, site: str) -> list[tuple[str, str]]:
    """The paths of a RECORD, from the environment's root on, with their checksums."""
    rows = csv.reader(io.StringIO(record.decode("utf-8", "surrogateescape"), newline=""))
    try:
        named = [(row[0], row[1] if len(row) > 1 else "") for row in rows if row]
    except csv.Error:
        return []
    return [(posixpath.normpath(posixpath.join(site, path)), checksum) for path, checksum in named]


def _package(metadata: bytes, directory: str) -> PipPackage:
    headers = BytesHeaderParser().parsebytes(metadata)
    name, _, version = posixpath.basename(directory).removesuffix(".dist-info").partition("-")
    return PipPackage(str(headers.get("Name", name)), str(headers.get("Version", version)))
