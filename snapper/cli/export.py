"""`snapper export`: write a conda-pack archive of a snapshot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import snapper
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

if TYPE_CHECKING:
    from snapper.commands.export import ExportResult


OutputOption = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Archive to write.")]
FormatOption = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="tar.gz, tar.zst, tar.bz2, tar, zip or squashfs (default: from the file name).",
    ),
]
DestPrefixOption = Annotated[
    str,
    typer.Option(
        "--dest-prefix",
        metavar="DIR",
        help="Directory that the archive will be unpacked to; it then needs no conda-unpack, but works only there.",
    ),
]
ArchiveLevelOption = Annotated[
    int | None,
    typer.Option(
        "--level",
        metavar="N",
        help="Compression level, if the format has levels (default: depends on the format).",
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads", min=1, max=256, metavar="N", help="Compression threads (default: one per CPU)."
    ),
]
OverwriteOption = Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")]


def export(
    name: ReferenceArgument,
    output: OutputOption,
    format_: FormatOption = "",
    dest_prefix: DestPrefixOption = "",
    level: ArchiveLevelOption = None,
    threads: ThreadsOption = None,
    force: OverwriteOption = False,
    store: StoreOption = None,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> int:
    """Write a snapshot as a conda-pack archive.

    It can be unpacked without snapper.

    Examples:
        snapper export myenv -o myenv.tar.gz
        snapper export myenv@v1 -o myenv.zip
        snapper export myenv -o myenv.tar.zst --dest-prefix /opt/myenv
    """
    from snapper.cli.render.progress import reporter
    from snapper.repository.specs import SnapshotSpec

    SnapshotSpec.parse(name)  # an invalid name is an error even if the store cannot be opened
    opened = open_store(store)
    with reporter(quiet=as_json) as progress:
        exported = snapper.export(
            opened,
            name,
            output,
            format=format_,
            dest_prefix=dest_prefix,
            level=level,
            threads=threads,
            force=force,
            jobs=jobs,
            progress=progress,
        )
    return _print_result(exported, read_staleness(opened, [exported.environment]), as_json)


def _print_result(result: ExportResult, staleness: Staleness, as_json: bool) -> int:
    """Report an export and return the exit code."""
    code = ExitCode.PARTIAL if result.unrelocated or result.clamped else staleness.code
    if as_json:
        fields = to_jsonable(result)
        fields["snapshot"] = fields.pop("snapshot_id")
        del fields["own_unrelocated"]
        fields |= {
            "longest_prefix": result.longest_prefix,
            "seconds": round(result.seconds, 3),
            **staleness.fields,
        }
        output.print_json(fields)
        return code
    output.print_unrelocated(result.unrelocated, result.own_unrelocated, result.harmless_unrelocated)
    output.print_clamped(result.clamped, f"a {result.format} file")
    output.echo(f"Exported {result.environment}@{result.snapshot_id[:12]} to {result.output}")
    output.echo(
        f"  {plural(result.files, 'file')}, {size(result.size)} as {result.format}, {result.seconds:.1f} s"
    )
    if result.dest_prefix:
        output.echo(f"  unpack it at {result.dest_prefix}")
    else:
        limit = f" (with a path of at most {result.longest_prefix} bytes)" if result.longest_prefix else ""
        output.echo(f"  unpack it into an empty directory{limit}, then run bin/conda-unpack there")
    staleness.warn()
    return code
