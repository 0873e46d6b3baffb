"""`snapper import`: pack the environment of a conda-pack archive."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snapper.cli.options import (
    JobsOption,
    JsonOption,
    LevelOption,
    MessageOption,
    StoreOption,
    open_store,
)
from snapper.cli.render import pack as render
from snapper.settings.directories import absolute_directory
from snapper.settings.resolution import load_settings

if TYPE_CHECKING:
    pass


def import_(
    archive: Annotated[
        Path, typer.Argument(metavar="FILE", help="Archive made by conda-pack or snapper export.")
    ],
    store_name: Annotated[
        str | None,
        typer.Option("--name", "-n", metavar="NAME", help="Name in the store (default: from the file name)."),
    ] = None,
    message: MessageOption = "",
    level: LevelOption = None,
    store: StoreOption = None,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> int:
    """Pack the environment of a conda-pack archive into the store.

    Examples:
        snapper import myenv.tar.gz
        snapper import download.zip --name myenv
    """
    from snapper.cli.render.progress import reporter
    from snapper.commands import import_archive as verb

    file = absolute_directory(archive)
    with reporter(quiet=as_json) as progress:
        result = verb.import_archive(
            lambda: open_store(store, create=True),
            file,
            store_name,
            message=message,
            level=level or load_settings().level,
            jobs=jobs or load_settings().jobs,
            progress=progress,
        )
    return render.report(result, as_json)
