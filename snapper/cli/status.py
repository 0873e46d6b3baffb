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
from snapper.cli.render.text import plural, size
from snapper.errors import ExitCode, NotAStore, SnapperError, UsageError
from snapper.format.canonical import to_jsonable
from snapper.settings.directories import absolute_directory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from snapper.commands.status import EnvironmentStatus
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
            "give the name of an environment, or its directory with --prefix", "See: snapper status --help."
        )
    opened, failure = _opened(store)
    if prefix is not None:
        found: tuple[EnvironmentStatus, ...] = (verb.environment_status(opened, absolute_directory(prefix)),)
    elif name is not None:
        found = verb.statuses_by_name(opened, name)
    else:
        report = verb.all_statuses(opened)
        found, failure = report.environments, failure or report.store_error
    if isinstance(failure, NotAStore) and not (store or any(item.snapshot_id for item in found)):
        failure = None  # the default store has not been created yet
    staleness = read_staleness(opened, [item.environment for item in found]) if opened else FRESH
    shown = _Shown(
        found, opened.url if opened else "", store, failure, staleness, name is None and prefix is None
    )
    _print_all(shown, as_json)
    return ExitCode.PARTIAL if failure or any(item.error for item in found) else staleness.code


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

    found: Sequence[EnvironmentStatus]
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
                "environments": [_fields(item) for item in shown.found],
                **({"store_error": output.error_fields(failure)} if failure else {}),
                **({"last_restore": _last_restore_fields()} if shown.everything else {}),
                **shown.staleness.fields,
            }
        )
        return
    to_store = f" --store {shlex.quote(shown.option)}" if shown.option else ""
    for item in shown.found:
        _print_status(item, shown.store, to_store)
    if not shown.found:
        output.echo("No environments on this machine have been packed or restored with snapper.")
    if failure is not None:
        output.print_error(failure, as_json=False)
    shown.staleness.warn()
    if shown.everything:
        _print_last_restore()


def _print_status(found: EnvironmentStatus, store: str, option: str) -> None:
    """Print the status of an environment; suggested commands include the option, which selects the same store."""
    if found.condition == "absent":
        restore = "" if found.error else f". Restore it: snapper restore {found.environment}{option}"
        output.echo(f": not on this machine{restore}", label=found.environment, style="bold")
    else:
        output.echo(f": {found.prefix}", label=found.environment, style="bold")
        condition, separator, advice = _sentence(found, found.pack_command + option).partition("; ")
        style: Style = "green" if found.condition == "unchanged" else "yellow"
        output.echo(separator + advice, label=f"  {condition}", style=style)
        if found.packages is not None:
            output.print_changes(found.packages, "  ")
        if found.drift is not None:
            output.print_paths(
                f"  {plural(len(found.drift.paths), 'file')} changed", found.drift.paths, output.echo
            )
        for line in _in_store(found, store, option):
            output.echo(f"  {line}")
    if found.error is not None:
        output.print_error(found.error, as_json=False)


def _in_store(found: EnvironmentStatus, store: str, option: str) -> Iterator[str]:
    """Return how it differs from the store, and commands that would change that."""
    from snapper.restoring.target import pack_command

    put = f"pack it: {found.pack_command}{option}"
    if found.stored is False and found.current:
        another = pack_command(Path(found.prefix), "ANOTHER")
        yield f"the store {store} no longer has this snapshot; pack it under another name: {another}{option}"
    elif found.stored is False:
        yield f"the store {store} does not have this snapshot; {put}"
    elif found.stored and not found.current:
        yield f"the store {store} has no environment with this name; {put}"
    if found.current and found.current != found.snapshot_id:
        behind = f", {plural(found.behind, 'snapshot')} newer" if found.behind else ""
        lost = found.condition != "unchanged" or found.stored is False
        restore = f"snapper restore {found.environment} -p {shlex.quote(found.prefix)}{option}"
        if lost:
            yield f"the store has {found.current[:12]}{behind}; overwrite this one: {restore} --replace"
        else:
            yield f"the store has {found.current[:12]}{behind}; update: {restore}"


def _sentence(found: EnvironmentStatus, pack: str) -> str:
    if not found.snapshot_id:
        return f"not packed yet; pack it: {pack}"
    if found.condition == "unchanged":
        return f"unchanged since snapshot {found.snapshot_id[:12]}"
    if found.condition == "changed":
        return f"changed since snapshot {found.snapshot_id[:12]}; pack it: {pack}"
    return f"was snapshot {found.snapshot_id[:12]}; changes since then are unknown"


def _fields(found: EnvironmentStatus) -> dict[str, Any]:
    return {
        "environment": found.environment,
        "prefix": found.prefix or None,
        "snapshot": found.snapshot_id or None,
        "condition": found.condition,
        "drift": to_jsonable(found.drift),
        "packages": to_jsonable(found.packages),
        "current": found.current or None,
        "behind": found.behind,
        "stored": found.stored,
        **({"error": output.error_fields(found.error)} if found.error else {}),
    }


def _last_restore_fields() -> dict[str, Any] | None:
    """Return the last restore of all environments as JSON; None if none is on record."""
    from snapper.kernels.restore_record import last_restore

    found = last_restore()
    return {**to_jsonable(found), "at_work": found.is_running} if found else None


def _print_last_restore() -> None:
    """Print the outcome of the last restore of all environments, or its progress."""
    from snapper.kernels.restore_record import last_restore

    found = last_restore()
    if found is None:
        return
    counts: Counter[str] = Counter(part.condition for part in found.environments)
    words = {"restored": "restored", "present": "already in place", "failed": "failed"}
    told = ", ".join(f"{counts[condition]} {word}" for condition, word in words.items())
    how = (
        ""
        if found.ended
        else " (running)"
        if found.is_running
        else " (interrupted; continue with: snapper restore --all)"
    )
    output.echo(f"Last restore --all: {found.began}{how}: {found.error or told}")
    for part in found.environments:
        if part.condition in ("waiting", "restoring"):
            share = 100 * part.done // part.size if part.size else 0
            output.echo(f"  {part.environment}: {share}% of {size(part.size)}")
        elif part.condition == "failed":
            output.echo(f"  {part.environment}: {part.error}")
    if found.log:
        output.echo(f"  log: {found.log}")
