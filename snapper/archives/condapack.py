"""Write archives with conda-pack's own code.

Only its archive writers and the scripts that it adds are used. Its handling of files is not: it takes them from conda's
package cache, and rewrites records and first lines of scripts.
"""

from __future__ import annotations

import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from conda_pack.core import CondaPackException, Packer
from conda_pack.formats import TarArchive
from conda_pack.formats import archive as conda_pack_archive

from snapper.archives.squashfs import squashfs_program
from snapper.environment.conda_unpack import ACTIVATION_SCRIPTS, ADDED_FILES, PrefixRecord
from snapper.environment.tree import File
from snapper.errors import FileOperationFailed
from snapper.format.compression import zstd_writer
from snapper.format.times import LATEST, NANOSECONDS, RESTORED_LINK_TIME
from snapper.process.progress import Progress


@dataclass(frozen=True)
class OutputFormat:
    """An archive format, by conda-pack's name. `level` is the default; `levels` are empty without compression.

    `times` are those it can hold, in seconds since 1970, for the local time in any time zone.
    """

    name: str
    suffixes: tuple[str, ...]
    levels: range
    level: int
    threaded: bool
    times: range = range(LATEST // NANOSECONDS + 1)


#: 2107-12-30 UTC: zip archives hold local times until the end of 2107.
_END_OF_ZIP_TIMES = 4_354_646_400

FORMATS = (
    OutputFormat("tar.gz", (".tar.gz", ".tgz"), range(10), 4, True),
    OutputFormat("tar.zst", (".tar.zst", ".tzst"), range(1, 20), 3, True),
    OutputFormat("tar.bz2", (".tar.bz2", ".tbz2"), range(1, 10), 9, True),
    OutputFormat("tar", (".tar",), range(0), 0, False),
    OutputFormat("zip", (".zip",), range(10), 4, False, range(RESTORED_LINK_TIME, _END_OF_ZIP_TIMES)),
    OutputFormat("squashfs", (".squashfs",), range(10), 4, True, range(2**32)),
)


@dataclass(frozen=True)
class ArchiveJob:
    """An archive to write to `path`; `scratch` is a directory for conda-pack's temporary files.

    If there is a `dest_prefix`, the archive contains no conda-unpack.
    """

    format: OutputFormat
    level: int
    threads: int
    dest_prefix: str
    path: Path
    scratch: Path


@dataclass(frozen=True)
class ArchiveSource:
    """What to archive: the `files` of `tree` by path, what conda-unpack has to relocate, and the packages' names."""

    tree: Path
    files: Mapping[str, File]
    prefix_records: tuple[PrefixRecord, ...]
    packages: Sequence[str]


def write_archive(job: ArchiveJob, source: ArchiveSource, progress: Progress) -> None:
    """Write the files, and the scripts that conda-pack adds. Raise FileOperationFailed or OSError."""
    try:
        with _temporary_files_in(job.scratch), _own_programs(job.format), job.path.open("xb") as file:
            out = _Output(file)
            with _open_archive(job, out, source.files) as archive:
                _add_files(job, archive, out, source, progress)
                _add_scripts(job, archive, source)
            out.check()
            file.flush()
            os.fsync(file.fileno())
    except (CondaPackException, subprocess.CalledProcessError, ValueError) as error:
        raise FileOperationFailed(job.path.name, f"conda-pack could not write it: {error}") from None


@contextmanager
def _temporary_files_in(directory: Path) -> Iterator[None]:
    """Have conda-pack create its temporary files in the directory, whose owner removes them."""
    before, tempfile.tempdir = tempfile.tempdir, str(directory)
    try:
        yield
    finally:
        tempfile.tempdir = before


@contextmanager
def _own_programs(output_format: OutputFormat) -> Iterator[None]:
    """Have conda-pack run the mksquashfs that snapper would: it looks in PATH, which may begin with an environment."""
    if output_format.name != "squashfs":
        yield
        return
    before, program = os.environ.get("PATH"), squashfs_program("mksquashfs")
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(program), before or os.defpath])
    try:
        yield
    finally:
        if before is None:
            del os.environ["PATH"]
        else:
            os.environ["PATH"] = before


