"""`snapper push`: copy environments to another store."""

from __future__ import annotations

from typing import Annotated

import typer

from snapper.cli.copying import AllOption, ForceOption, NamesArgument, copy
from snapper.cli.options import JsonOption, StoreOption


def push(
    to: Annotated[str, typer.Option("--to", metavar="URL", help="Store to copy to.")],
    names: NamesArgument = None,
    everything: AllOption = False,
    force: ForceOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> int:
    """Copy environments from your store to another store.

    Examples:
        snapper push myenv --to s3://bucket/team
        snapper push --all --to /mnt/backup
    """
    return copy(store, to, names, everything=everything, force=force, as_json=as_json)
