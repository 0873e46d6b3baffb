"""`snapper diff` and `snapper status`: what differs between snapshots, and on disk."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snapper.cli import output, restored
from snapper.cli.options import JobsOption, JsonOption, PrefixOption, StoreOption, open_store
from snapper.cli.seen import REACHED, Seen, seen
from snapper.cli.text import plural
from snapper.errors import ExitCode, NotAStore, SnapperError, UsageError
from snapper.format.canonical import to_jsonable
from snapper.settings.settings import absolute_directory, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from snapper.commands.diff import SnapshotDiff
    from snapper.commands.status import EnvironmentStatus
    from snapper.store import Store


def diff(
    before: Annotated[
        str, typer.Argument(metavar="ENV[@SNAPSHOT]", help="What to begin from, in the store.")
    ],
    after: Annotated[
        str | None,
        typer.Argument(
            metavar="[ENV[@SNAPSHOT]]", help="What to go to, in the store. Default: ENV as it is on disk."
        ),
    ] = None,
    prefix: PrefixOption = None,
    files: Annotated[
        bool, typer.Option("--files", help="Name every file that differs, not packages alone.")
    ] = False,
    store: StoreOption = None,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> int:
    """Compare two snapshots, or one and the environment on disk."""
    from snapper.cli.bars import reporter
    from snapper.commands import diff as verb
    from snapper.environment.locations import find_environment
    from snapper.repository.specs import SnapshotSpec

    if after is not None and prefix is not None:
        raise UsageError(
            "a second snapshot and --prefix are two different comparisons", "Choose one of them."
        )
    one = SnapshotSpec.parse(before)
    other = SnapshotSpec.parse(after) if after is not None else None
    opened = open_store(store)
    with reporter(quiet=as_json) as progress:
        if other is not None:
            found = verb.diff_snapshots(
                opened, one, other, files=files, jobs=jobs or load_settings().jobs, progress=progress
            )
        else:
            place = absolute_directory(prefix) if prefix is not None else find_environment(one.environment)
            found = verb.diff_installed(
                opened, one, place, files=files, jobs=jobs or load_settings().jobs, progress=progress
            )
    names = [each.environment for each in (one, other) if each]
    last = seen(opened, names)
    _differing(found, last, as_json)
    return last.code


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
        found, unlisted = verb.all_statuses(opened)
        failure = failure or unlisted
    if isinstance(failure, NotAStore) and not (store or any(each.snapshot_id for each in found)):
        failure = None  # nobody has made it yet
    last = seen(opened, [each.environment for each in found]) if opened else REACHED
    shown = _Shown(found, opened.url if opened else "", store, failure, last, name is None and prefix is None)
    _state(shown, as_json)
    return ExitCode.PARTIAL if failure or any(each.error for each in found) else last.code


def _opened(option: str | None) -> tuple[Store | None, SnapperError | None]:
    """The store, without which status can do, or why there is none."""
    try:
        return open_store(option), None
    except SnapperError as error:
        return None, error


def _differing(found: SnapshotDiff, last: Seen, as_json: bool) -> None:
    if as_json:
        output.document({**to_jsonable(found), "files": to_jsonable(found.files), **last.fields})
        return
    output.say(f"{_label(found.before)} -> {_label(found.after)}")
    output.changes(found.packages, "  ")
    for path in found.altered.added:
        output.say(f"  altered: {path}")
    for path in found.altered.removed:
        output.say(f"  no longer altered: {path}")
    if found.files is not None:
        for mark, paths in (("+", found.files.added), ("-", found.files.removed), ("~", found.files.changed)):
            for path in paths:
                output.say(f"  {mark} {path}")
    files = found.files
    same = not (found.packages or found.altered.added or found.altered.removed)
    if same and files is None:
        output.say("  the packages are the same; for files, ask with --files")
    elif same and files is not None and not (files.added or files.removed or files.changed):
        output.say("  no difference")
    last.tell()


def _label(side: str) -> str:
    return side if "/" in side else side[:12]


@dataclass(frozen=True)
class _Shown:
    """What status shows: the environments beside the store of that URL, which the option named if there is one, and
    why the store says nothing of them, or not all. `everything` is if no environment was named.
    """

    found: Sequence[EnvironmentStatus]
    store: str
    option: str | None
    failure: SnapperError | None
    last: Seen
    everything: bool


def _state(shown: _Shown, as_json: bool) -> None:
    failure = shown.failure
    if as_json:
        output.document(
            {
                "store": shown.store or None,
                "environments": [_fields(each) for each in shown.found],
                **({"store_error": output.described(failure)} if failure else {}),
                **({"last_restore": restored.last_fields()} if shown.everything else {}),
                **shown.last.fields,
            }
        )
        return
    to_store = f" --store {shlex.quote(shown.option)}" if shown.option else ""
    for each in shown.found:
        _say(each, shown.store, to_store)
    if not shown.found:
        output.say("There are no environments here that snapper has packed or restored.")
    if failure is not None:
        output.error(failure, as_json=False)
    shown.last.tell()
    if shown.everything:
        restored.say_last()


def _say(found: EnvironmentStatus, store: str, option: str) -> None:
    """Prints the status; commands that it names have the option, so that they are for the same store."""
    if found.condition == "absent":
        restore = "" if found.error else f". Restore it: snapper restore {found.environment}{option}"
        output.say(f"{found.environment}: not on this machine{restore}")
    else:
        output.say(f"{found.environment}: {found.prefix}")
        output.say(f"  {_sentence(found, found.pack_command + option)}")
        if found.packages is not None:
            output.changes(found.packages, "  ")
        if found.drift is not None:
            output.listing(
                f"  {plural(len(found.drift.paths), 'file')} changed", found.drift.paths, output.say
            )
        for line in _in_store(found, store, option):
            output.say(f"  {line}")
    if found.error is not None:
        output.error(found.error, as_json=False)


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
        **({"error": output.described(found.error)} if found.error else {}),
    }
