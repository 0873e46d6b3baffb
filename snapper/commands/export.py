"""Export: write a snapshot as an archive like those of conda-pack, for people without snapper.

conda-pack's own code writes the archive and the `conda-unpack` in it; the files come from the snapshot.
"""

from __future__ import annotations

import os
import posixpath
import shutil
import stat
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from snapper.archives.condapack import FORMATS, ArchiveJob, ArchiveSource, OutputFormat, write_archive
from snapper.archives.portable import files_with_other_prefixes, make_portable
from snapper.archives.readback import check_archive
from snapper.archives.squashfs import squashfs_program
from snapper.environment import conda
from snapper.environment.conda_unpack import ACTIVATION_SCRIPTS, ADDED_FILES, CONDA_UNPACK
from snapper.environment.tree import File, walk
from snapper.errors import (
    FileOperationFailed,
    InsufficientSpace,
    PermissionDenied,
    TargetOccupied,
    UsageError,
)
from snapper.format.model import Snapshot
from snapper.format.owners import OwnedPaths
from snapper.format.times import NANOSECONDS, RESTORED_LINK_TIME
from snapper.fs.directories import opened_directory
from snapper.fs.handles import directory_handle
from snapper.fs.moves import Entry, move
from snapper.process.pool import WorkerPool, default_worker_count
from snapper.process.progress import NO_PROGRESS, Progress
from snapper.repository.snapshots import read_snapshot
from snapper.repository.specs import SnapshotSpec, resolve_spec
from snapper.restoring.staging import staging_directory
from snapper.restoring.unpacker import check_prefix_length, unpack_layers, without_relocations
from snapper.store import Store


@dataclass(frozen=True)
class ExportRequest:
    """What to export and how. By default, the format follows from the output's suffix, and the format's own level and
    as many threads as there are CPUs are used. With a `dest_prefix`, the archive is for that directory only.
    """

    reference: SnapshotSpec
    output: Path
    format: str = ""
    dest_prefix: str = ""
    level: int | None = None
    threads: int | None = None
    force: bool = False


@dataclass(frozen=True)
class ExportResult:
    """A written archive; `size` in bytes.

    `longest_prefix` is the maximum length, in bytes, of the path of the directory to unpack it in; None if there is
    none. `unrelocated` are files that still contain another prefix than that of the archive's destination, the first
    `own_unrelocated` of them in no conda package. `harmless_unrelocated` are further ones, in which that does no harm.
    `clamped` are files with times that the format cannot hold; they have the nearest ones.
    """

    environment: str
    snapshot_id: str
    output: str
    format: str
    dest_prefix: str
    files: int
    size: int
    longest_prefix: int | None
    unrelocated: tuple[str, ...]
    own_unrelocated: int
    harmless_unrelocated: tuple[str, ...]
    clamped: tuple[str, ...]
    seconds: float


def export_snapshot(
    store: Store, request: ExportRequest, *, jobs: int | None = None, progress: Progress = NO_PROGRESS
) -> ExportResult:
    """Write the archive to a staging directory, verify it by reading it back, and move it to its place.

    Raise UsageError, TargetOccupied, NotInStore, PrefixTooLong, ProgramNotFound, PermissionDenied,
    InsufficientSpace, FileOperationFailed, Corrupted.
    """
    began = time.monotonic()
    output_format = _choose_format(request)
    _check_output(request)
    ref, snapshot_id = resolve_spec(store, request.reference)
    snapshot = read_snapshot(store, snapshot_id)
    _check_snapshot(request, snapshot)
    with staging_directory(request.output.absolute()) as staging:
        tree = staging.tree / "environment"
        tree.mkdir()
        progress.start(f"Unpacking {ref.name}", snapshot.size)
        unrelocated = _unpack(store, snapshot, tree, request, jobs, progress)
        progress.done()
        source = _prepare_source(tree, snapshot, request, output_format)
        clamped = _limit_times(source, output_format.times)
        job = _archive_job(request, output_format, staging.path_by_descriptor)
        progress.start(f"Writing {output_format.name}", sum(file.size for file in source.files.values()))
        write_archive(job, source, progress)
        progress.done()
        check_archive(job, source, progress)
        size = job.path.stat().st_size
        _publish(Entry(staging.descriptor, job.path.name), staging.entry, request)
    binaries = (record for record in source.prefix_records if record.mode == "binary")
    return ExportResult(
        environment=ref.name,
        snapshot_id=snapshot_id,
        output=str(request.output),
        format=output_format.name,
        dest_prefix=request.dest_prefix,
        files=sum(file.type != "directory" for file in source.files.values()),
        size=size,
        longest_prefix=min((record.max_prefix_length for record in binaries), default=None),
        unrelocated=unrelocated.paths,
        own_unrelocated=unrelocated.own,
        harmless_unrelocated=unrelocated.harmless,
        clamped=clamped,
        seconds=time.monotonic() - began,
    )


