"""`snapper log`: the history of an environment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

import snapper
from snapper.cli.options import (
    JsonOption,
    NameArgument,
    StoreOption,
    open_store,
)
from snapper.cli.render import output
from snapper.cli.render.staleness import Staleness, read_staleness
from snapper.cli.render.text import moment, plural, size
from snapper.format.canonical import to_jsonable

if TYPE_CHECKING:
    from snapper.commands.log import LogEntry


def log(
    name: NameArgument,
    number: Annotated[
        int | None, typer.Option("--number", "-n", min=1, metavar="N", help="Only show the latest N entries.")
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> int:
    """Show the history of an environment.

    Each entry shows who packed what, when and where, and which packages changed.

    Examples:
        snapper log myenv
        snapper log myenv -n 5
    """
    opened = open_store(store)
    steps = snapper.snapshots(opened, name, limit=number)
    staleness = read_staleness(opened, [name])
    _print_log(name, steps, staleness, as_json)
    return staleness.code


def _print_log(name: str, steps: tuple[LogEntry, ...], staleness: Staleness, as_json: bool) -> None:
    if as_json:
        output.print_json({"environment": name, "steps": [_step(step) for step in steps], **staleness.fields})
        return
    for number, step in enumerate(steps):
        move = step.entry
        marks = [*(["current"] if step.current and not number else []), *step.tags]
        output.echo(f"{move.snapshot[:12]}  {move.action}" + (f"  ({', '.join(marks)})" if marks else ""))
        output.echo(f"    {moment(move.time)} UTC by {move.user}@{move.host}")
        if move.message:
            output.echo(f"    {move.message}")
        sizes = f"{plural(move.packages, 'package')}, {size(move.size)}, {size(move.added_size)} added"
        output.echo(f"    {sizes}{f', from {move.prefix}' if move.prefix else ''}")
        if step.changes is not None:
            output.print_changes(step.changes, "    ")
        if step.error is not None:
            output.echo(f"    changes unknown: {step.error.message}")
    staleness.warn()


def _step(step: LogEntry) -> dict[str, Any]:
    return {
        **to_jsonable(step.entry),
        "current": step.current,
        "tags": list(step.tags),
        "changes": to_jsonable(step.changes),
        **({"error": output.error_fields(step.error)} if step.error else {}),
    }
