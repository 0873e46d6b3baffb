"""`snapper status`: compare environments on disk with their snapshots."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snapper.cli.options import JsonOption, PrefixOption, StoreOption, open_store
from snapper.cli.render import output
from snapper.cli.render.staleness import FRESH, Staleness, read_staleness
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
        typer.Argument(metavar="[ENV]", help="An environment, here or in the store. Default: all."),
    ] = None,
    prefix: PrefixOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> int:
    """Say whether what is on disk still matches its snapshot."""
    from snapper.commands import status as verb

    if name is not None and prefix is not None:
        raise UsageError("name an environment or give its directory with --prefix, and not both")
    opened, failure = _opened(store)
    if prefix is not None:
        found: tuple[EnvironmentStatus, ...] = (verb.environment_status(opened, absolute_directory(prefix)),)
    elif name is not None:
        found = verb.statuses_by_name(opened, name)
    else:
        report = verb.all_statuses(opened)
        found, failure = report.environments, failure or report.store_error
    if isinstance(failure, NotAStore) and not (store or any(each.snapshot_id for each in found)):
        failure = None  # nobody has made it yet
    staleness = read_staleness(opened, [each.environment for each in found]) if opened else FRESH
    shown = _Shown(
        found, opened.url if opened else "", store, failure, staleness, name is None and prefix is None
    )
    _state(shown, as_json)
    return ExitCode.PARTIAL if failure or any(each.error for each in found) else staleness.code


def _opened(option: str | None) -> tuple[Store | None, SnapperError | None]:
    """The store, without which status can do, or why there is none."""
    try:
        return open_store(option), None
    except SnapperError as error:
        return None, error


@dataclass(frozen=True)
class _Shown:
    """What status shows: the environments beside the store of that URL, which the option named if there is one, and
    why the store says nothing of them, or not all. `everything` is if no environment was named.
    """

    found: Sequence[EnvironmentStatus]
    store: str
    option: str | None
    failure: SnapperError | None
    staleness: Staleness
    everything: bool


def _state(shown: _Shown, as_json: bool) -> None:
    failure = shown.failure
    if as_json:
        output.print_json(
            {
                "store": shown.store or None,
                "environments": [_fields(each) for each in shown.found],
                **({"store_error": output.error_fields(failure)} if failure else {}),
                **({"last_restore": _last_restore_fields()} if shown.everything else {}),
                **shown.staleness.fields,
            }
        )
        return
    to_store = f" --store {shlex.quote(shown.option)}" if shown.option else ""
    for each in shown.found:
        _say(each, shown.store, to_store)
    if not shown.found:
        output.echo("There are no environments here that snapper has packed or restored.")
    if failure is not None:
        output.print_error(failure, as_json=False)
    shown.staleness.warn()
    if shown.everything:
        _say_last_restore()


def _say(found: EnvironmentStatus, store: str, option: str) -> None:
    """Prints the status; commands that it names have the option, so that they are for the same store."""
    if found.condition == "absent":
        restore = "" if found.error else f". Restore it: snapper restore {found.environment}{option}"
        output.echo(f"{found.environment}: not on this machine{restore}")
    else:
        output.echo(f"{found.environment}: {found.prefix}")
        output.echo(f"  {_sentence(found, found.pack_command + option)}")
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
    """How it stands to what the store has, and what the command would be that restores that."""
    from snapper.restoring.target import pack_command

    put = f"put it there with: {found.pack_command}{option}"
    if found.stored is False and found.current:
        another = pack_command(Path(found.prefix), "ANOTHER")
        yield f"the store {store} does not have this snapshot (any more); keep it there with: {another}{option}"
    elif found.stored is False:
        yield f"the store {store} does not have this snapshot; {put}"
    elif found.stored and not found.current:
        yield f"the store {store} has no environment of this name; {put}"
    if found.current and found.current != found.snapshot_id:
        behind = f", {plural(found.behind, 'step')} later" if found.behind else ""
        lost = found.condition != "unchanged" or found.stored is False
        restore = f"snapper restore {found.environment} -p {shlex.quote(found.prefix)}{option}"
        if lost:
            yield f"the store has {found.current[:12]}{behind}: {restore} --replace puts it in the place of this"
        else:
            yield f"the store has {found.current[:12]}{behind}: {restore} brings it here"


def _sentence(found: EnvironmentStatus, pack: str) -> str:
    if not found.snapshot_id:
        return f"not packed yet: {pack}"
    if found.condition == "unchanged":
        return f"as in snapshot {found.snapshot_id[:12]}"
    if found.condition == "changed":
        return f"changed since snapshot {found.snapshot_id[:12]}; keep it with: {pack}"
    return f"was snapshot {found.snapshot_id[:12]}; what has changed since is not known"


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
    """The last restore of all environments as JSON; None where none is on record."""
    from snapper.kernels.restore_record import last_restore

    found = last_restore()
    return {**to_jsonable(found), "at_work": found.is_running} if found else None


def _say_last_restore() -> None:
    """Says what became of the last restore of all environments, and how far it is where it goes on."""
    from snapper.kernels.restore_record import last_restore

    found = last_restore()
    if found is None:
        return
    counts: Counter[str] = Counter(each.condition for each in found.environments)
    words = {"restored": "restored", "present": "already there", "failed": "failed"}
    told = ", ".join(f"{counts[condition]} {word}" for condition, word in words.items())
    how = (
        "" if found.ended else ", at work" if found.is_running else ", cut off: snapper restore --all goes on"
    )
    output.echo(f"Last restore of all: {found.began}{how}: {found.error or told}")
    for each in found.environments:
        if each.condition in ("waiting", "restoring"):
            share = 100 * each.done // each.size if each.size else 0
            output.echo(f"  {each.environment}: {share}% of {size(each.size)}")
        elif each.condition == "failed":
            output.echo(f"  {each.environment}: {each.error}")
    if found.log:
        output.echo(f"  its log: {found.log}")
