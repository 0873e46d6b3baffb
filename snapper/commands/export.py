"""Export: from a snapshot to an archive as conda-pack makes them, for people without snapper.

conda-pack's own machinery writes the archive and the `conda-unpack` in it; its files come from the snapshot.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from snapper.archives.archive import ACTIVATION, ADDED, Entry, Read, entries, squashfs_program
from snapper.archives.condapack import FORMATS, Format, Packing, write
from snapper.archives.portable import make_portable, room_of
from snapper.environment import conda
from snapper.environment.tree import File, walk
from snapper.errors import (
    FileOperationFailed,
    InsufficientSpace,
    PermissionDenied,
    TargetOccupied,
    UsageError,
)
from snapper.format.model import Snapshot, path_bytes
from snapper.process.pool import WorkerPool, default_worker_count
from snapper.process.progress import NO_PROGRESS, Progress
from snapper.repository.snapshots import read_snapshot
from snapper.repository.specs import SnapshotSpec, resolve_spec
from snapper.restoring.staging import staging_directory
from snapper.restoring.unpack import check_prefix_length, unpack_layers, without_relocations
from snapper.store import Store

_CHUNK = 1024 * 1024


@dataclass(frozen=True)
class ExportRequest:
    """What to export, and how: `format` by name if not by the output's ending; `level` and `threads` if not usual."""

    reference: SnapshotSpec
    output: Path
    format: str = ""
    dest_prefix: str = ""
    level: int | None = None
    threads: int | None = None
    force: bool = False


@dataclass(frozen=True)
class ExportResult:
    """An archive that was written; `size` in bytes, `unrelocated` where the prefix that it is for does not fit.

    `longest_prefix` is how long the directory's path can be that it is unpacked in, in bytes; None if any.
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
    seconds: float


def export_snapshot(
    store: Store, wanted: ExportRequest, *, jobs: int | None = None, progress: Progress = NO_PROGRESS
) -> ExportResult:
    """Writes the archive aside, checks it by reading it back, and puts it into its place.

    Raises UsageError, TargetOccupied, NotInStore, PrefixTooLong, ProgramNotFound, PermissionDenied,
    InsufficientSpace, FileOperationFailed, Corrupted.
    """
    began = time.monotonic()
    form = _format(wanted)
    _check_place(wanted)
    found, snapshot_id = resolve_spec(store, wanted.reference)
    snapshot = read_snapshot(store, snapshot_id)
    _check_snapshot(wanted, snapshot)
    with staging_directory(wanted.output) as staging:
        tree = staging.tree / "environment"
        tree.mkdir()
        progress.start(f"Unpacking {found.name}", snapshot.size)
        unrelocated = _unpack(store, snapshot, tree, wanted, jobs, progress)
        progress.done()
        fixes = () if wanted.dest_prefix else make_portable(tree, snapshot.layers)
        records = conda.read_records(tree)
        own = _without_stale_scripts(tree, records)
        packing = Packing(
            form,
            form.level if wanted.level is None else wanted.level,
            wanted.threads or (default_worker_count() if form.threaded else 1),
            wanted.dest_prefix,
            staging.tree / "archive",
            staging.tree,
        )
        if form.name == "zip":
            _suit_zip(tree, own)
        progress.start(f"Writing {form.name}", sum(file.size for file in own.values()))
        write(packing, tree, own, fixes, [record.package.name for record in records], progress)
        progress.done()
        _check_written(packing, tree, own, progress)
        _publish(packing.path, wanted)
    return ExportResult(
        environment=found.name,
        snapshot_id=snapshot_id,
        output=str(wanted.output),
        format=form.name,
        dest_prefix=wanted.dest_prefix,
        files=sum(file.type != "directory" for file in own.values()),
        size=wanted.output.stat().st_size,
        longest_prefix=min((room_of(fix) for fix in fixes if fix.mode == "binary"), default=None),
        unrelocated=unrelocated,
        seconds=time.monotonic() - began,
    )


def _format(wanted: ExportRequest) -> Format:
    """The format that is asked for; raises UsageError where there is none such, or options do not go with it."""
    endings = [ending for form in FORMATS for ending in form.endings]
    known = f"There are {', '.join(form.name for form in FORMATS)}."
    if wanted.format:
        form = next((form for form in FORMATS if form.name == wanted.format), None)
        if form is None:
            raise UsageError(f"unknown format {wanted.format!r}", known)
    else:
        form = next((form for form in FORMATS if wanted.output.name.endswith(form.endings)), None)
        if form is None:
            raise UsageError(
                f"the name {wanted.output.name!r} does not end in a known archive suffix",
                f"Use one of {', '.join(endings)}, or give --format. {known}",
            )
    if wanted.level is not None and wanted.level not in form.levels:
        levels = f"{form.levels.start} to {form.levels.stop - 1}" if form.levels else "none"
        raise UsageError(f"--level {wanted.level} is not valid for {form.name}", f"Valid levels: {levels}.")
    if wanted.threads is not None and not form.threaded:
        raise UsageError(
            f"--threads is not valid for {form.name}", "This format is compressed by a single thread."
        )
    if form.name == "squashfs":
        squashfs_program("mksquashfs")
        squashfs_program("unsquashfs")
    return form


def _check_place(wanted: ExportRequest) -> None:
    output = wanted.output
    elsewhere = "Choose another file with -o."
    if os.path.isdir(output):
        raise TargetOccupied(str(output), "it is a directory", elsewhere)
    if os.path.lexists(output) and not wanted.force:
        raise _exists(output)
    if not os.path.isdir(output.parent):
        raise FileOperationFailed(
            str(output.parent),
            "the directory does not exist",
            f"Create it, or {elsewhere[0].lower()}{elsewhere[1:]}",
        )
    if not os.access(output.parent, os.W_OK | os.X_OK):
        raise PermissionDenied(str(output.parent), "write in")


def _exists(output: Path) -> TargetOccupied:
    return TargetOccupied(
        str(output), "the file already exists", "Replace it with --force, or choose another file with -o."
    )


def _check_snapshot(wanted: ExportRequest, snapshot: Snapshot) -> None:
    prefix = wanted.dest_prefix
    if prefix:
        if not os.path.isabs(prefix) or os.path.normpath(prefix) != prefix or prefix == "/" or "\0" in prefix:
            raise UsageError(
                f"--dest-prefix {prefix!r} is not an absolute path of a directory",
                "Example: --dest-prefix /opt/myenv.",
            )
        check_prefix_length(prefix, snapshot.layers, "Choose a shorter --dest-prefix.")
    free = shutil.disk_usage(wanted.output.parent).free
    needed = snapshot.size + snapshot.stored_size
    if needed > free:
        raise InsufficientSpace(str(wanted.output.parent), needed, free)


def _unpack(
    store: Store, snapshot: Snapshot, tree: Path, wanted: ExportRequest, jobs: int | None, progress: Progress
) -> tuple[str, ...]:
    """Unpacks the snapshot for its prefix, or with its placeholders; the paths that could not be relocated."""
    layers = snapshot.layers if wanted.dest_prefix else without_relocations(snapshot.layers)
    try:
        with WorkerPool(store, jobs) as workers:
            prefix = wanted.dest_prefix or str(wanted.output)
            altered = snapshot.altered_paths
            return unpack_layers(layers, str(tree), prefix, workers, progress, altered).unrelocated
    except InsufficientSpace:
        raise InsufficientSpace(str(wanted.output.parent)) from None


def _without_stale_scripts(tree: Path, records: list[conda.Record]) -> dict[str, File]:
    """The tree's files by path, after those are gone that an earlier archive left and that this one brings anew."""
    owned = {entry.path for record in records for entry in record.entries}
    for path in ADDED:
        if os.path.lexists(tree / path) and not (path in ACTIVATION and path in owned):
            (tree / path).unlink()
    return {file.path: file for file in walk(tree).files}


