"""`snapper rollback`: make an earlier snapshot current again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import snapper
from snapper.cli.completion import complete_snapshot
from snapper.cli.invocation import Invocation
from snapper.cli.options import (
    EnvsDirOption,
    JobsOption,
    JsonOption,
    MessageOption,
    StoreOption,
    open_store,
)
from snapper.cli.render import output
from snapper.cli.render import restore as render
from snapper.errors import ExitCode, UsageError
from snapper.format.canonical import to_jsonable

if TYPE_CHECKING:
    from snapper.commands.restore import RestoreResult
    from snapper.commands.rollback import RollbackResult


EnvironmentArgument = Annotated[
    str,
    typer.Argument(
        metavar="ENV[@SNAPSHOT]", help="Environment in the store.", autocompletion=complete_snapshot
    ),
]
SnapshotArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[SNAPSHOT]", help="Tag, id, or ~N (default: the snapshot before the current one)."
    ),
]
StoreOnlyOption = Annotated[
    bool,
    typer.Option(
        "--store-only", help="Only change the store; do not restore the environment on this machine."
    ),
]
LocalPrefixOption = Annotated[
    Path | None,
    typer.Option("--prefix", "-p", metavar="DIR", help="Directory of the environment on this machine."),
]
ReplaceOption = Annotated[bool, typer.Option("--replace", help="Overwrite local changes in the environment.")]


def rollback(
    name: EnvironmentArgument,
    snapshot: SnapshotArgument = None,
    message: MessageOption = "",
    store_only: StoreOnlyOption = False,
    prefix: LocalPrefixOption = None,
    envs_dir: EnvsDirOption = None,
    replace: ReplaceOption = False,
    store: StoreOption = None,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> int:
    """Go back to an earlier snapshot, in the store and on this machine.

    In the store, the snapshot becomes current for everyone.

    Examples:
        snapper rollback myenv
        snapper rollback myenv v1
        snapper rollback myenv ~2 --store-only
    """
    from snapper.cli.render.progress import reporter
    from snapper.repository.specs import SnapshotSpec

    if snapshot is not None and "@" in name:
        raise UsageError(
            "give the snapshot only once: as ENV@SNAPSHOT or as SNAPSHOT", "See: snapper rollback --help."
        )
    spec = SnapshotSpec.parse(f"{name}@{snapshot}" if snapshot is not None else name)
    opened = open_store(store)
    with reporter(quiet=as_json) as progress:
        result = snapper.rollback(
            opened,
            str(spec),
            message=message,
            store_only=store_only,
            prefix=prefix,
            envs_dir=envs_dir,
            replace=replace,
            jobs=jobs,
            progress=progress,
            on_not_moved=_warn_not_moved,
        )
    return _print_result(result.stored, (result.restored,) if result.restored else (), opened.url, as_json)


def _warn_not_moved(restored: RestoreResult) -> None:
    output.warn(
        f"{restored.prefix} was restored to {restored.snapshot_id[:12]}, but the store was not changed:"
    )


def _print_result(
    result: RollbackResult, results: tuple[RestoreResult, ...], store: str, as_json: bool
) -> int:
    from snapper.commands.restore_session import SessionReport

    session, seconds = SessionReport(store, results), time.monotonic() - Invocation.started
    if as_json:
        document, code = render.session_fields(session, seconds)
        fields = to_jsonable(result)
        fields["snapshot"] = fields.pop("snapshot_id")
        output.print_json({**fields, **document})
        return code
    code = render.report(session, seconds, as_json=False) if results else ExitCode.DONE
    if result.unchanged:
        output.echo(f"{result.environment} is already at {result.snapshot_id[:12]} in the store")
    else:
        output.echo(
            f"Rolled back {result.environment} in the store from {result.before[:12]} to {result.snapshot_id[:12]}"
        )
    return code
