"""Read and edit the package records that conda keeps in conda-meta.

A record is conda's PrefixRecord; `paths_data.paths` has an entry for each file (conda/models/records.py). Only what is
needed is read, and no field is relied on, since records are written by conda, mamba, pixi and rattler.
"""

from __future__ import annotations

import errno
import json
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from snapper.environment.contents import complete_exchange_at
from snapper.errors import FileOperationFailed, NotAnEnvironment, SnapperError
from snapper.format.constraints import CONDA_META, is_placeholder, path_bytes
from snapper.format.model import Mode, Package
from snapper.fs.beneath import LOOKUP, open_beneath
from snapper.fs.directories import pin_directory
from snapper.fs.errors import map_os_error, read_errors
from snapper.fs.pinned import PinnedDirectory, Top
from snapper.fs.small_files import list_beneath, read_all_beneath, read_beneath

META = CONDA_META

#: The largest record, and the most data of all records of an environment, in bytes.
LARGEST_RECORD = 64 << 20
LARGEST_RECORDS = 256 << 20

#: The longest path that systems accept, in bytes.
_LONGEST_PATH = 4096

_ADVICE = "Reinstall that package (conda install --force-reinstall), or remove the file if it does not belong to conda."

#: What to do about a link of another user on the way to an environment.
_REAL_PATH = "Give the path that the link leads to, if you trust it."


class FileFacts(NamedTuple):
    """Checksum and size of a file that contains the prefix, as its package's record has them."""

    sha256: str
    size: int


class PathEntry(NamedTuple):
    """A file that a package installed; `sha256` and `size` are those before relocation."""

    path: str
    type: str = ""
    sha256: str = ""
    sha256_in_prefix: str = ""
    placeholder: str = ""
    mode: Mode = "text"
    size: int | None = None


@dataclass(frozen=True)
class Record:
    """An installed package and its files; `file` is the path of the record in the environment.

    If it `has_credentials`, they are in the URLs of its channel or archive; `package` does not contain them.
    """

    file: str
    package: Package
    entries: tuple[PathEntry, ...]
    has_credentials: bool = False


def is_environment(prefix: Path | PinnedDirectory) -> bool:
    """Return whether the directory is a conda environment; like conda, look for conda-meta.

    In an open one, that can be a link to another directory in the environment, but not to one outside of it. At a path,
    what a killed restore has not completed is completed first; if that is impossible, it is an environment.
    """
    if isinstance(prefix, Path):
        try:
            complete_exchange_at(prefix)
        except SnapperError:
            return True
        return os.path.isdir(prefix / META)
    try:
        os.close(open_beneath(prefix, META, LOOKUP))
    except OSError:
        return False
    return True


def pin_environment(prefix: Path | PinnedDirectory) -> PinnedDirectory:
    """Open a conda environment, unless it is open, for all that is read from it.

    What a killed restore has not completed at a path is completed first. Raise NotAnEnvironment, PermissionDenied,
    FileOperationFailed, TargetLocked.
    """
    if isinstance(prefix, Path):
        complete_exchange_at(prefix)
    try:
        environment = pin_directory(prefix)
    except (FileNotFoundError, NotADirectoryError):
        raise NotAnEnvironment(str(prefix)) from None
    except OSError as error:
        if error.errno == errno.EPERM:
            raise FileOperationFailed(str(prefix), str(error.strerror), _REAL_PATH) from None
        raise map_os_error(error, str(prefix), "read") from None
    if not is_environment(environment):
        raise NotAnEnvironment(str(prefix))
    return environment


def is_record_path(path: str) -> bool:
    """Return whether the path is that of a package's record."""
    directory, _, name = path.rpartition("/")
    return directory == META and _is_record_name(name)


def _is_record_name(name: str) -> bool:
    """Return whether a file of this name is a record, NAME-VERSION-BUILD.json: conda ignores other names.

    macOS (`._NAME`) and editors (`.#NAME`) make such files, too.
    """
    return name.endswith(".json") and not name.startswith(".") and name.count("-") >= 2


def _is_copy(record: Record) -> bool:
    """Return whether the file is a copy of a record, such as `NAME-VERSION-BUILD (1).json`, which conda ignores."""
    name, dist = record.file.rpartition("/")[2].removesuffix(".json"), record.package.dist
    return name != dist and name.startswith(dist)


