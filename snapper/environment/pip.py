"""Python distributions that pip installed, and the files that their RECORD lists.

Format: the Python packaging specification "Recording installed projects" (PEP 376, PEP 627).
"""

from __future__ import annotations

import base64
import csv
import errno
import io
import posixpath
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.parser import BytesHeaderParser

from snapper.environment.conda import FileFacts
from snapper.environment.tree import File
from snapper.format.model import PipPackage
from snapper.fs.errors import read_errors
from snapper.fs.pinned import Top
from snapper.fs.small_files import SMALL, read_beneath

#: The largest RECORD, in bytes.
LARGEST_RECORD = 32 << 20

#: The most metadata of all distributions, in bytes: a RECORD takes 100 for each file. Many can be links to one file.
_MOST_METADATA = 128 << 20

#: What a row of a RECORD counts as, at least, and the longest one, in bytes: those of pip have 60 or more.
_SHORTEST_ROW = 60
_LONGEST_ROW = 64 << 10

_SIZE = re.compile(r"[0-9]{1,18}")
_ENTRY_POINT = re.compile(r"^[ \t]*([\w.-]+)[ \t]*=", re.M)


@dataclass(frozen=True)
class Distribution:
    """An installed distribution, and the files of the environment that it lists.

    Its programs are `prebuilt` if they were compiled for many machines, rather than for this one.
    """

    package: PipPackage
    files: tuple[str, ...]
    prebuilt: bool

    @property
    def owner(self) -> str:
        return f"{self.package.name}-{self.package.version}"


def distributions(prefix: Top, unowned: Mapping[str, File]) -> list[Distribution]:
    """Return the distributions whose metadata is among the files that no conda package owns.

    Distributions inside of others, such as those that setuptools vendors, are left out. Raise PermissionDenied,
    FileOperationFailed.
    """
    files = _MetadataFiles(prefix)
    with read_errors():
        by_metadata = {
            path: _read_distribution(files, path, unowned)
            for path in sorted(unowned)
            if is_metadata_path(path) and unowned[path].type != "directory"
        }
    nested = {
        file for path, distribution in by_metadata.items() for file in distribution.files if file != path
    }
    return [distribution for path, distribution in by_metadata.items() if path not in nested]


def is_metadata_path(path: str) -> bool:
    """Return whether the path is that of a distribution's METADATA.

    pip ignores directories such as `~ame-1.0.dist-info`, which it leaves if an update fails.
    """
    return path.endswith(".dist-info/METADATA") and path.split("/")[-2][0].isalnum()


def is_record_path(path: str) -> bool:
    """Return whether the path is that of a distribution's RECORD."""
    return path.endswith(".dist-info/RECORD")


def recorded_files(prefix: Top, paths: Collection[str]) -> dict[str, FileFacts]:
    """Return what distributions among the paths list for files among them; the size is -1 if they list none.

    May raise OSError.
    """
    recorded: dict[str, FileFacts] = {}
    files = _MetadataFiles(prefix)
    for path in paths:
        if is_record_path(path):
            for file, (checksum, size) in _listed_files(files, path, paths).items():
                digest = _sha256_in(checksum)
                if digest:
                    recorded[file] = FileFacts(digest, int(size) if _SIZE.fullmatch(size) else -1)
    return recorded


def installed_scripts(prefix: Top, records: Iterable[str], scripts: Mapping[str, str]) -> set[str]:
    """Return which of the scripts, given with their SHA-256, distributions with these RECORDs have installed.

    A script that was changed afterwards only counts if it is that of an entry point, which has no code but an import.
    May raise OSError.
    """
    installed: set[str] = set()
    files = _MetadataFiles(prefix)
    for record in records:
        listed = _listed_files(files, record, scripts)
        path = f"{posixpath.dirname(record)}/entry_points.txt"
        names = _ENTRY_POINT.findall(files.read(path).decode("utf-8", "replace")) if listed else ()
        installed |= {
            script
            for script, (checksum, _) in listed.items()
            if not checksum or _sha256_in(checksum) == scripts[script] or posixpath.basename(script) in names
        }
    return installed


