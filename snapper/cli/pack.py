"""`snapper pack`: pack an environment into a store."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

import snapper
from snapper.cli.completion import complete_installed
from snapper.cli.options import (
    JobsOption,
    JsonOption,
    LevelOption,
    MessageOption,
    PrefixOption,
    StoreOption,
    open_store,
)
from snapper.cli.render import pack as render
from snapper.errors import NotAnEnvironment, UsageError
from snapper.settings.directories import absolute_directory


class EditableMode(str, Enum):
    """The values of --editable."""

    refuse = "refuse"
    include = "include"
    ignore = "ignore"


class UserSiteMode(str, Enum):
    """The values of --user-site."""

    report = "report"
    include = "include"


InstalledArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[ENV]",
        help="Name of a conda environment on this machine.",
        autocompletion=complete_installed,
    ),
]
StoreNameOption = Annotated[
    str | None,
    typer.Option(
        "--name", "-n", metavar="NAME", help="Name in the store (default: the name of the environment)."
    ),
]
EditableOption = Annotated[
    EditableMode,
    typer.Option(
        "--editable",
        metavar="MODE",
        help="Editable installs: refuse (default), include their source directories, or ignore (pack "
        "only the links to them).",
    ),
]
UserSiteOption = Annotated[
    UserSiteMode,
    typer.Option(
        "--user-site",
        metavar="MODE",
        help="Packages of yours that the environment's Python imports (pip install --user): report "
        "(default), or include them.",
    ),
]
FullOption = Annotated[
    bool,
    typer.Option(
        "--full",
        help="Read all files again, not only those that appear to have changed since the last pack.",
    ),
]
ForceOption = Annotated[
    bool,
    typer.Option("--force", help="Pack even if someone else has packed this environment in the meantime."),
]


def pack(
    name: InstalledArgument = None,
    prefix: PrefixOption = None,
    store_name: StoreNameOption = None,
    message: MessageOption = "",
    level: LevelOption = None,
    editable: EditableOption = EditableMode.refuse,
    user_site: UserSiteOption = UserSiteMode.report,
    full: FullOption = False,
    force: ForceOption = False,
    store: StoreOption = None,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> int:
    """Pack an environment into the store.

    Adds only data that the store does not have yet.

    Examples:
        snapper pack myenv
        snapper pack myenv -m "Add pandas"
        snapper pack -p ~/work/env --name myenv
    """
    from snapper.cli.render.progress import reporter

    directory, name_in_store = _prefix_and_name(name, prefix, store_name)
    opened = open_store(store, create=True, apart_from=directory)
    with reporter(quiet=as_json) as progress:
        result = snapper.pack(
            opened,
            name if name is not None else directory,
            name=name_in_store,
            message=message,
            level=level,
            editables=editable.value,
            user_site=user_site.value,
            full=full,
            force=force,
            jobs=jobs,
            progress=progress,
        )
    return render.report(result, as_json)


def _prefix_and_name(name: str | None, prefix: Path | None, store_name: str | None) -> tuple[Path, str]:
    """Return the prefix of the environment and its name in the store."""
    from snapper.environment import conda
    from snapper.environment.locations import pin_own_environment
    from snapper.environment.names import ROOT_NAMES
    from snapper.repository.specs import check_new_name

    if (name is None) == (prefix is None):
        raise UsageError(
            "give an environment name, or a directory with --prefix",
            "See: snapper pack --help.",
        )
    name = ROOT_NAMES[0] if name in ROOT_NAMES else name
    directory = absolute_directory(prefix) if prefix is not None else None
    name_in_store = check_new_name(
        store_name or (directory.name if directory else str(name)),
        "Give a directory with --prefix, and its name in the store with --name.",
    )
    directory = directory or pin_own_environment(str(name)).path
    if not conda.is_environment(directory):
        raise NotAnEnvironment(str(directory))
    return directory, name_in_store
