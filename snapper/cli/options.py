"""Options that several commands have, and how the store that they name is opened."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snapper import config

if TYPE_CHECKING:
    from snapper.store import Store

StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="Directory or file:// URL of the store. Default: SNAPPER_STORE, else ~/SageMaker/.snapper where "
        "~/SageMaker exists, else the user's data directory.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
JobsOption = Annotated[
    int | None,
    typer.Option(
        "--jobs", "-j", min=1, max=64, metavar="N", help="Worker processes. Default: one a processor."
    ),
]


def open_store(option: str | None, *, create: bool = False, apart_from: Path | None = None) -> Store:
    """The store that the option names, or else the settings."""
    from snapper import store

    return store.open_store(config.store_url(option), create=create, apart_from=apart_from)
