"""Read untrusted archives: tar with any compression, zip, and squashfs.

Paths are checked. Only `snapper.archives.extract` writes files at paths from an archive.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, cast

from snapper.archives.links import LONGEST_PATH
from snapper.archives.squashfs import unpack
from snapper.archives.xz import XzReader
from snapper.environment.tree import walk
from snapper.errors import InvalidArchive, NotAnArchive, PermissionDenied
from snapper.format.compression import ZstdError, zstd_reader
from snapper.format.constraints import path_bytes
from snapper.format.member import MemberType
from snapper.format.times import LATEST, NANOSECONDS
from snapper.fs.small_files import read_head
from snapper.process.progress import Progress

ArchiveFormat = Literal["tar", "gzip", "bzip2", "xz", "zstd", "zip", "squashfs"]

_MAGICS: tuple[tuple[bytes, ArchiveFormat], ...] = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"hsqs", "squashfs"),
)
_TAR_MAGIC_OFFSET = 257
_TAR_BLOCK = 512
_END_OF_TAR = 2 * _TAR_BLOCK
_MAX_HEADER_SIZE = 128 * 1024
_MAX_COMPONENTS = 256

#: The most members of an archive.
_MOST_MEMBERS = 4_000_000

#: The most zeros after the members of a tar, in bytes: it is written in records, which are filled with zeros.
_LONGEST_END = 16 << 20

#: The largest directory of a zip, in bytes. That of a million files with paths of 100 bytes has 146 MB; in memory, it
#: takes ten times as much.
_LARGEST_ZIP_DIRECTORY = 160 << 20

#: How members of a zip may be compressed. zipfile has no limits for what other methods need.
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

_LONGEST_SHOWN = 200

#: What impossible times are replaced with, in seconds: packing reports and replaces all times outside of its limits.
_EARLIEST, _LATEST = Decimal(-1), Decimal(LATEST // NANOSECONDS + 1)

_TAR_TYPES: dict[bytes, MemberType] = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.LNKTYPE: "hardlink",
    tarfile.SYMTYPE: "symlink",
    tarfile.DIRTYPE: "directory",
}
_FILE_TYPES: dict[int, MemberType] = {
    stat.S_IFREG: "file",
    stat.S_IFLNK: "symlink",
    stat.S_IFDIR: "directory",
}


@dataclass(frozen=True)
class ArchiveEntry:
    """A member of an archive. `path` is normal and inside the archive, and so is the `target` of a hard link."""

    path: str
    type: MemberType
    mode: int
    mtime_ns: int
    target: str = ""


#: Return up to that many bytes of a member's data, and no bytes at its end.
ReadData = Callable[[int], bytes]


def iter_entries(file: Path, scratch: Path, progress: Progress) -> Iterator[tuple[ArchiveEntry, ReadData]]:
    """Yield each member in the archive's order, and a function that reads its data until the next one is yielded.

    `scratch` is an empty directory for temporary files; progress is in bytes of the archive. Raise NotAnArchive,
    InvalidArchive, PermissionDenied, InsufficientSpace, ProgramNotFound.
    """
    kind = detect_format(file)
    if kind == "squashfs":
        members = _squashfs(file, scratch / "squashfs", progress)
    elif kind == "zip":
        members = _zip(file, progress)
    else:
        members = _tar(file, kind, progress)
    for number, member in enumerate(members):
        if number >= _MOST_MEMBERS:
            raise InvalidArchive(str(file), f"it has more than {_MOST_MEMBERS:,} members")
        yield member


def detect_format(file: Path) -> ArchiveFormat:
    """Return the archive's format, by its first bytes; raise NotAnArchive, PermissionDenied."""
    try:
        head = read_head(file, _TAR_MAGIC_OFFSET + 5)
    except FileNotFoundError:
        raise NotAnArchive(str(file), "it does not exist") from None
    except PermissionError:
        raise PermissionDenied(str(file), "read") from None
    except OSError as error:
        raise NotAnArchive(str(file), error.strerror or str(error)) from None
    for magic, kind in _MAGICS:
        if head.startswith(magic):
            return kind
    if head[_TAR_MAGIC_OFFSET:] == b"ustar":
        return "tar"
    raise NotAnArchive(str(file), "it is not a tar, zip or squashfs file")


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Raise InvalidArchive in place of what reading a corrupted archive can raise."""
    try:
        yield
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        ZstdError,
        EOFError,
        OSError,
        ValueError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise InvalidArchive(str(file), f"it is corrupted ({error})") from None


class _Header(tarfile.TarInfo):
    """A header that limits the size of extended headers, which tarfile reads into memory."""

    _FURTHER = (
        *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
        *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    )

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in self._FURTHER and self.size > _MAX_HEADER_SIZE:
            raise tarfile.HeaderError("an extended header is too long")
        if self.type == tarfile.GNUTYPE_SPARSE:
            self._refuse_sparse()
        proceed: Callable[[tarfile.TarFile], tarfile.TarInfo] = super()._proc_member  # type: ignore[misc]
        return proceed(archive)

    def _refuse_sparse(self, *_: object) -> None:
        """Raise HeaderError in place of what reads a map of a sparse file, which can have any size."""
        raise tarfile.HeaderError("it contains a sparse file")

    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse_sparse


class _ZipFile(io.FileIO):
    """A zip that limits the size of its directory, which zipfile reads into memory at once."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > _LARGEST_ZIP_DIRECTORY:
            raise zipfile.BadZipFile("its directory is too large")
        return super().read(size) or b""


