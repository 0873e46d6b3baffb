"""Python distributions that pip installed, and the files that their RECORD lists.

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
from typing import NamedTuple

from snapper.environment.tree import File
from snapper.format.model import PipPackage
from snapper.fs.errors import read_errors


@dataclass(frozen=True)
class Distribution:
    """An installed distribution, and the files of the environment that it lists."""

    package: PipPackage
    files: tuple[str, ...]

    @property
    def owner(self) -> str:
        return f"{self.package.name}-{self.package.version}"


def distributions(prefix: Path, unowned: Mapping[str, File]) -> list[Distribution]:
    """Return the distributions whose metadata is among the files that no conda package owns.

    Distributions inside of others, such as those that setuptools vendors, are left out. Raise PermissionDenied,
    FileOperationFailed.
    """
    with read_errors():
        by_metadata = {
            path: _read_distribution(prefix, path, unowned)
            for path in sorted(unowned)
            if path.endswith(".dist-info/METADATA")
        }
    nested = {
        file for path, distribution in by_metadata.items() for file in distribution.files if file != path
    }
    return [distribution for path, distribution in by_metadata.items() if path not in nested]


def checksums(prefix: Path, paths: Collection[str]) -> dict[str, str]:
    """Return the sha256, in hexadecimal, that distributions among the paths list for their files."""
    checksums: dict[str, str] = {}
    for path in paths:
        if path.endswith(".dist-info/RECORD"):
            listed = _listed_files(_read_rows(prefix / path), posixpath.dirname(posixpath.dirname(path)))
            for file, checksum in listed.items():
                algorithm, _, value = checksum.partition("=")
                if algorithm == "sha256":
                    checksums[file] = _base64_to_hex(value)
    return checksums


def _read_distribution(prefix: Path, metadata: str, unowned: Mapping[str, File]) -> Distribution:
    directory = posixpath.dirname(metadata)
    record = prefix / directory / "RECORD"
    rows = _read_rows(record) if record.is_file() else []
    package = _parse_metadata((prefix / metadata).read_bytes(), directory)
    listed = _listed_files(rows, posixpath.dirname(directory))
    return Distribution(package, tuple(sorted(file for file in listed if file in unowned)))


class _Row(NamedTuple):
    """A row of a RECORD: a path relative to site-packages, and its checksum as ALGORITHM=BASE64."""

    path: str
    checksum: str


def _read_rows(record: Path) -> list[_Row]:
    """Return the rows of a RECORD; none if it is malformed."""
    text = record.read_bytes().decode("utf-8", "surrogateescape")
    try:
        return [
            _Row(row[0], row[1] if len(row) > 1 else "")
            for row in csv.reader(io.StringIO(text, newline=""))
            if row
        ]
    except csv.Error:
        return []


def _listed_files(rows: list[_Row], site: str) -> dict[str, str]:
    """Return the checksums of the listed files by path in the environment, whose site-packages is `site`."""
    return {posixpath.normpath(posixpath.join(site, row.path)): row.checksum for row in rows}


def _base64_to_hex(value: str) -> str:
    """Decode base64 without padding, as in a RECORD; return "" if it is invalid."""
    try:
        return base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).hex()
    except ValueError:
        return ""


def _parse_metadata(metadata: bytes, directory: str) -> PipPackage:
    """Return the package in a METADATA file; what it lacks is taken from the directory's name."""
    headers = BytesHeaderParser().parsebytes(metadata)
    name, _, version = posixpath.basename(directory).removesuffix(".dist-info").partition("-")
    return PipPackage(str(headers.get("Name", name)), str(headers.get("Version", version)))
