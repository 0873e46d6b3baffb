"""`snapper status`: compare environments on disk with their snapshots."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snapper.cli.completion import complete_any_environment
from snapper.cli.options import JsonOption, PrefixOption, StoreOption, open_store
from snapper.cli.render import output
from snapper.cli.render.staleness import FRESH, Staleness, read_staleness
from snapper.cli.render.style import Style
from snapper.cli.render.text import moment, plural, size
from snapper.errors import ExitCode, NotAStore, SnapperError, UsageError
from snapper.errors.redaction import redact_url
from snapper.format.canonical import to_jsonable
from snapper.settings.directories import absolute_directory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from snapper.commands.status import EnvironmentStatus
    from snapper.environment.drift import Drift
    from snapper.store import Store


def status(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[ENV]",
            help="Environment on this machine or in the store (default: all).",
            autocompletion=complete_any_environment,
        ),
    ] = None,
    prefix: PrefixOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> int:
    """Compare environments on this machine with their snapshots.

    Examples:
        snapper status
        snapper status myenv
    """
    from snapper.commands import status as verb

    if name is not None and prefix is not None:
        raise UsageError(
            "give an environment name, or a directory with --prefix", "See: snapper status --help."
        )
    opened, failure = _opened(store)
    if prefix is not None:
        statuses: tuple[EnvironmentStatus, ...] = (
            verb.environment_status(opened, absolute_directory(prefix)),
        )
    elif name is not None:
        statuses = verb.statuses_by_name(opened, name)
    else:
        report = verb.all_statuses(opened)
        statuses, failure = report.environments, failure or report.store_error
    if isinstance(failure, NotAStore) and not (store or any(item.snapshot_id for item in statuses)):
        failure = None  # the default store has not been created yet
    staleness = read_staleness(opened, [item.environment for item in statuses]) if opened else FRESH
    shown = _Shown(
        statuses, opened.url if opened else "", store, failure, staleness, name is None and prefix is None
    )
    _print_all(shown, as_json)
    return ExitCode.PARTIAL if failure or any(item.error for item in statuses) else staleness.code


def _opened(option: str | None) -> tuple[Store | None, SnapperError | None]:
    """Return the store, or the reason why it cannot be opened."""
    try:
        return open_store(option), None
    except SnapperError as error:
        return None, error


@dataclass(frozen=True)
class _Shown:
    """What status shows: the environments, and why the store could not be read, or not completely.

    `option` is the value of --store. `everything` if no environment was named.
    """

    statuses: Sequence[EnvironmentStatus]
    store: str
    option: str | None
    failure: SnapperError | None
    staleness: Staleness
    everything: bool


def _print_all(shown: _Shown, as_json: bool) -> None:
    failure = shown.failure
    if as_json:
        output.print_json(
            {
                "store": shown.store or None,
                "environments": [_fields(item) for item in shown.statuses],
                **({"store_error": output.error_fields(failure)} if failure else {}),
                **({"last_restore": _last_restore_fields()} if shown.everything else {}),
                **shown.staleness.fields,
            }
        )
        return
    to_store = f" --store {shlex.quote(redact_url(shown.option))}" if shown.option else ""
    in_progress = _in_progress()
    for item in shown.statuses:
        if item.condition == "absent" and item.environment in in_progress:
            output.echo(": is being restored", label=item.environment, style="bold")
        else:
            _print_status(item, shown.store, to_store)
    if not shown.statuses:
        output.echo("No environments on this machine have been packed or restored with snapper.")
    if failure is not None:
        output.print_error(failure, as_json=False)
    shown.staleness.warn()
    if shown.everything:
        _print_last_restore()


def _print_status(status: EnvironmentStatus, store: str, option: str) -> None:
    """Print the status of an environment; suggested commands include the option, which selects the same store."""
    if status.condition == "absent":
        restore = "" if status.error else f". Restore it: snapper restore {status.environment}{option}"
        output.echo(f": not on this machine{restore}", label=status.environment, style="bold")
    else:
        output.echo(f": {status.prefix}", label=status.environment, style="bold")
        condition, separator, advice = _sentence(status, status.pack_command + option).partition("; ")
        style: Style = "green" if status.condition == "unchanged" else "yellow"
        output.echo(separator + advice, label=f"  {condition}", style=style)
        if status.packages is not None:
            output.print_changes(status.packages, "  ")
        if status.drift is not None:
            for differences, paths in _differences(status.drift, status.not_compared):
                output.print_paths(f"  {plural(len(paths), 'file')} {differences}", paths, output.echo)
        for line in _in_store(status, store, option):
            output.echo(f"  {line}")
        output.print_kept(status.kept, output.echo)
    if status.error is not None:
        output.print_error(status.error, as_json=False)


def _in_store(status: EnvironmentStatus, store: str, option: str) -> Iterator[str]:
    """Yield how the environment differs from the store, and commands that would change that."""
    from snapper.restoring.errors import pack_command

    pack_hint = f"pack it: {status.pack_command}{option}"
    if status.stored is False and status.current:
        another = pack_command(Path(status.prefix), "ANOTHER")
        yield f"the store {store} no longer has this snapshot; pack it under another name: {another}{option}"
    elif status.stored is False:
        yield f"the store {store} does not have this snapshot; {pack_hint}"
    elif status.stored and not status.current:
        yield f"the store {store} has no environment with this name; {pack_hint}"
    if status.current and status.current != status.snapshot_id:
        behind = f", {plural(status.behind, 'snapshot')} newer" if status.behind else ""
        stored = f"the store has {status.current[:12]}{behind}"
        lost = status.condition != "unchanged" or status.stored is False
        restore = f"snapper restore {status.environment} -p {shlex.quote(status.prefix)}{option}"
        if status.others_may_write:
            yield f"{stored}; others may write to this environment, so move it away before you restore: {restore}"
        elif lost:
            yield f"{stored}; replace this environment with it: {restore} --replace"
        else:
            yield f"{stored}; update: {restore}"


def _sentence(status: EnvironmentStatus, pack: str) -> str:
    if not status.snapshot_id:
        return "not packed yet" if status.error else f"not packed yet; pack it: {pack}"
    if status.condition == "unchanged":
        return f"unchanged since snapshot {status.snapshot_id[:12]}"
    if status.condition == "changed":
        return f"changed since snapshot {status.snapshot_id[:12]}; pack it: {pack}"
    return f"was snapshot {status.snapshot_id[:12]}; changes since then are unknown"


def _fields(status: EnvironmentStatus) -> dict[str, Any]:
    return {
        "environment": status.environment,
        "prefix": status.prefix or None,
        "snapshot": status.snapshot_id or None,
        "condition": status.condition,
        **_drift_fields(status.drift),
        "packages": to_jsonable(status.packages),
        "current": status.current or None,
        "behind": status.behind,
        "stored": status.stored,
        "kept": list(status.kept),
        **({"error": output.error_fields(status.error)} if status.error else {}),
    }


def _differences(drift: Drift, not_compared: str) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield what differs from the snapshot, and the paths."""
    yield "changed", sorted((*drift.added, *drift.removed, *drift.changed))
    yield f"possibly changed, as they were not compared: {not_compared}", drift.modified
    yield "with other permissions only, which a restore corrects", drift.modes
    yield "of caches written or removed by tools, which do not count as changes", drift.caches


