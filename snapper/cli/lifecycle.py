"""`snapper lifecycle`: scripts for machines that start."""

from __future__ import annotations

import shlex
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from snapper.cli.options import JsonOption
from snapper.cli.render import output
from snapper.settings.directories import Platform, detect_platform

if TYPE_CHECKING:
    from snapper.commands.lifecycle import LifecycleOptions


class ScriptEvent(str, Enum):
    """When a script runs."""

    on_create = "on-create"
    on_start = "on-start"


class ScriptPlatform(str, Enum):
    """The platform that a script is for."""

    notebook_instance = "notebook-instance"
    studio = "studio"
    ec2_user_data = "ec2-user-data"
    jupyterhub = "jupyterhub"


EventArgument = Annotated[
    ScriptEvent, typer.Argument(metavar="EVENT", help="When the script runs: on-create or on-start.")
]
PlatformOption = Annotated[
    ScriptPlatform | None,
    typer.Option(
        "--platform",
        metavar="PLATFORM",
        help="notebook-instance, studio, ec2-user-data or jupyterhub (default: studio in a Studio space, "
        "else notebook-instance).",
    ),
]
ScriptStoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="Store to use (default: the setting 'store' on the machine that runs the script).",
    ),
]
TimeLimitOption = Annotated[
    int,
    typer.Option(
        "--budget",
        min=20,
        max=3600,
        metavar="SECONDS",
        help="Time limit of the script, 20 to 3600 (default: 240; at most 290 on SageMaker).",
    ),
]
ScriptOnlyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--only", metavar="PATTERN", help="Only restore environments matching PATTERN (repeatable)."
    ),
]
ScriptExceptOption = Annotated[
    list[str] | None,
    typer.Option(
        "--except", metavar="PATTERN", help="Do not restore environments matching PATTERN (repeatable)."
    ),
]
FirstOption = Annotated[
    list[str] | None,
    typer.Option(
        "--first", metavar="PATTERN", help="Restore environments matching PATTERN first (repeatable)."
    ),
]
ScriptEnvsDirOption = Annotated[
    str | None, typer.Option("--envs-dir", metavar="DIR", help="Directory to restore environments into.")
]
UserOption = Annotated[
    str,
    typer.Option(
        "--user",
        metavar="NAME",
        help="User who owns the environments (default: the usual user of the platform).",
    ),
]
RequirementOption = Annotated[
    str,
    typer.Option(
        "--requirement",
        metavar="REQUIREMENT",
        help="Requirement that pip installs (default: this version of conda-snapper).",
    ),
]
WheelhouseOption = Annotated[
    str,
    typer.Option(
        "--wheelhouse",
        metavar="DIR|S3-URL",
        help="Directory or S3 prefix with wheels, for machines without access to PyPI.",
    ),
]


def lifecycle(
    event: EventArgument,
    platform: PlatformOption = None,
    store: ScriptStoreOption = None,
    budget: TimeLimitOption = 240,
    only: ScriptOnlyOption = None,
    except_: ScriptExceptOption = None,
    first: FirstOption = None,
    envs_dir: ScriptEnvsDirOption = None,
    user: UserOption = "",
    requirement: RequirementOption = "",
    wheelhouse: WheelhouseOption = "",
    as_json: JsonOption = False,
) -> None:
    """Print a script that installs snapper and restores environments.

    Such lifecycle scripts run when a machine is created or starts.

    Examples:
        snapper lifecycle on-start > on-start.sh
        snapper lifecycle on-start --platform studio --store s3://bucket/envs
    """
    from snapper.commands.lifecycle import LifecycleOptions, render_script

    settings = {
        "store": store or "",
        "envs_dir": envs_dir or "",
        "only": ",".join(only or []),
        "except": ",".join(except_ or []),
        "first": ",".join(first or []),
    }
    options = LifecycleOptions(
        event=event.value,
        platform=platform.value if platform else _default_platform(),
        settings={key: value for key, value in settings.items() if value},
        budget=budget,
        user=user,
        requirement=requirement,
        wheelhouse=wheelhouse,
    )
    text = render_script(replace(options, made_by=_command(options)))
    if as_json:
        fields = {"event": options.event, "platform": options.platform}
        output.print_json({**fields, "characters": len(text), "script": text})
    else:
        output.print_text(text)


def _default_platform() -> str:
    return "studio" if detect_platform() is Platform.STUDIO else "notebook-instance"


def _command(options: LifecycleOptions) -> str:
    """Return the command line that prints the same script."""
    from snapper.commands.lifecycle import BUDGET

    option_values = {
        "platform": options.platform,
        **options.settings,
        "budget": "" if options.budget == BUDGET else str(options.budget),
        "user": options.user,
        "requirement": options.requirement,
        "wheelhouse": options.wheelhouse,
    }
    words = [
        word
        for name, value in option_values.items()
        if value
        for word in (f"--{name.replace('_', '-')}", value)
    ]
    return shlex.join(["snapper", "lifecycle", options.event, *words])
