"""`snapper tag`: name a snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

import snapper
from snapper.cli.options import (
    JsonOption,
    ReferenceArgument,
    StoreOption,
    open_store,
)
from snapper.cli.render import output
from snapper.errors import UsageError
from snapper.format.canonical import to_jsonable

if TYPE_CHECKING:
    from snapper.commands.tag import TagResult


def tag(
    name: ReferenceArgument,
    tag_: Annotated[str, typer.Argument(metavar="NAME", help="Tag: letters, digits, '_', '.', '+' and '-'.")],
    move: Annotated[bool, typer.Option("--move", help="Move the tag if it is on another snapshot.")] = False,
    delete: Annotated[bool, typer.Option("--delete", help="Delete the tag.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tag a snapshot.

    A tagged snapshot can be referred to as ENV@TAG, and is kept when history is pruned.

    Examples:
        snapper tag myenv v1
        snapper tag myenv@~1 v1 --move
        snapper tag myenv v1 --delete
    """
    from snapper.repository.specs import SnapshotSpec

    reference = SnapshotSpec.parse(name)
    if delete and (move or reference.snapshot):
        raise UsageError("--delete takes only an environment and a tag", "See: snapper tag --help.")
    opened = open_store(store)
    if delete:
        _print_tag(snapper.untag(opened, reference.environment, tag_), opened.url, as_json)
    else:
        _print_tag(snapper.tag(opened, name, tag_, move=move), opened.url, as_json)


def _print_tag(result: TagResult, store: str, as_json: bool) -> None:
    if as_json:
        fields = to_jsonable(result)
        snapshot_id = fields.pop("snapshot_id")
        output.print_json(
            {"store": store, **fields, "snapshot": snapshot_id or None, "before": result.before or None}
        )
    elif not result.snapshot_id:
        output.echo(f"Deleted tag {result.environment}@{result.tag}, which was {result.before[:12]}")
    elif result.before not in ("", result.snapshot_id):
        output.echo(
            f"Moved tag {result.environment}@{result.tag} from {result.before[:12]} to {result.snapshot_id[:12]}"
        )
    else:
        output.echo(f"Tagged {result.snapshot_id[:12]} as {result.environment}@{result.tag}")