def _choose_format(request: ExportRequest) -> OutputFormat:
    """Return the format to write; raise UsageError if it is unknown or does not support the options."""
    chosen = _find_format(request)
    if request.level is not None and request.level not in chosen.levels:
        levels = f"{chosen.levels.start} to {chosen.levels.stop - 1}" if chosen.levels else "none"
        raise UsageError(
            f"--level {request.level} is not valid for {chosen.name}", f"Valid levels: {levels}."
        )
    if request.threads is not None and not chosen.threaded:
        raise UsageError(
            f"--threads is not valid for {chosen.name}",
            "This format is compressed with a single thread; omit --threads.",
        )
    if chosen.name == "squashfs":
        squashfs_program("mksquashfs")
        squashfs_program("unsquashfs")
    return chosen


def _find_format(request: ExportRequest) -> OutputFormat:
    """Return the format by its name, or else by the output's suffix."""
    known = f"Formats: {', '.join(candidate.name for candidate in FORMATS)}."
    for candidate in FORMATS:
        if request.format:
            if candidate.name == request.format:
                return candidate
        elif request.output.name.endswith(candidate.suffixes):
            return candidate
    if request.format:
        raise UsageError(f"unknown format {request.format!r}", known)
    suffixes = ", ".join(suffix for candidate in FORMATS for suffix in candidate.suffixes)
    raise UsageError(
        f"the name {request.output.name!r} does not end in a known archive suffix",
        f"Use one of {suffixes}, or give --format. {known}",
    )


def _check_output(request: ExportRequest) -> None:
    output = request.output
    elsewhere = "Choose another file with -o."
    if os.path.isdir(output):
        raise TargetOccupied(str(output), "it is a directory", elsewhere)
    if os.path.lexists(output) and not request.force:
        raise _occupied(output)
    if not os.path.isdir(output.parent):
        raise FileOperationFailed(
            str(output.parent),
            "the directory does not exist",
            f"Create it, or {elsewhere[0].lower()}{elsewhere[1:]}",
        )
    if not os.access(output.parent, os.W_OK | os.X_OK):
        raise PermissionDenied(str(output.parent), "write to")


def _occupied(output: Path) -> TargetOccupied:
    return TargetOccupied(
        str(output), "the file already exists", "Replace it with --force, or choose another file with -o."
    )


def _check_snapshot(request: ExportRequest, snapshot: Snapshot) -> None:
    prefix = request.dest_prefix
    if prefix:
        if not os.path.isabs(prefix) or os.path.normpath(prefix) != prefix or prefix == "/" or "\0" in prefix:
            raise UsageError(
                f"--dest-prefix {prefix!r} is not the absolute path of a directory",
                "Example: --dest-prefix /opt/myenv.",
            )
        check_prefix_length(prefix, snapshot.layers, "Choose a shorter --dest-prefix.")
    free = shutil.disk_usage(request.output.parent).free
    needed = snapshot.size + snapshot.stored_size
    if needed > free:
        raise InsufficientSpace(str(request.output.parent), needed, free)