def _suit_zip(tree: Path, own: Mapping[str, File]) -> None:
    """Gives files the earliest time that a zip can hold where theirs is earlier; raises UsageError for names it
    cannot.
    """
    earliest = int(time.mktime((1980, 1, 1, 0, 0, 0, 0, 0, -1))) * 1_000_000_000
    for path, file in own.items():
        if any(
            char < " " or "\x7f" <= char <= "\x9f" or "\ud800" <= char <= "\udfff"
            for char in path + file.target
        ):
            raise UsageError(f"a zip file cannot contain the name {path!r}", "Use a tar format instead.")
        if file.mtime_ns < earliest:
            os.utime(tree / path, ns=(earliest, earliest), follow_symlinks=False)


def _check_written(packing: Packing, tree: Path, own: Mapping[str, File], progress: Progress) -> None:
    """Reads the archive back, and raises FileOperationFailed unless everything is in it as it is in the tree."""
    progress.start("Verifying", packing.path.stat().st_size)
    missing = set(own)
    for entry, read in entries(packing.path, packing.holder, progress):
        if entry.path in own:
            missing.discard(entry.path)
            if not _is_same(tree, own[entry.path], entry, read):
                raise _unlike(entry.path)
        elif entry.path not in ADDED:
            raise _unlike(entry.path)
    if missing:
        raise _unlike(min(missing, key=path_bytes))
    progress.done()


def _is_same(tree: Path, file: File, entry: Entry, read: Read) -> bool:
    if entry.type == "hardlink":
        return file.type == "file" and os.path.samefile(tree / entry.path, tree / entry.target)
    if entry.type != file.type or entry.target != file.target:
        return False
    if entry.type == "symlink":
        return True
    return entry.mode == file.mode & 0o777 and (entry.type == "directory" or _has(tree / file.path, read))


def _has(file: Path, read: Read) -> bool:
    with file.open("rb") as opened:
        while data := read(_CHUNK):
            if opened.read(len(data)) != data:
                return False
        return not opened.read(1)


def _unlike(path: str) -> FileOperationFailed:
    return FileOperationFailed(
        path,
        "the archive does not contain what was written",
        "The disk or its file system may be failing. The archive was removed; try another format or location.",
    )


def _publish(archive: Path, wanted: ExportRequest) -> None:
    """Puts the archive into its place, over what is there only if that is wanted; raises TargetOccupied."""
    output = wanted.output
    if wanted.force:
        archive.replace(output)
        return
    try:
        os.link(archive, output)
    except FileExistsError:
        raise _exists(output) from None
    except OSError:
        if os.path.lexists(output):
            raise _exists(output) from None
        archive.rename(output)
