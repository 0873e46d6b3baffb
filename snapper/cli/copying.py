"""`snapper push` and `snapper pull`: snapshots from one store to another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from snapper.cli import output
from snapper.cli.options import JsonOption, StoreOption, open_store
from snapper.cli.seen import seen
from snapper.cli.text import plural, size
from snapper.errors import UsageError
from snapper.format.canonical import to_jsonable

if TYPE_CHECKING:
    from snapper.commands.copy import CopyResult

_SEE = "See: snapper push --help, snapper pull --help."

NamesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[ENV[@SNAPSHOT]]...", help="Environments, each at a snapshot if one is named."),
]
AllOption = Annotated[bool, typer.Option("--all", help="Every environment.")]
ForceOption = Annotated[
    bool,
    typer.Option(
        "--force", help="Move names there too that have gone another way; both stay in the history."
    ),
]


def push(
    to: Annotated[str, typer.Option("--to", metavar="URL", help="The store to copy to.")],
    names: NamesArgument = None,
    everything: AllOption = False,
    force: ForceOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> int:
    """Copy environments from the store to another one."""
    return _copy(store, to, names, everything=everything, force=force, as_json=as_json)


def pull(
    from_: Annotated[str, typer.Option("--from", metavar="URL", help="The store to copy from.")],
    names: NamesArgument = None,
    everything: AllOption = False,
    force: ForceOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> int:
    """Copy environments from another store to the store."""
    return _copy(from_, store, names, everything=everything, force=force, as_json=as_json)


def _copy(
    source: str | None,
    target: str | None,
    names: list[str] | None,
    *,
    everything: bool,
    force: bool,
    as_json: bool,
) -> int:
    from snapper.cli.bars import reporter
    from snapper.commands import copy
    from snapper.repository.refs import environment_names
    from snapper.repository.specs import SnapshotSpec, resolve_spec

    if bool(names) == everything:
        raise UsageError("name the environments to copy or say --all, and not both", _SEE)
    references = [SnapshotSpec.parse(name) for name in dict.fromkeys(names or ())]
    opened = open_store(source)
    if everything:
        references = [SnapshotSpec(name) for name in environment_names(opened)]
    else:
        for reference in references:
            resolve_spec(opened, reference)  # before anything is made or copied
    with reporter(quiet=as_json) as progress:
        other = open_store(target, create=True)
        if other.url == opened.url:
            raise UsageError(f"both stores are {other.url}", "Name two different ones.")
        done: list[copy.CopyResult] = []
        failed: list[copy.CopyFailure] = []
        for each in copy.copy_environments(opened, other, references, force=force, progress=progress):
            if isinstance(each, copy.CopyFailure):
                failed.append(each)
                if not as_json:
                    output.error(each.error, as_json=False)
            else:
                done.append(each)
                if not as_json:
                    _say(each)
    last = seen(opened, [each.environment for each in references])
    if as_json:
        output.document(
            {
                "source": opened.url,
                "target": other.url,
                "copied": [_fields(each) for each in done],
                **output.failures([(each.environment, each.error) for each in failed], alone=not done),
                **last.fields,
            }
        )
    else:
        last.tell()
    return failed[0].error.code if failed else last.code


def _say(done: CopyResult) -> None:
    what = f"{done.environment}@{done.snapshot_id[:12]}"
    if done.present:
        output.say(f"{what} is there already: {done.target}")
        return
    layers = plural(done.added_layers, "new layer")
    output.say(f"{what} is copied: {layers}, {size(done.added_size)}, {done.seconds:.1f} s")
    output.say(f"  to {done.target}")


def _fields(done: CopyResult) -> dict[str, Any]:
    fields: dict[str, Any] = to_jsonable(done)
    fields["snapshot"] = fields.pop("snapshot_id")
    return {**fields, "seconds": round(done.seconds, 3)}