class _Counting:
    """A file that reports how much is read, and remembers its `size` and the `end` of its last byte other than zero."""

    def __init__(self, file: IO[bytes], report: Callable[[int], None] = lambda _: None) -> None:
        self._file, self._report = file, report
        self.size = self.end = 0

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._report(len(data))
        text = data.rstrip(b"\0")
        if text:
            self.end = self.size + len(text)
        self.size += len(data)
        return data


def _tar(file: Path, kind: ArchiveFormat, progress: Progress) -> Iterator[tuple[ArchiveEntry, ReadData]]:
    with file.open("rb") as raw:
        counting = cast(BinaryIO, _Counting(raw, progress.advance))
        plain = _Counting(_decompressed(counting, kind))
        with _reading(file):
            archive = tarfile.open(fileobj=cast(BinaryIO, plain), mode="r|", tarinfo=_Header)  # noqa: SIM115 - closed below
        with archive:
            while True:
                with _reading(file):
                    member = archive.next()
                    if member is None:
                        break
                    cast(
                        Any, archive
                    ).members.clear()  # kept for random access, with all their extended headers
                    _check_headers(archive)
                    entry = _tar_entry(file, member)
                    data = archive.extractfile(member) if entry.type == "file" else None
                    if entry.type == "hardlink":
                        archive.offset += member.size + -member.size % _TAR_BLOCK
                yield entry, _reader(file, data)
            with _reading(file):
                while plain.read(1024 * 1024):
                    if plain.size > archive.offset + _LONGEST_END:
                        raise tarfile.ReadError("it does not end after its last member")
            _check_end(file, archive.offset, plain)


def _check_headers(archive: tarfile.TarFile) -> None:
    """Raise HeaderError if global headers, which tarfile adds up, are too long."""
    if sum(map(len, archive.pax_headers.values())) > _MAX_HEADER_SIZE:
        raise tarfile.HeaderError("its global headers are too long")


def _check_end(file: Path, end: int, plain: _Counting) -> None:
    """Raise InvalidArchive unless the last member is followed by the zeros that end a tar, and by nothing else."""
    if plain.end > end:
        raise InvalidArchive(str(file), f"it is corrupted (no valid member at byte {end:,})")
    if plain.size < end + _END_OF_TAR:
        raise InvalidArchive(str(file), "it is corrupted (it is truncated)")


def _decompressed(file: BinaryIO, kind: ArchiveFormat) -> IO[bytes]:
    if kind == "gzip":
        return cast(IO[bytes], gzip.GzipFile(fileobj=file))
    if kind == "bzip2":
        return cast(IO[bytes], bz2.BZ2File(file))
    if kind == "xz":
        return cast(IO[bytes], XzReader(file))
    return cast(IO[bytes], zstd_reader(file)) if kind == "zstd" else file


def _tar_entry(file: Path, member: tarfile.TarInfo) -> ArchiveEntry:
    kind = None if member.issparse() else _TAR_TYPES.get(member.type)
    return _entry(file, member.name, kind, member.mode, _tar_time(member), member.linkname)


