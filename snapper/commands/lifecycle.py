"""Lifecycle: render the shell scripts that machines run when they are created and when they start."""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from snapper.errors import UsageError
from snapper.settings.resolution import variable_name
from snapper.version import __version__

Event = Literal["on-create", "on-start"]

#: The maximum length of a script, in base64, that SageMaker accepts. EC2's user data may be longer.
MAX_BASE64_LENGTH = 16_384

#: The default time limit of a script, in seconds; SageMaker allows five minutes.
BUDGET = 240


@dataclass(frozen=True)
class ScriptPlatform:
    """A kind of machine that a script is for.

    `user` owns the environments by default. `base` is snapper's directory below the user's home, which survives a
    stop. `note` says how the script is run.
    """

    title: str
    user: str
    base: str
    note: str


PLATFORMS: Mapping[str, ScriptPlatform] = {
    "notebook-instance": ScriptPlatform(
        "a SageMaker notebook instance",
        "ec2-user",
        "SageMaker/.snapper",
        "SageMaker runs it as root, allows it five minutes, and does not start the instance if it fails.",
    ),
    "studio": ScriptPlatform(
        "a SageMaker Studio space",
        "sagemaker-user",
        ".snapper",
        "SageMaker runs it as sagemaker-user, allows it five minutes, and does not start the app if it fails.",
    ),
    "ec2-user-data": ScriptPlatform(
        "an EC2 instance",
        "ec2-user",
        ".snapper",
        "Put it into /var/lib/cloud/scripts/per-boot/ and make it executable, so that it runs at every boot.",
    ),
    "jupyterhub": ScriptPlatform(
        "a JupyterHub server",
        "jovyan",
        ".snapper",
        "Run it before the server: in /usr/local/bin/before-notebook.d/ or the pod's postStart hook.",
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
    """Return the text of the script; raise UsageError if it would be too long for SageMaker."""
    platform = PLATFORMS[options.platform]
    values = {
        "EVENT": options.event,
        "TITLE": platform.title,
        "NOTE": platform.note,
        "MADE_BY": options.made_by,
        "USER": shlex.quote(options.user or platform.user),
        "BASE": shlex.quote(platform.base),
        "BUDGET": str(options.budget),
        "REQUIREMENT": shlex.quote(options.requirement or f"conda-snapper=={__version__}"),
        "WHEELHOUSE": shlex.quote(options.wheelhouse),
        "SETTINGS": _assignments(options.settings),
        "SAVE_SETTINGS": _save_settings(options.settings),
        "MAIN": _RESTORE if options.event == "on-start" else _SHOW_SETTINGS,
    }
    text = re.sub("@([A-Z_]+)@", lambda match: values[match[1]], _SCRIPT)
    length = len(base64.b64encode(text.encode()))
    if length > MAX_BASE64_LENGTH:
        raise UsageError(
            f"the script would be {length:,} characters in base64; the limit is {MAX_BASE64_LENGTH:,}",
            "Use fewer patterns, or put them in the settings file: snapper config set.",
        )
    return text


def _assignments(settings: Mapping[str, str]) -> str:
    """Return assignments of the settings' environment variables, a line each."""
    return "".join(
        f"\n    {variable_name(key)}={shlex.quote(value)}" for key, value in sorted(settings.items())
    )


def _save_settings(settings: Mapping[str, str]) -> str:
    """Return commands that save the settings in the user's settings file."""
    if not settings:
        return ""
    commands = (
        f'    as_user "$venv/bin/snapper" config set {key} {shlex.quote(value)} --json >/dev/null ||\n'
        f'        say "could not save the setting {key}: it does not apply in terminals"\n'
        for key, value in sorted(settings.items())
    )
    return "    # Save the settings, so that they apply in the user's terminals too.\n" + "".join(commands)


_SCRIPT = r"""#!/bin/bash
# snapper: @EVENT@ of @TITLE@.
# @NOTE@
# Made by: @MADE_BY@
( # in a subshell, so that a shell that sources this script continues
set -u
SECONDS=0

user=@USER@
requirement=@REQUIREMENT@
wheelhouse=@WHEELHOUSE@
budget=@BUDGET@ # time limit of this script in seconds
settings=(LANG=C.UTF-8@SETTINGS@) # these override the settings file

PATH=${PATH:-/usr/bin:/bin}:/usr/local/bin:/usr/bin:/bin
home=$(getent passwd "$user" | cut -d : -f 6)
if [ "$(id -u)" != 0 ]; then
    user=$(id -un)
    home=${HOME:-$home}
fi
base=$home/@BASE@
venv=$base/venv
log=$base/log/@EVENT@.log

say() { printf '%s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$*"; }

# Runs a command as the user who owns the environments, with the settings.
as_user() {
    set -- env HOME="$home" USER="$user" LOGNAME="$user" PATH="$PATH" "${settings[@]}" "$@"
    if [ "$(id -u)" != 0 ] || [ "$user" = root ]; then
        "$@"
    elif command -v runuser >/dev/null; then
        runuser -u "$user" -- "$@"
    else
        sudo -n -u "$user" "$@"
    fi
}

# Runs a command as the user for at most $1 seconds.
with_timeout() {
    local seconds=$1
    shift
    as_user timeout -k 5 "$seconds" "$@"
}

# Prints the seconds that remain of the time limit, at least 10.
remaining() { echo $((budget - SECONDS > 10 ? budget - SECONDS : 10)); }

find_python() {
    local candidate check='import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))'
    for candidate in "$home"/anaconda3/envs/python3/bin/python3 "$home"/anaconda3/bin/python3 \
        /opt/conda/bin/python3 python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
        if as_user "$candidate" -I -c "$check" 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

is_installed() { as_user "$venv/bin/python" -I -c 'import snapper' 2>/dev/null; }

# Installs snapper into a virtual environment that survives stops.
install() {
    local python source=()
    if ! python=$(find_python); then
        say "cannot install snapper: no Python 3.10 or later was found"
        return 1
    fi
    say "installing $requirement with $python"
    case $wheelhouse in
    '') ;;
    s3://*)
        with_timeout "$(remaining)" aws s3 sync --only-show-errors "$wheelhouse" "$base/wheelhouse" || return
        source=(--no-index --find-links "$base/wheelhouse")
        ;;
    *) source=(--no-index --find-links "$wheelhouse") ;;
    esac
    with_timeout "$(remaining)" "$python" -m venv --clear "$venv" || return
    with_timeout "$(remaining)" "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        --no-cache-dir ${source[@]+"${source[@]}"} "$requirement" || return
    say "snapper is installed"
}

# Links snapper into a PATH directory of the user, unless there is another one. What the user can write is never
# linked into root's PATH.
link() {
    local bin=$home/.local/bin
    if [ "$(id -u)" = 0 ] && [ "$user" = root ]; then bin=/usr/local/bin; fi
    as_user mkdir -p "$bin"
    case $(readlink "$bin/snapper" || echo none) in
    none) [ -e "$bin/snapper" ] || as_user ln -s "$venv/bin/snapper" "$bin/snapper" ;;
    */.snapper/venv/bin/snapper) as_user ln -sfn "$venv/bin/snapper" "$bin/snapper" ;;
    esac
}

main() {
    say "@EVENT@ started"
    if ! is_installed && ! install; then
        say "snapper could not be installed, so nothing is restored"
        return
    fi
    link
@SAVE_SETTINGS@@MAIN@
}

if [ -z "$home" ] || [ ! -d "$home" ]; then
    say "user $user does not exist or has no home directory: nothing to do"
    exit 0
fi
as_user mkdir -p "$base/log"
if [ -f "$log" ] && [ "$(wc -c <"$log")" -gt 1000000 ]; then
    as_user mv -f "$log" "$log.1"
fi
# Write to the log, and to stdout, which SageMaker sends to CloudWatch.
main 2>&1 | as_user tee -a "$log"
exit 0
)
"""

_SHOW_SETTINGS = """\
    as_user "$venv/bin/snapper" config
    say "on-create finished after $SECONDS s\""""

_RESTORE = """\
    # Jupyter need not be restarted: it looks for kernels whenever it shows its menu.
    with_timeout $(($(remaining) + 20)) "$venv/bin/snapper" restore --all --budget "$(remaining)"
    say "on-start finished with exit code $? after $SECONDS s\""""