def _drift_fields(drift: Drift | None) -> dict[str, Any]:
    if drift is None:
        return {"drift": None, "possibly_changed": [], "modes": [], "caches": []}
    return {
        "drift": {"added": drift.added, "changed": drift.changed, "removed": drift.removed},
        "possibly_changed": drift.modified,
        "modes": drift.modes,
        "caches": drift.caches,
    }


def _in_progress() -> frozenset[str]:
    """Return the environments that a running restore of all environments has not restored yet."""
    from snapper.kernels.restore_record import last_restore

    record = last_restore()
    if record is None or not record.is_running:
        return frozenset()
    return frozenset(
        part.environment for part in record.environments if part.condition in ("waiting", "restoring")
    )


def _last_restore_fields() -> dict[str, Any] | None:
    """Return the last restore of all environments as JSON; None if none is on record."""
    from snapper.kernels.restore_record import last_restore

    record = last_restore()
    return {**to_jsonable(record), "at_work": record.is_running} if record else None


def _print_last_restore() -> None:
    """Print the outcome of the last restore of all environments, or its progress."""
    from snapper.kernels.restore_record import last_restore

    record = last_restore()
    if record is None:
        return
    counts: Counter[str] = Counter(part.condition for part in record.environments)
    words = {"restored": "restored", "present": "already in place", "failed": "failed"}
    summary = ", ".join(f"{counts[condition]} {word}" for condition, word in words.items())
    how = (
        ""
        if record.ended
        else " (running)"
        if record.is_running
        else " (interrupted; continue with: snapper restore --all)"
    )
    output.echo(f"Last restore --all, {moment(record.began)} UTC{how}: {record.error or summary}")
    for part in record.environments:
        if part.condition in ("waiting", "restoring"):
            share = 100 * part.done // part.size if part.size else 0
            output.echo(f"  {part.environment}: {share}% of {size(part.size)}")
        elif part.condition == "failed":
            output.echo(f"  {part.environment}: {part.error}")
    if record.log:
        output.echo(f"  log: {record.log}")
