"""Options that several commands have, and how the store that they name is opened."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snapper.settings.resolution import store_url

if TYPE_CHECKING:
    from snapper.store import Store

StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="The store: a directory, file:// or s3://BUCKET/PREFIX. Default: the setting (snapper config get store).",
    ),
]
NameArgument = Annotated[str, typer.Argument(metavar="ENV", help="The environment.")]
ReferenceArgument = Annotated[
    str, typer.Argument(metavar="ENV[@SNAPSHOT]", help="The environment, at a snapshot if named.")
]
PrefixOption = Annotated[
    Path | None,
    typer.Option("--prefix", "-p", metavar="DIR", help="The environment's directory, instead of its name."),
]
EnvsDirOption = Annotated[
    Path | None,
    typer.Option(
        "--envs-dir",
        metavar="DIR",
        help="Directory that the environments are in. Default: the setting, else where each was packed from "
        "if that can be written, else the first writable conda envs directory.",
    ),
]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="PATTERN", help="Of all, those of such names alone; may be repeated."),
]
ExceptOption = Annotated[
    list[str] | None,
    typer.Option("--except", metavar="PATTERN", help="Of all, none of such names; may be repeated."),
]
MessageOption = Annotated[str, typer.Option("--message", "-m", help="A line for the history.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
JobsOption = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        "-j",
        min=1,
        max=64,
        metavar="N",
        help="Worker processes. Default: the setting, else one a processor.",
    ),
]
LevelOption = Annotated[
    int | None,
    typer.Option(
        "--level", min=1, max=19, help="zstd compression level of new layers. Default: the setting, 1."
    ),
]


def open_store(option: str | None, *, create: bool = False, apart_from: Path | None = None) -> Store:
    """The store that the option names, or else the settings."""
    from snapper import store

    url = store_url(option)
    cache = store.configured_cache(url)
    return store.open_store(url, create=create, apart_from=apart_from, cache=cache)
