"""`snapper export`: write a conda-pack archive of a snapshot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snapper.cli.options import (
    JobsOption,
    JsonOption,
    ReferenceArgument,
    StoreOption,
    open_store,
)
from snapper.cli.render import output
from snapper.cli.render.staleness import Staleness, read_staleness
from snapper.cli.render.text import plural, size
from snapper.errors import ExitCode
from snapper.format.canonical import to_jsonable
from snapper.settings.directories import absolute_directory
from snapper.settings.resolution import load_settings

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
    from snapper.cli.render.progress import reporter
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
    return _exported(exported, read_staleness(opened, [exported.environment]), as_json)


def _exported(done: ExportResult, staleness: Staleness, as_json: bool) -> int:
    """Reports an export; returns the exit code."""
    code = ExitCode.PARTIAL if done.unrelocated else staleness.code
    if as_json:
        fields = to_jsonable(done)
        fields["snapshot"] = fields.pop("snapshot_id")
        fields |= {
            "longest_prefix": done.longest_prefix,
            "seconds": round(done.seconds, 3),
            **staleness.fields,
        }
        output.print_json(fields)
        return code
    output.print_unrelocated(done.unrelocated)
    output.echo(f"{done.environment}@{done.snapshot_id[:12]} is exported: {done.output}")
    output.echo(f"  {plural(done.files, 'file')}, {size(done.size)} as {done.format}, {done.seconds:.1f} s")
    if done.dest_prefix:
        output.echo(f"  unpack it at {done.dest_prefix}")
    else:
        room = f" (its path can have {done.longest_prefix} bytes)" if done.longest_prefix else ""
        output.echo(f"  unpack it in a directory of its own{room}, then run bin/conda-unpack there")
    staleness.warn()
    return code
