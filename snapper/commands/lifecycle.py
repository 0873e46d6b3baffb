"""Lifecycle: render the shell scripts that machines run when they are created and when they start."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from snapper.commands.lifecycle_script import BEFORE_SETTINGS, RESTORE, SAVE_SETTING, SCRIPT, SHOW_SETTINGS
from snapper.errors import UsageError
from snapper.errors.redaction import redact
from snapper.process.shell import Code, comment, fill, quote
from snapper.settings.resolution import variable_name
from snapper.version import __version__

Event = Literal["on-create", "on-start"]

#: The maximum length of a script, in base64, that SageMaker accepts. EC2's user data may be longer.
MAX_BASE64_LENGTH = 16_384

#: The default time limit of a script, in seconds.
BUDGET = 240

#: The longest time limit, in seconds, and the longest on SageMaker, which allows five minutes.
MAX_BUDGET, MAX_BUDGET_ON_SAGEMAKER = 3600, 290


@dataclass(frozen=True)
class ScriptPlatform:
    """A kind of machine that a script is for.

    `user` owns the environments by default, and `ids` are those that this user gets, `UID:GID`: both can be what the
    script's variables say. `base` is snapper's directory below the user's home, which survives a
    stop. `note` says how the script is run. `max_budget` is the longest time limit in seconds.
    """

    title: str
    user: str
    base: str
    note: str
    max_budget: int = MAX_BUDGET
    ids: str = ""


PLATFORMS: Mapping[str, ScriptPlatform] = {
    "notebook-instance": ScriptPlatform(
        "a SageMaker notebook instance",
        "ec2-user",
        "SageMaker/.snapper",
        "SageMaker runs it as root, allows it five minutes, and does not start the instance if it fails.",
        MAX_BUDGET_ON_SAGEMAKER,
    ),
    "studio": ScriptPlatform(
        "a SageMaker Studio space",
        "sagemaker-user",
        ".snapper",
        "SageMaker runs it as sagemaker-user, allows it five minutes, and does not start the app if it fails.",
        MAX_BUDGET_ON_SAGEMAKER,
    ),
    "ec2-user-data": ScriptPlatform(
        "an EC2 instance",
        "ec2-user",
        ".snapper",
        "Put it into /var/lib/cloud/scripts/per-boot/ and make it executable, so that it runs at every boot.",
    ),
    "jupyterhub": ScriptPlatform(
        "a JupyterHub server",
        Code("${NB_USER:-jovyan}"),
        ".snapper",
        "Run it before the server: in /usr/local/bin/before-notebook.d/ or the pod's postStart hook.",
        ids=Code("${NB_UID:+$NB_UID:${NB_GID:-100}}"),
    ),
}


@dataclass(frozen=True)
class LifecycleOptions:
    """What a script does, for a platform that is a key of PLATFORMS.

    `settings` are snapper's settings by key, with values as in environment variables. `budget` is the time limit in
    seconds. `user` and `requirement`, what pip installs, have defaults. `wheelhouse` is a directory or an `s3://` URL
    with wheels, for machines without access to PyPI. `made_by` is the command that renders the same script.
    """

    event: Event
    platform: str
    settings: Mapping[str, str] = field(default_factory=dict)
    budget: int = BUDGET
    user: str = ""
    requirement: str = ""
    wheelhouse: str = ""
    made_by: str = ""


def render_script(options: LifecycleOptions) -> str:
    """Return the text of the script.

    Raise UsageError if it would be too long for SageMaker, or if an option is invalid.
    """
    platform = PLATFORMS[options.platform]
    _check(options, platform)
    values = {
        "EVENT": options.event,
        "TITLE": comment(platform.title),
        "NOTE": comment(platform.note),
        "MADE_BY": comment(options.made_by),
        "USER": options.user or platform.user,
        "IDS": "" if options.user else platform.ids,
        "BASE": platform.base,
        "BUDGET": str(options.budget),
        "REQUIREMENT": options.requirement or f"conda-snapper=={__version__}",
        "WHEELHOUSE": options.wheelhouse,
        "SETTINGS": _assignments(options.settings),
        "SAVE_SETTINGS": _save_settings(options.settings),
        "MAIN": Code(RESTORE if options.event == "on-start" else SHOW_SETTINGS),
    }
    text = fill(SCRIPT, values)
    length = len(base64.b64encode(text.encode()))
    if length > MAX_BASE64_LENGTH:
        raise UsageError(
            f"the script would be {length:,} characters in base64; the limit is {MAX_BASE64_LENGTH:,}",
            "Use fewer patterns, or put them in the settings file: snapper config set.",
        )
    return text


def _check(options: LifecycleOptions, platform: ScriptPlatform) -> None:
    """Raise UsageError if the time limit is too long, or if a text is not what it should be.

    A line break would end a comment in the script. Credentials would be in the script, and in arguments of commands,
    which all users can see.
    """
    if options.budget > platform.max_budget:
        raise UsageError(
            f"the time limit of {options.budget:,} s is too long for {platform.title}",
            f"Use --budget {platform.max_budget} or less.",
        )
    words = (options.user, options.requirement, options.wheelhouse)
    texts = (*words, *options.settings.values(), options.made_by)
    for text in texts:
        if not text.isprintable():
            raise UsageError(f"{text!r} contains a line break or another unprintable character")
    for key, value in options.settings.items():
        if redact(value) != value:
            raise UsageError(
                f"the setting {key} contains credentials",
                "Others could see them in the script and its processes. Use a role, or the user's ~/.aws/credentials.",
            )
    if options.user.startswith("-") or ":" in options.user:
        raise UsageError(f"invalid user name: {options.user}")


def _assignments(settings: Mapping[str, str]) -> Code:
    """Return assignments of the settings' environment variables, a line each."""
    return Code(
        "".join(f"\n    {variable_name(key)}={quote(value)}" for key, value in sorted(settings.items()))
    )


def _save_settings(settings: Mapping[str, str]) -> Code:
    """Return commands that save the settings in the user's settings file."""
    commands = [fill(SAVE_SETTING, {"KEY": key, "VALUE": value}) for key, value in sorted(settings.items())]
    return Code("".join([BEFORE_SETTINGS, *commands] if commands else commands))
