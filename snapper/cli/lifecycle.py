"""`snapper lifecycle`: scripts for machines that start."""

from __future__ import annotations

import shlex
from enum import Enum
from typing import Annotated

import typer

from snapper.cli.options import ExceptOption, JsonOption, OnlyOption
from snapper.cli.render import output
from snapper.settings.directories import Platform, detect_platform


class EventArgument(str, Enum):
    """What a script is for."""

    on_create = "on-create"
    on_start = "on-start"


class PlatformOption(str, Enum):
    """The kinds of machines."""

    notebook_instance = "notebook-instance"
    studio = "studio"
    ec2_user_data = "ec2-user-data"
    jupyterhub = "jupyterhub"


def lifecycle(
    event: Annotated[
        EventArgument, typer.Argument(metavar="EVENT", help="When the script is run: on-create or on-start.")
    ],
    platform: Annotated[
        PlatformOption | None,
        typer.Option(
            "--platform", help="Where. Default: Studio in a Studio space, else a notebook instance."
        ),
    ] = None,
    store: Annotated[
        str | None, typer.Option("--store", metavar="URL", help="The store. Default: the machine's own.")
    ] = None,
    budget: Annotated[
        int, typer.Option("--budget", min=20, max=3600, metavar="SECONDS", help="How long it may take.")
    ] = 240,
    only: OnlyOption = None,
    except_: ExceptOption = None,
    first: Annotated[
        list[str] | None, typer.Option("--first", metavar="PATTERN", help="Restore those first.")
    ] = None,
    envs_dir: Annotated[
        str | None, typer.Option("--envs-dir", metavar="DIR", help="Where the environments go.")
    ] = None,
    user: Annotated[
        str, typer.Option("--user", metavar="NAME", help="Whose they are. Default: the platform's.")
    ] = "",
    requirement: Annotated[
        str,
        typer.Option(
            metavar="REQUIREMENT", help="What pip installs. Default: this version of conda-snapper."
        ),
    ] = "",
    wheelhouse: Annotated[
        str,
        typer.Option(
            metavar="DIR|S3-URL", help="A directory or S3 prefix with wheels, where PyPI cannot be reached."
        ),
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Print a script for a machine's making or start."""
    from snapper.commands import lifecycle as verb

    place = (
        platform.value
        if platform
        else "studio"
        if detect_platform() is Platform.STUDIO
        else "notebook-instance"
    )
    settings = {
        "store": store or "",
        "envs_dir": envs_dir or "",
        "only": ",".join(only or []),
        "except": ",".join(except_ or []),
        "first": ",".join(first or []),
    }
    settings = {key: value for key, value in settings.items() if value}
    given = {
        "platform": place,
        **settings,
        "budget": "" if budget == verb.BUDGET else str(budget),
        "user": user,
        "requirement": requirement,
        "wheelhouse": wheelhouse,
    }
    text = verb.render_script(
        verb.LifecycleOptions(
            event=event.value,
            platform=place,
            settings=settings,
            budget=budget,
            user=user,
            requirement=requirement,
            wheelhouse=wheelhouse,
            made_by=_command(event.value, given),
        )
    )
    if as_json:
        output.print_json({"event": event.value, "platform": place, "characters": len(text), "script": text})
    else:
        output.print_text(text)


def _command(event: str, given: dict[str, str]) -> str:
    """The command line that gives the same script, with the options that are given."""
    options = [
        word
        for name, value in given.items()
        if value
        for word in (f"--{name.replace('_', '-')}", value.replace("\n", " "))
    ]
    return shlex.join(["snapper", "lifecycle", event, *options])