@contextmanager
def _open_archive(job: ArchiveJob, out: _Output, files: Mapping[str, File]) -> Iterator[Any]:
    """Open conda-pack's writer. For zstd, it gets snapper's stream: conda-pack's has no level and no threads."""
    name = job.format.name
    sink: object = out.file if name == "zip" else out
    stream = None
    if name == "tar.zst":
        sink = stream = zstd_writer(cast(BinaryIO, out), job.level, job.threads)
        name = "tar"
    opened = conda_pack_archive(
        sink,
        str(job.path),
        "",
        name,
        compress_level=job.level,
        zip_symlinks=True,
        n_threads=job.threads,
        mtime=RESTORED_LINK_TIME,
    )
    with opened as archive:
        if isinstance(archive, TarArchive):
            archive.archive.tarinfo = partial(_Member, files)
        yield archive
    if stream is not None:
        stream.close()  # type: ignore[no-untyped-call]


def _add_files(
    job: ArchiveJob, archive: Any, out: _Output, source: ArchiveSource, progress: Progress
) -> None:
    """Add the environment's files. mksquashfs adds directories with all of their contents."""
    directories: set[str] = set()
    for path in sorted(source.files):
        if job.format.name != "squashfs" or not _is_below(path, directories):
            archive.add(str(source.tree / path), path)
        if source.files[path].type == "directory":
            directories.add(path)
        out.check()
        progress.advance(source.files[path].size)


def _add_scripts(job: ArchiveJob, archive: Any, source: ArchiveSource) -> None:
    packer = Packer(str(source.tree), _ScriptArchive(archive, source.files), job.dest_prefix or None)
    packer.packages += [{"name": name} for name in source.packages]
    packer.prefixes += [tuple(_AsciiLiteral(field) for field in record) for record in source.prefix_records]
    packer.finish()
    if job.format.name == "squashfs":
        archive.mksquashfs_from_staging()


def _is_below(path: str, directories: set[str]) -> bool:
    """Return whether the path is below one of the directories."""
    parts = path.split("/")
    return any("/".join(parts[:count]) in directories for count in range(1, len(parts)))


class _Output:
    """The archive's file. An error is only raised by `check`: raised by `write`, it would end one of conda-pack's
    threads, and the others would wait for it forever.
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
        """Do nothing: the file is flushed when it is closed."""

    def check(self) -> None:
        """Raise the first error of `write`, if any."""
        if self._failure is not None:
            raise self._failure


class _Member(tarfile.TarInfo):
    """A member with the exact time of its file, which tarfile rounds, and without an owner.

    It belongs to the user who unpacks it, even if that is root.
    """

    def __init__(self, files: Mapping[str, File], name: str = "") -> None:
        super().__init__(name)
        self._files = files

    def get_info(self) -> Any:
        if self.name in self._files:
            seconds, nanoseconds = divmod(self._files[self.name].mtime_ns, NANOSECONDS)
            self.pax_headers = {**self.pax_headers, "mtime": f"{seconds}.{nanoseconds:09}"}
        return {**super().get_info(), "uid": 0, "gid": 0, "uname": "", "gname": ""}


class _ScriptArchive:
    """Adds conda-pack's scripts to an archive, except where the environment has files of that name."""

    def __init__(self, archive: Any, files: Mapping[str, File]) -> None:
        self._archive, self._files = archive, files

    def add(self, source: str, target: str) -> None:
        if target not in self._files:
            is_script = target in ADDED_FILES and target not in ACTIVATION_SCRIPTS
            if is_script and not os.access(source, os.X_OK):
                os.chmod(source, 0o644)
            self._archive.add(source, target)


class _AsciiLiteral(str):
    """Text with an ASCII literal: conda-pack writes conda-unpack in the locale's encoding, but it is read as UTF-8."""

    __slots__ = ()

    def __repr__(self) -> str:
        return ascii(str(self))
