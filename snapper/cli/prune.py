"""`snapper prune`: drop old history and delete objects that nothing refers to."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from snapper.cli.options import JsonOption, StoreOption, open_store
from snapper.cli.render import output
from snapper.cli.render.text import moment, plural, size
from snapper.errors import UsageError
from snapper.format.canonical import to_jsonable

if TYPE_CHECKING:
    from snapper.commands.prune import PruneResult


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def _keep(name: str, what: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(f"--keep-{name}", min=0, metavar="N", help=what)
    return option


def prune(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ENV]...", help="Environments that the --keep options are for. Default: all."
        ),
    ] = None,
    keep_last: Annotated[int | None, _keep("last", "Keep the last N snapshots.")] = None,
    keep_daily: Annotated[int | None, _keep("daily", "Keep the last one of each of N days.")] = None,
    keep_weekly: Annotated[int | None, _keep("weekly", "Keep the last one of each of N weeks.")] = None,
    keep_monthly: Annotated[int | None, _keep("monthly", "Keep the last one of each of N months.")] = None,
    keep_tag: Annotated[
        list[str] | None,
        typer.Option("--keep-tag", metavar="PATTERN", help="Keep these tags alone. Default: all tags."),
    ] = None,
    grace: Annotated[
        str, typer.Option("--grace", metavar="TIME", help="Leave what is younger, such as 90m, 24h, 7d.")
    ] = "24h",
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do it, and do not only say what would go.")
    ] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove what no environment needs any more from the store."""
    from snapper.cli.render.progress import reporter
    from snapper.commands import prune as verb

    retention = verb.RetentionPolicy(
        keep_last, keep_daily, keep_weekly, keep_monthly, tuple(keep_tag) if keep_tag else ("*",)
    )
    opened = open_store(store).authoritative()
    with reporter(quiet=as_json or not yes) as progress:
        done = verb.prune(
            opened, retention, names or (), dry=not yes, grace=_seconds(grace), progress=progress
        )
    _pruned(done, opened.url, as_json)


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d{1,9})([smhdw])", text)
    if match is None:
        raise UsageError(
            f"--grace {text}: that is no time", "Write a number and s, m, h, d or w, such as 24h."
        )
    return float(match[1]) * _UNITS[match[2]]


def _pruned(done: PruneResult, store: str, as_json: bool) -> None:
    if as_json:
        dropped = [
            {"environment": each.environment, "snapshot": each.snapshot_id, "time": each.time}
            for each in done.dropped
        ]
        untagged = [
            {"environment": each.environment, "tag": each.tag, "snapshot": each.snapshot_id}
            for each in done.untagged
        ]
        output.print_json({"store": store, **to_jsonable(done), "dropped": dropped, "untagged": untagged})
        return
    for each in done.dropped:
        output.echo(f"out of the history: {each.environment}@{each.snapshot_id[:12]}  {moment(each.time)}")
    for tag in done.untagged:
        output.echo(f"tag not kept: {tag.environment}@{tag.tag}, which is {tag.snapshot_id[:12]}")
    what = f"{plural(len(done.snapshots), 'snapshot')} and {plural(len(done.layers), 'layer')}, {size(done.size)}"
    if done.dry and (done.dropped or done.untagged):
        output.echo(f"With --yes, this goes out of histories at once, and {what} from {store}.")
    elif done.dry:
        output.echo(f"{what} would be removed from {store}. Do it with --yes.")
    else:
        output.echo(f"{what} removed from {store}")
    if done.left_over:
        output.echo(f"  and {plural(done.left_over, 'leftover')} of interrupted work")
    if done.waiting:
        output.echo(
            f"  not needed, but too young to go: {plural(done.waiting, 'object')}, {size(done.waiting_size)}; "
            "--grace says how old they must be"
        )