def read_records(prefix: Path | PinnedDirectory) -> list[Record]:
    """Return the records of all installed packages, sorted by file name.

    Raise NotAnEnvironment, PermissionDenied, and FileOperationFailed if a record is malformed.
    """
    environment = pin_environment(prefix)
    records = []
    remaining = LARGEST_RECORDS
    with read_errors(_ADVICE):
        for name, text in read_all_beneath(environment, META, _is_record_name, LARGEST_RECORD):
            remaining -= len(text)
            if remaining < 0:
                reason = f"its records have more than {LARGEST_RECORDS:,} bytes"
                raise OSError(errno.EFBIG, reason, f"{prefix}/{META}")
            records.append(_parse(prefix, f"{META}/{name}", text))
    return [record for record in records if not _is_copy(record)]


def read_record(prefix: Top, path: str) -> Record:
    """Return the record at a path in the environment; raise PermissionDenied, FileOperationFailed."""
    with read_errors(_ADVICE):
        return _parse(prefix, path, read_record_text(prefix, path))


def read_record_text(prefix: Top, path: str) -> bytes:
    """Return the text of the record at a path in the environment; may raise OSError."""
    return read_beneath(prefix, path, LARGEST_RECORD)


def installed_names(prefix: Path) -> set[str]:
    """Return the names of installed packages as far as file names of records tell; may raise OSError."""
    names = (name for name in list_beneath(prefix, META) if _is_record_name(name))  # NAME-VERSION-BUILD.json
    return {name.rsplit("-", 2)[0] for name in names}


def _parse(prefix: Top, path: str, text: bytes) -> Record:
    try:
        fields = json.loads(text)
        if not isinstance(fields, dict):
            raise ValueError("it is not a JSON object")
        listed = (fields.get("paths_data") or {}).get("paths") or []
        entries = [_entry(item) for item in listed]
        if not listed:
            entries = [PathEntry(_path(path)) for path in fields.get("files") or []]
        return Record(path, _package(fields), tuple(entries), _has_credentials(fields))
    except KeyError as error:
        reason = f"{error} is missing"
    except (TypeError, AttributeError, RecursionError):
        reason = "it is malformed"
    except ValueError as error:
        reason = str(error)
    raise FileOperationFailed(f"{prefix}/{path}", f"not a conda package record ({reason})", _ADVICE)


def _package(fields: dict[str, Any]) -> Package:
    def text(key: str) -> str:
        value = fields.get(key)
        return "" if value is None else str(value)

    return Package(
        name=str(fields["name"]),
        version=str(fields["version"]),
        build=text("build") or text("build_string"),
        subdir=text("subdir"),
        channel=_without_credentials(text("channel")),
        url=_without_credentials(text("url")),
        md5=text("md5"),
        sha256=text("sha256"),
    )


def _has_credentials(fields: dict[str, Any]) -> bool:
    urls = [url for url in (fields.get("channel"), fields.get("url")) if isinstance(url, str)]
    return any(_without_credentials(url) != url for url in urls)


def _without_credentials(url: str) -> str:
    """Return the URL without user, password, and the `/t/TOKEN` of anaconda.org and similar servers."""
    return re.sub(r"/t/[^/]+", "", re.sub(r"//[^/]*@", "//", url))


def _entry(item: dict[str, Any]) -> PathEntry:
    size = item.get("size_in_bytes")
    sha256 = str(item.get("sha256") or "")
    in_prefix = str(item.get("sha256_in_prefix") or "")
    return PathEntry(
        path=_path(item["_path"]),
        type=str(item.get("path_type") or ""),
        sha256=sha256,
        # Equal strings are shared: there are many entries.
        sha256_in_prefix=sha256 if in_prefix == sha256 else in_prefix,
        placeholder=_placeholder(str(item.get("prefix_placeholder") or "")),
        mode="binary" if item.get("file_mode") == "binary" else "text",
        size=size if isinstance(size, int) else None,
    )


def _path(value: object) -> str:
    """Return the path; raise ValueError if no file can have it."""
    path = str(value)
    if len(path_bytes(path)) > _LONGEST_PATH:
        raise ValueError(f"the path {path[:50]!r}… is too long")
    return path


@lru_cache(maxsize=256)
def _placeholder(text: str) -> str:
    """Return the placeholder, or "" if it is not an absolute POSIX path.

    Packages built on Windows have some such as `C:/bld/env`; their files are treated as if they had none.
    """
    return text if is_placeholder(text) else ""
