"""Writes archives with conda-pack's own machinery.

What it makes of files is avoided, for it takes them from conda's package cache and rewrites records and first lines;
its archives, and what it adds to them, are used.
"""

from __future__ import annotations

import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from conda_pack.core import CondaPackException, Packer
from conda_pack.formats import TarArchive
from conda_pack.formats import archive as conda_pack_archive

from snapper.archives.archive import ACTIVATION, ADDED
from snapper.archives.origin import Fix
from snapper.environment.tree import File
from snapper.errors import FileOperationFailed
from snapper.format.compression import zstd_writer
from snapper.packing.items import LINK_TIME
from snapper.process.progress import Progress


@dataclass(frozen=True)
class Format:
    """A kind of archive, by conda-pack's name; `levels` are empty where it is not compressed."""

    name: str
    endings: tuple[str, ...]
    levels: range
    level: int
    threaded: bool


FORMATS = (
    Format("tar.gz", (".tar.gz", ".tgz"), range(10), 4, True),
    Format("tar.zst", (".tar.zst", ".tzst"), range(1, 20), 3, True),
    Format("tar.bz2", (".tar.bz2", ".tbz2"), range(1, 10), 9, True),
    Format("tar", (".tar",), range(0), 0, False),
    Format("zip", (".zip",), range(10), 4, False),
    Format("squashfs", (".squashfs",), range(10), 4, True),
)


@dataclass(frozen=True)
class Packing:
    """How conda-pack is to write an archive to `path`; its own files go into `holder`."""

    format: Format
    level: int
    threads: int
    dest_prefix: str
    path: Path
    holder: Path


def write(
    packing: Packing,
    tree: Path,
    own: Mapping[str, File],
    fixes: tuple[Fix, ...],
    packages: Sequence[str],
    progress: Progress,
) -> None:
    """Writes the files `own` of `tree`, and what conda-pack adds to them: scripts that activate, and one that makes the
    `fixes` if there is no prefix that the archive is made for.

    Raises FileOperationFailed, and OSError as the system does.
    """
    try:
        with _temporary_files_in(packing.holder), packing.path.open("xb") as file:
            out = _Output(file)
            with _archive(packing, out) as archive:
                _add(packing, archive, out, tree, own, progress)
                _finish(packing, archive, tree, own, fixes, packages)
            out.check()
            file.flush()
            os.fsync(file.fileno())
    except (CondaPackException, subprocess.CalledProcessError, ValueError) as error:
        raise FileOperationFailed(str(packing.path.name), f"conda-pack could not write it: {error}") from None


@contextmanager
def _temporary_files_in(directory: Path) -> Iterator[None]:
    """Has conda-pack's temporary files where they are cleared away whatever happens, on the right file system."""
    before, tempfile.tempdir = tempfile.tempdir, str(directory)
    try:
        yield
    finally:
        tempfile.tempdir = before


@contextmanager
def _archive(packing: Packing, out: _Output) -> Iterator[Any]:
    """conda-pack's archive of that format. zstd's stream is ours: conda-pack's knows no level and no threads."""
    name = packing.format.name
    sink: object = out.file if name == "zip" else out
    stream = None
    if name == "tar.zst":
        sink = stream = zstd_writer(cast(BinaryIO, out), packing.level, packing.threads)
        name = "tar"
    opened = conda_pack_archive(
        sink,
        str(packing.path),
        "",
        name,
        compress_level=packing.level,
        zip_symlinks=True,
        n_threads=packing.threads,
        mtime=LINK_TIME,
    )
    with opened as archive:
        if isinstance(archive, TarArchive):
            archive.archive.tarinfo = _Ownerless
        yield archive
    if stream is not None:
        stream.close()  # type: ignore[no-untyped-call]


def _add(
    packing: Packing, archive: Any, out: _Output, tree: Path, own: Mapping[str, File], progress: Progress
) -> None:
    """Adds the environment's files; of directories that mksquashfs is given, it takes everything."""
    whole: set[str] = set()
    for path in sorted(own):
        if packing.format.name != "squashfs" or not _is_below(path, whole):
            archive.add(str(tree / path), path)
        if own[path].type == "directory":
            whole.add(path)
        out.check()
        progress.advance(own[path].size)


def _finish(
    packing: Packing,
    archive: Any,
    tree: Path,
    own: Mapping[str, File],
    fixes: tuple[Fix, ...],
    packages: Sequence[str],
) -> None:
    packer = Packer(str(tree), _Keeping(archive, own), packing.dest_prefix or None)
    packer.packages += [{"name": name} for name in packages]
    packer.prefixes += [tuple(_Ascii(field) for field in fix) for fix in fixes]
    packer.finish()
    if packing.format.name == "squashfs":
        archive.mksquashfs_from_staging()


def _is_below(path: str, directories: set[str]) -> bool:
    """Whether the path is below one of the directories."""
    parts = path.split("/")
    return any("/".join(parts[:count]) in directories for count in range(1, len(parts)))


class _Output:
    """The file that an archive goes to. It keeps its first failure to itself until asked: a thread of conda-pack's
    that met it would end, and leave the others waiting for ever.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self._failure: OSError | None = None
        self._size = 0

    def write(self, data: bytes) -> int:
        if self._failure is None:
            try:
                self.file.write(data)
            except OSError as error:
                self._failure = error
        self._size += len(data)
        return len(data)

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        """What is written is flushed when the file is closed."""

    def check(self) -> None:
        """Raises what writing has met."""
        if self._failure is not None:
            raise self._failure


class _Ownerless(tarfile.TarInfo):
    """A member that belongs to who unpacks it, be that root."""

    def get_info(self) -> Any:
        return {**super().get_info(), "uid": 0, "gid": 0, "uname": "", "gname": ""}


class _Keeping:
    """Takes what conda-pack adds to an archive, but keeps what the environment has of that name."""

    def __init__(self, archive: Any, own: Mapping[str, File]) -> None:
        self._archive, self._own = archive, own

    def add(self, source: str, target: str) -> None:
        if target not in self._own:
            if target in ADDED and not os.access(source, os.X_OK) and target not in ACTIVATION:
                os.chmod(source, 0o644)
            self._archive.add(source, target)


class _Ascii(str):
    """Text whose literal is ASCII: conda-unpack is written in whatever encoding the user has, and read in UTF-8."""

    __slots__ = ()

    def __repr__(self) -> str:
        return ascii(str(self))