def _unpack(
    store: Store, snapshot: Snapshot, tree: Path, request: ExportRequest, jobs: int | None, progress: Progress
) -> OwnedPaths:
    """Unpack the snapshot for the `dest_prefix`, or with its placeholders; return paths that cannot be relocated."""
    layers = snapshot.layers if request.dest_prefix else without_relocations(snapshot.layers)
    try:
        with WorkerPool(store, jobs) as workers, opened_directory(tree) as opened:
            prefix = request.dest_prefix or str(request.output)
            directory, altered = directory_handle(opened, tree), snapshot.altered_paths
            unrelocated = unpack_layers(layers, directory, prefix, workers, progress, altered).unrelocated
    except InsufficientSpace:
        raise InsufficientSpace(str(request.output.parent)) from None
    return unrelocated if request.dest_prefix else files_with_other_prefixes(tree, snapshot.layers)


def _prepare_source(
    tree: Path, snapshot: Snapshot, request: ExportRequest, output_format: OutputFormat
) -> ArchiveSource:
    """Prepare the unpacked files for the archive, and return what to write."""
    prefix_records = () if request.dest_prefix else make_portable(tree, snapshot.layers)
    records = conda.read_records(tree)
    _make_scripts_directory(tree)
    files = {file.path: file for file in walk(tree).files}
    _remove_added_files(tree, files, records)
    if output_format.name == "zip":
        _check_names_for_zip(files)
    return ArchiveSource(tree, files, prefix_records, [record.package.name for record in records])


def _make_scripts_directory(tree: Path) -> None:
    """Create `bin` for the scripts that conda-pack adds, unless the environment has it.

    Raise FileOperationFailed if it is not a directory: through a link, the scripts would be written elsewhere, here and
    wherever the archive is unpacked.
    """
    name = posixpath.dirname(CONDA_UNPACK)
    directory = tree / name
    if not os.path.lexists(directory):
        directory.mkdir()
        directory.chmod(0o755)
        os.utime(directory, (RESTORED_LINK_TIME, RESTORED_LINK_TIME))
    if not stat.S_ISDIR(os.lstat(directory).st_mode):
        raise FileOperationFailed(
            name,
            "it is not a directory in this snapshot, so there is no place for the scripts of an archive",
            "Restore the snapshot with snapper instead. If someone else packed it, do not trust it.",
        )


def _remove_added_files(tree: Path, files: dict[str, File], records: Iterable[conda.Record]) -> None:
    """Remove files of an earlier conda-pack archive, which this one replaces."""
    owned = {entry.path for record in records for entry in record.entries}
    for path in ADDED_FILES:
        is_kept = path in ACTIVATION_SCRIPTS and path in owned
        if path in files and files[path].type != "directory" and not is_kept:
            del files[path]
            (tree / path).unlink()


def _check_names_for_zip(files: Mapping[str, File]) -> None:
    """Raise UsageError for names that a zip cannot store."""
    for path, file in files.items():
        if any(
            char < " " or "\x7f" <= char <= "\x9f" or "\ud800" <= char <= "\udfff"
            for char in path + file.target
        ):
            raise UsageError(f"a zip file cannot contain the name {path!r}", "Use a tar format instead.")


def _limit_times(source: ArchiveSource, times: range) -> tuple[str, ...]:
    """Give files whose time the format cannot hold the nearest one that it can; return their paths, sorted."""
    changed = []
    for path, file in source.files.items():
        limited = min(max(file.mtime_ns, times.start * NANOSECONDS), (times.stop - 1) * NANOSECONDS)
        if limited != file.mtime_ns:
            os.utime(source.tree / path, ns=(limited, limited), follow_symlinks=False)
            if file.type == "file":
                changed.append(path)
    return tuple(sorted(changed))


def _archive_job(request: ExportRequest, output_format: OutputFormat, scratch: Path) -> ArchiveJob:
    return ArchiveJob(
        output_format,
        output_format.level if request.level is None else request.level,
        request.threads or (default_worker_count() if output_format.threaded else 1),
        request.dest_prefix,
        scratch / "archive",
        scratch,
    )


def _publish(archive: Entry, output: Entry, request: ExportRequest) -> None:
    """Move the archive to its place; raise TargetOccupied if a file is there, unless it is to be replaced."""
    if request.force:
        os.replace(archive.name, output.name, src_dir_fd=archive.directory, dst_dir_fd=output.directory)
        return
    try:
        move(archive, output)
    except FileExistsError:
        raise _occupied(request.output) from None
