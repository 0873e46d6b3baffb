"""`snapper export` and `snapper import`: conda-pack archives, from and to snapshots."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snapper.cli import output, pack
from snapper.cli.options import (
    JobsOption,
    JsonOption,
    LevelOption,
    MessageOption,
    ReferenceArgument,
    StoreOption,
    open_store,
)
from snapper.cli.seen import Seen, seen
from snapper.cli.text import plural, size
from snapper.errors import ExitCode
from snapper.format.canonical import to_jsonable
from snapper.settings.settings import absolute_directory, load_settings

if TYPE_CHECKING:
    from snapper.commands.export import ExportResult


def export(
    name: ReferenceArgument,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The archive to write.")],
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="tar.gz, tar.zst, tar.bz2, tar, zip or squashfs. Default: by the file's ending.",
        ),
    ] = "",
    dest_prefix: Annotated[
        str,
        typer.Option(
            metavar="DIR",
            help="Where it will be unpacked: then it is for that place alone, and needs no conda-unpack.",
        ),
    ] = "",
    level: Annotated[
        int | None, typer.Option("--level", help="Compression level, as far as the format has any.")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads", min=1, max=256, metavar="N", help="Compressing threads. Default: one a processor."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    store: StoreOption = None,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> int:
    """Write a conda-pack archive, which is restored without snapper."""
    from snapper.cli.bars import reporter
    from snapper.commands import export as verb
    from snapper.repository.specs import SnapshotSpec

    wanted = verb.ExportRequest(
        SnapshotSpec.parse(name),
        absolute_directory(output),
        format=format_,
        dest_prefix=dest_prefix,
        level=level,
        threads=threads,
        force=force,
    )
    opened = open_store(store)
    with reporter(quiet=as_json) as progress:
        exported = verb.export_snapshot(opened, wanted, jobs=jobs or load_settings().jobs, progress=progress)
    return _exported(exported, seen(opened, [exported.environment]), as_json)


def import_(
    archive: Annotated[
        Path, typer.Argument(metavar="FILE", help="An archive made by conda-pack or snapper export.")
    ],
    store_name: Annotated[
        str | None,
        typer.Option("--name", "-n", metavar="NAME", help="Name in the store. Default: the file's."),
    ] = None,
    message: MessageOption = "",
    level: LevelOption = None,
    store: StoreOption = None,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put the environment of a conda-pack archive into the store."""
    from snapper.archives import importer
    from snapper.cli.bars import reporter
    from snapper.commands import pack as verb
    from snapper.repository.specs import check_environment_name

    file = absolute_directory(archive)
    known_as = check_environment_name(
        store_name or importer.archive_stem(file), "Say what it is to be called in the store with --name."
    )
    with reporter(quiet=as_json) as progress, importer.unpacked_archive(file, progress) as arrival:
        opened = open_store(store, create=True)
        done = verb.pack(
            opened,
            arrival.place,
            known_as,
            message=message or f"from {file.name}",
            level=level or load_settings().level,
            editables="ignore",
            displaced=arrival.displaced,
            jobs=jobs or load_settings().jobs,
            progress=progress,
        )
    pack.report(done, as_json)


def _exported(done: ExportResult, last: Seen, as_json: bool) -> int:
    """Reports an export; returns the exit code."""
    code = ExitCode.PARTIAL if done.unrelocated else last.code
    if as_json:
        fields = to_jsonable(done)
        fields["snapshot"] = fields.pop("snapshot_id")
        fields |= {"longest_prefix": done.longest_prefix, "seconds": round(done.seconds, 3), **last.fields}
        output.document(fields)
        return code
    output.unrelocated(done.unrelocated)
    output.say(f"{done.environment}@{done.snapshot_id[:12]} is exported: {done.output}")
    output.say(f"  {plural(done.files, 'file')}, {size(done.size)} as {done.format}, {done.seconds:.1f} s")
    if done.dest_prefix:
        output.say(f"  unpack it at {done.dest_prefix}")
    else:
        room = f" (its path can have {done.longest_prefix} bytes)" if done.longest_prefix else ""
        output.say(f"  unpack it in a directory of its own{room}, then run bin/conda-unpack there")
    last.tell()
    return code
