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
    """When a script runs."""

    on_create = "on-create"
    on_start = "on-start"


class PlatformOption(str, Enum):
    """The platforms that scripts are made for."""

    notebook_instance = "notebook-instance"
    studio = "studio"
    ec2_user_data = "ec2-user-data"
    jupyterhub = "jupyterhub"


def lifecycle(
    event: Annotated[
        EventArgument, typer.Argument(metavar="EVENT", help="When the script runs: on-create or on-start.")
    ],
    platform: Annotated[
        PlatformOption | None,
        typer.Option(
            "--platform",
            metavar="PLATFORM",
            help="notebook-instance, studio, ec2-user-data or jupyterhub (default: studio in a Studio space, "
            "else notebook-instance).",
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option("--store", metavar="URL", help="Store to use (default: the machine's setting)."),
    ] = None,
    budget: Annotated[
        int,
        typer.Option(
            "--budget",
            min=20,
            max=3600,
            metavar="SECONDS",
            help="Time limit of the script, 20 to 3600 (default: 240).",
        ),
    ] = 240,
    only: OnlyOption = None,
    except_: ExceptOption = None,
    first: Annotated[
        list[str] | None,
        typer.Option(
            "--first", metavar="PATTERN", help="Restore environments matching PATTERN first (repeatable)."
        ),
    ] = None,
    envs_dir: Annotated[
        str | None, typer.Option("--envs-dir", metavar="DIR", help="Directory to restore environments into.")
    ] = None,
    user: Annotated[
        str,
        typer.Option(
            "--user", metavar="NAME", help="User who owns the environments (default: the platform's)."
        ),
    ] = "",
    requirement: Annotated[
        str,
        typer.Option(
            "--requirement",
            metavar="REQUIREMENT",
            help="Requirement that pip installs (default: this version of conda-snapper).",
        ),
    ] = "",
    wheelhouse: Annotated[
        str,
        typer.Option(
            "--wheelhouse",
            metavar="DIR|S3-URL",
            help="Directory or S3 prefix with wheels, for machines without access to PyPI.",
        ),
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Print a script that installs snapper and restores environments.

    Such lifecycle scripts run when a machine is created or starts.

    Examples:
        snapper lifecycle on-start > on-start.sh
        snapper lifecycle on-start --platform studio --store s3://bucket/envs
    """
    from snapper.commands import lifecycle as verb

    platform_name = (
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
    option_values = {
        "platform": platform_name,
        **settings,
        "budget": "" if budget == verb.BUDGET else str(budget),
        "user": user,
        "requirement": requirement,
        "wheelhouse": wheelhouse,
    }
    text = verb.render_script(
        verb.LifecycleOptions(
            event=event.value,
            platform=platform_name,
            settings=settings,
            budget=budget,
            user=user,
            requirement=requirement,
            wheelhouse=wheelhouse,
            made_by=_command(event.value, option_values),
        )
    )
    if as_json:
        output.print_json(
            {"event": event.value, "platform": platform_name, "characters": len(text), "script": text}
        )
    else:
        output.print_text(text)


def _command(event: str, option_values: dict[str, str]) -> str:
    """Return the command line that prints the same script."""
    options = [
        word
        for name, value in option_values.items()
        if value
        for word in (f"--{name.replace('_', '-')}", value.replace("\n", " "))
    ]
    return shlex.join(["snapper", "lifecycle", event, *options])
