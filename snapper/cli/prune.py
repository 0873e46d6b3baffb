"""`snapper prune`: drop old history and delete objects that nothing refers to."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

import snapper
from snapper.cli.completion import complete_environment
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


PrunedArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[ENV]...",
        help="Environments whose history is pruned by the --keep options (default: all).",
        autocompletion=complete_environment,
    ),
]
KeepLastOption = Annotated[int | None, _keep("last", "Keep the last N snapshots of each environment.")]
KeepDailyOption = Annotated[
    int | None, _keep("daily", "Keep the last snapshot of each of the last N days with snapshots.")
]
KeepWeeklyOption = Annotated[
    int | None, _keep("weekly", "Keep the last snapshot of each of the last N weeks with snapshots.")
]
KeepMonthlyOption = Annotated[
    int | None, _keep("monthly", "Keep the last snapshot of each of the last N months with snapshots.")
]
KeepTagOption = Annotated[
    list[str] | None,
    typer.Option(
        "--keep-tag",
        metavar="PATTERN",
        help="Keep only tags matching PATTERN (repeatable; default: keep all).",
    ),
]
GraceOption = Annotated[
    str,
    typer.Option(
        "--grace",
        metavar="TIME",
        help="Keep unreferenced objects younger than this, such as 90m or 7d (default: 24h).",
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Apply the changes (default: dry run).")]


def prune(
    names: PrunedArgument = None,
    keep_last: KeepLastOption = None,
    keep_daily: KeepDailyOption = None,
    keep_weekly: KeepWeeklyOption = None,
    keep_monthly: KeepMonthlyOption = None,
    keep_tag: KeepTagOption = None,
    grace: GraceOption = "24h",
    yes: YesOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete unreferenced objects to free space in the store.

    The --keep options also drop older history entries. Without --yes, only show what would be done.

    Examples:
        snapper prune
        snapper prune --yes
        snapper prune --keep-last 3 --keep-monthly 6 --yes
    """
    from snapper.cli.render.progress import reporter

    retention = snapper.RetentionPolicy(
        keep_last, keep_daily, keep_weekly, keep_monthly, tuple(keep_tag) if keep_tag else ("*",)
    )
    opened = open_store(store).authoritative()
    with reporter(quiet=as_json or not yes) as progress:
        result = snapper.prune(
            opened, retention, names or (), apply=yes, grace=_seconds(grace), progress=progress
        )
    _print_result(result, opened.url, as_json)


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d{1,9})([smhdw])", text)
    if match is None:
        raise UsageError(
            f"--grace {text}: not a valid duration", "Use a number followed by s, m, h, d or w, such as 24h."
        )
    return float(match[1]) * _UNITS[match[2]]


def _print_result(result: PruneResult, store: str, as_json: bool) -> None:
    if as_json:
        dropped = [
            {"environment": entry.environment, "snapshot": entry.snapshot_id, "time": entry.time}
            for entry in result.dropped
        ]
        untagged = [
            {"environment": tag.environment, "tag": tag.tag, "snapshot": tag.snapshot_id}
            for tag in result.untagged
        ]
        output.print_json({"store": store, **to_jsonable(result), "dropped": dropped, "untagged": untagged})
        return
    drop, remove = ("would drop", "would remove") if result.dry else ("dropped", "removed")
    for entry in result.dropped:
        snapshot = f"{entry.environment}@{entry.snapshot_id[:12]}"
        output.echo(f"{drop} history entry {snapshot} from {moment(entry.time)} UTC")
    for tag in result.untagged:
        output.echo(f"{remove} tag {tag.environment}@{tag.tag} ({tag.snapshot_id[:12]})")
    snapshots, layers = plural(len(result.snapshots), "snapshot"), plural(len(result.layers), "layer")
    objects = f"{snapshots} and {layers} ({size(result.size)})"
    if result.dry:
        history = ""
        if result.dropped or result.untagged:
            history = (
                f"drop {_entries(len(result.dropped))}, remove {plural(len(result.untagged), 'tag')}, and "
            )
        output.echo(f"Dry run: would {history}delete {objects} from {store}. Apply with --yes.")
    else:
        output.echo(f"Deleted {objects} from {store}")
    if result.left_over:
        output.echo(f"  and {plural(result.left_over, 'leftover')} of interrupted operations")
    if result.waiting:
        waiting = f"{plural(result.waiting, 'unreferenced object')} ({size(result.waiting_size)})"
        output.echo(f"  kept for now: {waiting}, younger than --grace (--grace 0s deletes them now)")


def _entries(count: int) -> str:
    return f"{count:,} history {'entry' if count == 1 else 'entries'}"
