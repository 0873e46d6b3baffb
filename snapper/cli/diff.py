"""`snapper diff`: compare two snapshots, or a snapshot and the environment on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

import snapper
from snapper.cli.completion import complete_snapshot
from snapper.cli.options import JobsOption, JsonOption, PrefixOption, StoreOption, open_store
from snapper.cli.render import output
from snapper.cli.render.staleness import Staleness, read_staleness
from snapper.errors import UsageError
from snapper.format.canonical import to_jsonable

if TYPE_CHECKING:
    from snapper.commands.diff import SnapshotDiff


def diff(
    before: Annotated[
        str,
        typer.Argument(
            metavar="ENV[@SNAPSHOT]",
            help="Snapshot to compare from (default: the current snapshot).",
            autocompletion=complete_snapshot,
        ),
    ],
    after: Annotated[
        str | None,
        typer.Argument(
            metavar="[ENV[@SNAPSHOT]]",
            help="Snapshot to compare with (default: ENV on this machine).",
            autocompletion=complete_snapshot,
        ),
    ] = None,
    prefix: PrefixOption = None,
    files: Annotated[
        bool, typer.Option("--files", help="List every file that differs, not only packages.")
    ] = False,
    store: StoreOption = None,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> int:
    """Compare two snapshots, or a snapshot and the environment on disk.

    Examples:
        snapper diff myenv
        snapper diff myenv@~1 myenv
        snapper diff myenv@v1 myenv@v2 --files
    """
    from snapper.cli.render.progress import reporter
    from snapper.repository.specs import SnapshotSpec

    if after is not None and prefix is not None:
        raise UsageError("a second snapshot and --prefix cannot be combined", "Choose one of them.")
    names = [SnapshotSpec.parse(spec).environment for spec in (before, after) if spec is not None]
    opened = open_store(store)
    with reporter(quiet=as_json) as progress:
        differences = snapper.diff(opened, before, after or prefix, files=files, jobs=jobs, progress=progress)
    staleness = read_staleness(opened, names)
    _print_differences(differences, staleness, as_json)
    return staleness.code


def _print_differences(differences: SnapshotDiff, staleness: Staleness, as_json: bool) -> None:
    if as_json:
        output.print_json(
            {**to_jsonable(differences), "files": to_jsonable(differences.files), **staleness.fields}
        )
        return
    output.echo(f"{_label(differences.before)} -> {_label(differences.after)}")
    output.print_changes(differences.packages, "  ")
    for path in differences.altered.added:
        output.echo(f"  modified: {path}")
    for path in differences.altered.removed:
        output.echo(f"  no longer modified: {path}")
    files = differences.files
    if files is not None:
        for mark, paths in (("+", files.added), ("-", files.removed), ("~", files.changed)):
            for path in paths:
                output.echo_change("  ", mark, path)
    same = not (differences.packages or differences.altered.added or differences.altered.removed)
    if same and files is None:
        output.echo("  same packages; compare files with --files")
    elif same and files is not None and not (files.added or files.removed or files.changed):
        output.echo("  no differences")
    staleness.warn()


def _label(side: str) -> str:
    return side if "/" in side else side[:12]
