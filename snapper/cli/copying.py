"""What `snapper push` and `snapper pull` share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from snapper.cli.completion import complete_snapshot
from snapper.cli.options import open_store
from snapper.cli.render import output
from snapper.cli.render.staleness import read_staleness
from snapper.cli.render.text import plural, size
from snapper.errors import UsageError
from snapper.format.canonical import to_jsonable

if TYPE_CHECKING:
    from snapper.commands.copy import CopyResult


_SEE = "See: snapper push --help, snapper pull --help."


NamesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[ENV[@SNAPSHOT]]...",
        help="Environments in the source store; SNAPSHOT is a tag, an id, or ~N (default: the current snapshot).",
        autocompletion=complete_snapshot,
    ),
]


AllOption = Annotated[bool, typer.Option("--all", help="Copy all environments.")]


ForceOption = Annotated[
    bool,
    typer.Option(
        "--force", help="Also update environments whose history has diverged; the history keeps both."
    ),
]


def copy(
    source: str | None,
    target: str | None,
    names: list[str] | None,
    *,
    everything: bool,
    force: bool,
    as_json: bool,
) -> int:
    from snapper.cli.render.progress import reporter
    from snapper.commands import copy
    from snapper.repository.specs import SnapshotSpec

    if bool(names) == everything:
        raise UsageError("give environment names, or --all", _SEE)
    specs = [SnapshotSpec.parse(name) for name in names or ()]
    opened = open_store(source)
    references = copy.select_snapshots(opened, specs)  # before the target is created
    with reporter(quiet=as_json) as progress:
        target_store = open_store(target, create=True)
        copied: list[copy.CopyResult] = []
        failed: list[copy.CopyFailure] = []
        for result in copy.copy_environments(
            opened, target_store, references, force=force, progress=progress
        ):
            if isinstance(result, copy.CopyFailure):
                failed.append(result)
                if not as_json:
                    output.print_error(result.error, as_json=False)
            else:
                copied.append(result)
                if not as_json:
                    _print_result(result)
    staleness = read_staleness(opened, [reference.environment for reference in references])
    if as_json:
        output.print_json(
            {
                "source": opened.url,
                "target": target_store.url,
                "copied": [_fields(result) for result in copied],
                **output.failure_fields(
                    [(failure.environment, failure.error) for failure in failed], all_failed=not copied
                ),
                **staleness.fields,
            }
        )
    else:
        staleness.warn()
    return failed[0].error.code if failed else staleness.code


def _print_result(result: CopyResult) -> None:
    what = f"{result.environment}@{result.snapshot_id[:12]}"
    if result.present:
        output.echo(f"{what} already exists in {result.target}")
        return
    layers = plural(result.added_layers, "new layer")
    output.echo(f"Copied {what}: {layers}, {size(result.added_size)}, {result.seconds:.1f} s")
    output.echo(f"  to {result.target}")


def _fields(result: CopyResult) -> dict[str, Any]:
    fields: dict[str, Any] = to_jsonable(result)
    fields["snapshot"] = fields.pop("snapshot_id")
    return {**fields, "seconds": round(result.seconds, 3)}
