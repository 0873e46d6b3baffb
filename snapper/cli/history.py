"""`snapper log`, `rollback`, `tag` and `remove`: an environment's history, and what users do to it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snapper.cli import Command, output, restored
from snapper.cli.options import (
    EnvsDirOption,
    JobsOption,
    JsonOption,
    MessageOption,
    NameArgument,
    ReferenceArgument,
    StoreOption,
    open_store,
)
from snapper.cli.seen import Seen, seen
from snapper.cli.text import clean, moment, plural, size
from snapper.errors import ExitCode, SnapperError, UsageError
from snapper.format.canonical import to_jsonable
from snapper.settings.settings import absolute_directory, load_settings, resolve_envs_dir

if TYPE_CHECKING:
    from snapper.commands.log import LogEntry
    from snapper.commands.remove import RemovalPlan
    from snapper.commands.restore import RestoreFailure, RestoreResult
    from snapper.commands.rollback import RollbackResult
    from snapper.commands.tag import TagResult


def log(
    name: NameArgument,
    number: Annotated[
        int | None, typer.Option("--number", "-n", min=1, metavar="N", help="The latest N steps only.")
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> int:
    """Show an environment's history: who, when, and what changed."""
    from snapper.commands.log import read_log as verb

    opened = open_store(store)
    steps = verb(opened, name, number)
    last = seen(opened, [name])
    _logged(name, steps, last, as_json)
    return last.code


def rollback(
    name: Annotated[str, typer.Argument(metavar="ENV[@SNAPSHOT]", help="The environment.")],
    snapshot: Annotated[
        str | None,
        typer.Argument(
            metavar="[SNAPSHOT]", help="Tag, id, or ~N. Default: the one before the current snapshot."
        ),
    ] = None,
    message: MessageOption = "",
    store_only: Annotated[
        bool, typer.Option("--store-only", help="Restore nothing here: only the store's snapshot moves.")
    ] = False,
    prefix: Annotated[
        Path | None, typer.Option("--prefix", "-p", metavar="DIR", help="Where the environment is here.")
    ] = None,
    envs_dir: EnvsDirOption = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Give up changes made here since it was packed or restored.")
    ] = False,
    store: StoreOption = None,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> int:
    """Make an earlier snapshot current again, here and for everyone."""
    from snapper.cli.bars import reporter
    from snapper.commands import restore as restoring
    from snapper.commands import rollback as verb
    from snapper.repository.specs import SnapshotSpec
    from snapper.restoring.target import RestoreRequest
    from snapper.store import check_reached

    if snapshot is not None and "@" in name:
        raise UsageError("the snapshot is named twice", "See: snapper rollback --help.")
    opened = open_store(store)
    check_reached(opened)  # before anything here is changed
    back = verb.plan_rollback(opened, SnapshotSpec.parse(f"{name}@{snapshot}" if snapshot else name))
    results: list[RestoreResult | RestoreFailure] = []
    if not store_only:
        # First here: what stands in the way is found before anything is moved for everyone.
        wanted = RestoreRequest(
            SnapshotSpec(back.environment, back.snapshot_id),
            prefix=absolute_directory(prefix) if prefix else None,
            envs_dir=None if prefix else resolve_envs_dir(envs_dir),
            replace=replace,
        )
        with reporter(quiet=as_json) as progress:
            results = list(
                restoring.restore(opened, [wanted], jobs=jobs or load_settings().jobs, progress=progress)
            )
        for each in results:
            if isinstance(each, restoring.RestoreFailure):
                raise each.error
    try:
        done = verb.rollback(opened, back, message=message)
    except SnapperError:
        for here in results:
            if isinstance(here, restoring.RestoreResult):
                output.warn(
                    f"{here.prefix} is at {back.snapshot_id[:12]} now, but in the store nothing has moved:"
                )
        raise
    return _rolled_back(done, results, opened.url, as_json)


