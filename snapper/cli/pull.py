"""`snapper pull`: copy environments from another store."""

from __future__ import annotations

from typing import Annotated

import typer

from snapper.cli.copying import AllOption, ForceOption, NamesArgument, copy
from snapper.cli.options import JsonOption, StoreOption


def pull(
    from_: Annotated[str, typer.Option("--from", metavar="URL", help="Store to copy from.")],
    names: NamesArgument = None,
    everything: AllOption = False,
    force: ForceOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> int:
    """Copy environments from another store into your store.

    Examples:
        snapper pull myenv --from s3://bucket/team
        snapper pull --all --from /mnt/backup
    """
    return copy(from_, store, names, everything=everything, force=force, as_json=as_json)