def _tar_time(member: tarfile.TarInfo) -> int:
    """Return the time in nanoseconds: tarfile rounds those in extended headers."""
    try:
        seconds = Decimal(member.pax_headers.get("mtime", str(member.mtime)))
        return int(min(max(seconds, _EARLIEST), _LATEST) * NANOSECONDS)
    except (InvalidOperation, ValueError):  # not a number
        return int(_EARLIEST) * NANOSECONDS


def _entry(
    file: Path, name: str, kind: MemberType | None, mode: int, mtime_ns: int, target: str
) -> ArchiveEntry:
    """Return a checked member; `target` only counts for links. Raise InvalidArchive."""
    if kind is None:
        reason = f"{_shorten(name)} is a device, a pipe, or of another unsupported type"
        raise InvalidArchive(str(file), reason)
    if kind == "hardlink":
        target = _check_path(file, target)
    elif kind != "symlink":
        target = ""
    elif "\0" in target or len(path_bytes(target)) > LONGEST_PATH:
        raise InvalidArchive(str(file), f"the link {_shorten(name)} has a target that no link can have")
    path = _check_path(file, name, top=kind == "directory")
    return ArchiveEntry(path, kind, mode & 0o777, mtime_ns, target)


def _zip(file: Path, progress: Progress) -> Iterator[tuple[ArchiveEntry, ReadData]]:
    with _ZipFile(file) as opened:
        with _reading(file):
            archive = zipfile.ZipFile(cast(IO[bytes], opened))
        for info in archive.infolist():
            with _reading(file):
                entry = _zip_entry(file, archive, info)
                data = archive.open(info) if entry.type == "file" else None
            yield entry, _reader(file, data)
            if data is not None:
                data.close()
            progress.advance(info.compress_size)


def _zip_entry(file: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> ArchiveEntry:
    if info.compress_type not in _ZIP_METHODS:
        reason = f"{_shorten(info.filename)} is not compressed with deflate, as members of a zip usually are"
        raise InvalidArchive(str(file), reason)
    unix = info.external_attr >> 16
    usual = stat.S_IFDIR | 0o755 if info.is_dir() else stat.S_IFREG | 0o644
    if not stat.S_IFMT(unix):
        unix = stat.S_IFMT(usual) | (unix & 0o777 or usual & 0o777)
    kind = _FILE_TYPES.get(stat.S_IFMT(unix))
    target = b""
    if kind == "symlink":
        with archive.open(info) as data:  # its size may be stated falsely
            target = data.read(LONGEST_PATH + 1)
    mtime_ns = int(time.mktime((*info.date_time, 0, 0, -1))) * NANOSECONDS
    return _entry(file, info.filename, kind, unix, mtime_ns, os.fsdecode(target))


def _squashfs(file: Path, top: Path, progress: Progress) -> Iterator[tuple[ArchiveEntry, ReadData]]:
    unpack(file, top)
    progress.advance(file.stat().st_size)
    tree = walk(top)
    for path, reason in tree.skipped:
        raise InvalidArchive(str(file), f"{path!r} is not allowed: {reason}")
    first_paths: dict[tuple[int, int], str] = {}
    for item in sorted(tree.files):
        original = first_paths.setdefault((item.device, item.inode), item.path)
        kind: MemberType = "hardlink" if item.type == "file" and original != item.path else item.type
        target = original if kind == "hardlink" else item.target
        entry = _entry(file, item.path, kind, item.mode, item.mtime_ns, target)
        if kind != "file":
            yield entry, _reader(file, None)
            continue
        with (top / item.path).open("rb") as data:
            yield entry, _reader(file, data)


def _reader(file: Path, data: Any) -> ReadData:
    def read(size: int) -> bytes:
        if data is None:
            return b""
        with _reading(file):
            return bytes(data.read(size))

    return read


def _check_path(file: Path, name: str, *, top: bool = False) -> str:
    """Return the name as a normal path inside the archive; raise InvalidArchive. If `top` is allowed, it is empty."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name or not (parts or top):
        raise InvalidArchive(str(file), f"{_shorten(name)} is outside the environment")
    path = "/".join(parts)
    if len(parts) > _MAX_COMPONENTS or len(path_bytes(path)) > LONGEST_PATH:
        raise InvalidArchive(str(file), f"the path {_shorten(path)} is too long")
    return path


def _shorten(name: str) -> str:
    """Return a name as messages show it."""
    return repr(name if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}…")