class _MetadataFiles:
    """The metadata in an environment. No more is read than any environment has."""

    def __init__(self, prefix: Top) -> None:
        self._prefix = prefix
        self._remaining = _MOST_METADATA

    def read(self, path: str, limit: int = SMALL) -> bytes:
        """Return the contents of a file, nothing if it is missing or a link that leads out of the environment."""
        try:
            data = read_beneath(self._prefix, path, limit)
        except FileNotFoundError:
            return b""
        except OSError as error:
            if error.errno == errno.ELOOP:
                return b""
            raise
        self._count(path, len(data))
        return data

    def read_record(self, path: str) -> bytes:
        """Return the contents of a RECORD, whose rows count too, since each takes time. May raise OSError."""
        data = self.read(path, LARGEST_RECORD)
        rows = data.count(b"\n") + data.count(b"\r")
        self._count(path, max(0, rows * _SHORTEST_ROW - len(data)))
        return data

    def _count(self, path: str, size: int) -> None:
        self._remaining -= size
        if self._remaining < 0:
            reason = f"with it, the metadata of distributions has more than {_MOST_METADATA:,} bytes"
            raise OSError(errno.EFBIG, reason, f"{self._prefix}/{path}")


def _read_distribution(files: _MetadataFiles, metadata: str, unowned: Mapping[str, File]) -> Distribution:
    directory = posixpath.dirname(metadata)
    package = _parse_metadata(files.read(metadata), directory)
    listed = tuple(sorted(_listed_files(files, f"{directory}/RECORD", unowned)))
    prebuilt = any(path.endswith(".so") for path in listed) and _is_prebuilt(files, directory)
    return Distribution(package, listed, prebuilt)


def _is_prebuilt(files: _MetadataFiles, directory: str) -> bool:
    """Return whether the wheel's tags name a platform that pip does not use for wheels that it builds itself."""
    tags = BytesHeaderParser().parsebytes(files.read(f"{directory}/WHEEL")).get_all("Tag", [])
    return any("manylinux" in str(tag) or "musllinux" in str(tag) for tag in tags)


def _listed_files(files: _MetadataFiles, record: str, wanted: Collection[str]) -> dict[str, tuple[str, str]]:
    """Return the files of the environment that a RECORD lists, if wanted, with their checksums and sizes as text."""
    site = posixpath.dirname(posixpath.dirname(record))
    rows = parse_record(files.read_record(record), site)
    return {path: (checksum, size) for path, checksum, size in rows if path in wanted}


def parse_record(data: bytes, site: str) -> Iterator[tuple[str, str, str]]:
    """Yield the paths that the RECORD of a distribution in the directory `site` lists, up to a malformed or long row.

    Each has a checksum as ALGORITHM=BASE64 and a size, both as text.
    """
    text = data.decode("utf-8", "surrogateescape")
    remaining = _LONGEST_ROW

    def lines() -> Iterator[str]:
        nonlocal remaining
        for line in io.StringIO(text, newline=""):
            remaining -= len(line)
            if remaining < 0:
                raise csv.Error("the row is too long")
            yield line

    with suppress(csv.Error):
        for row in csv.reader(lines()):
            remaining = _LONGEST_ROW
            if row:
                path, checksum, size = (*row, "", "")[:3]
                yield posixpath.normpath(posixpath.join(site, path)), checksum, size


def _sha256_in(checksum: str) -> str:
    """Return the SHA-256 in a RECORD's checksum, in hexadecimal; "" if it is another one, or invalid."""
    algorithm, _, value = checksum.partition("=")
    if algorithm != "sha256":
        return ""
    try:
        return base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).hex()
    except ValueError:
        return ""


def _parse_metadata(metadata: bytes, directory: str) -> PipPackage:
    """Return the package in a METADATA file; what it lacks is taken from the directory's name."""
    headers = BytesHeaderParser().parsebytes(metadata)
    name, _, version = posixpath.basename(directory).removesuffix(".dist-info").partition("-")
    return PipPackage(str(headers.get("Name", name)), str(headers.get("Version", version)))