def tag(
    name: ReferenceArgument,
    tag_: Annotated[str, typer.Argument(metavar="NAME", help="The tag.")],
    move: Annotated[
        bool, typer.Option("--move", help="Move a tag that stands for another snapshot.")
    ] = False,
    delete: Annotated[bool, typer.Option("--delete", help="Remove the tag from the environment.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a snapshot a name that stays with it."""
    from snapper.commands import tag as verb
    from snapper.repository.specs import SnapshotSpec

    reference = SnapshotSpec.parse(name)
    if delete and (move or reference.snapshot):
        raise UsageError(
            "--delete takes an environment and a tag, and nothing else", "See: snapper tag --help."
        )
    opened = open_store(store)
    if delete:
        _tagged(verb.delete_tag(opened, reference.environment, tag_), opened.url, as_json)
    else:
        _tagged(verb.set_tag(opened, reference, tag_, move=move), opened.url, as_json)


def remove(
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> int:
    """Remove an environment from the store; on disk it stays."""
    from snapper.commands import remove as verb

    opened = open_store(store)
    found = verb.plan_removal(opened, name)
    if not yes and not _agreed(found, opened.url, as_json):
        output.warn("Nothing is removed.")
        return ExitCode.FAILED
    verb.remove_environment(opened, found)
    if as_json:
        output.document(
            {
                "store": opened.url,
                "environment": name,
                "snapshot": found.latest or None,
                "snapshots": found.snapshots,
            }
        )
    else:
        output.say(f"{name} is removed from {opened.url}. Its snapshots go with the next: snapper prune")
    return ExitCode.DONE


def _agreed(found: RemovalPlan, store: str, as_json: bool) -> bool:
    """What the user says to it; raises UsageError where nobody can be asked."""
    what = f"{found.name} and its history ({plural(found.snapshots, 'snapshot')})"
    if as_json or not sys.stdin.isatty():
        raise UsageError(f"removing {what} from {store} has to be confirmed", "Say it with --yes.")
    question = clean(f"Remove {what} from {store}, for everyone who uses it?")
    return typer.confirm(question, err=True)


def _logged(name: str, steps: tuple[LogEntry, ...], last: Seen, as_json: bool) -> None:
    if as_json:
        output.document({"environment": name, "steps": [_step(each) for each in steps], **last.fields})
        return
    for number, step in enumerate(steps):
        move = step.move
        marks = [*(["current"] if step.current and not number else []), *step.tags]
        output.say(f"{move.snapshot[:12]}  {move.action}" + (f"  ({', '.join(marks)})" if marks else ""))
        output.say(f"    {moment(move.time)} UTC by {move.user}@{move.host}")
        if move.message:
            output.say(f"    {move.message}")
        sizes = f"{plural(move.packages, 'package')}, {size(move.size)}, {size(move.added_size)} added"
        output.say(f"    {sizes}{f', from {move.prefix}' if move.prefix else ''}")
        if step.changes is not None:
            output.changes(step.changes, "    ")
        if step.error is not None:
            output.say(f"    what changed cannot be known: {step.error.message}")
    last.tell()


def _step(step: LogEntry) -> dict[str, Any]:
    return {
        **to_jsonable(step.move),
        "current": step.current,
        "tags": list(step.tags),
        "changes": to_jsonable(step.changes),
        **({"error": output.described(step.error)} if step.error else {}),
    }


def _rolled_back(
    done: RollbackResult, results: list[RestoreResult | RestoreFailure], store: str, as_json: bool
) -> int:
    ended = restored.Ended(results, store, time.monotonic() - Command.began)
    if as_json:
        document, code = restored.described(ended)
        fields = to_jsonable(done)
        fields["snapshot"] = fields.pop("snapshot_id")
        output.document({**fields, **document})
        return code
    code = restored.report(ended, as_json=False) if results else ExitCode.DONE
    if done.unchanged:
        output.say(f"{done.environment} is at {done.snapshot_id[:12]} in the store already")
    else:
        output.say(
            f"{done.environment} is rolled back in the store, from {done.before[:12]} to {done.snapshot_id[:12]}"
        )
    return code


def _tagged(done: TagResult, store: str, as_json: bool) -> None:
    if as_json:
        fields = to_jsonable(done)
        snapshot_id = fields.pop("snapshot_id")
        output.document(
            {"store": store, **fields, "snapshot": snapshot_id or None, "before": done.before or None}
        )
    elif not done.snapshot_id:
        output.say(f"{done.environment} has no tag {done.tag} any more; it was {done.before[:12]}")
    elif done.before not in ("", done.snapshot_id):
        output.say(
            f"{done.environment}@{done.tag} is {done.snapshot_id[:12]} from now on; it was {done.before[:12]}"
        )
    else:
        output.say(f"{done.environment}@{done.tag} is {done.snapshot_id[:12]}")
