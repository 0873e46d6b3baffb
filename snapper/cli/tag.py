"""`snapper tag`: name a snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

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


def _tagged(done: TagResult, store: str, as_json: bool) -> None:
    if as_json:
        fields = to_jsonable(done)
        snapshot_id = fields.pop("snapshot_id")
        output.print_json(
            {"store": store, **fields, "snapshot": snapshot_id or None, "before": done.before or None}
        )
    elif not done.snapshot_id:
        output.echo(f"{done.environment} has no tag {done.tag} any more; it was {done.before[:12]}")
    elif done.before not in ("", done.snapshot_id):
        output.echo(
            f"{done.environment}@{done.tag} is {done.snapshot_id[:12]} from now on; it was {done.before[:12]}"
        )
    else:
        output.echo(f"{done.environment}@{done.tag} is {done.snapshot_id[:12]}")
