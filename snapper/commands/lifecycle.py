"""Scripts that machines run when they are made and when they start: complete, for the settings given."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from snapper.errors import UsageError
from snapper.settings.resolution import variable_name
from snapper.version import __version__

Event = Literal["on-create", "on-start"]

#: The most characters that SageMaker takes, in base64; EC2's user data may be longer.
LONGEST = 16_384

#: How long a script may take, in seconds, of the five minutes that SageMaker allows.
BUDGET = 240


@dataclass(frozen=True)
class Platform:
    """A kind of machine: whose home the environments are for, and what there survives a stop, below that home."""

    title: str
    user: str
    base: str
    note: str


PLATFORMS: Mapping[str, Platform] = {
    "notebook-instance": Platform(
        "a SageMaker notebook instance",
        "ec2-user",
        "SageMaker/.snapper",
        "SageMaker runs it as root, allows it five minutes, and does not start the instance if it fails.",
    ),
    "studio": Platform(
        "a SageMaker Studio space",
        "sagemaker-user",
        ".snapper",
        "SageMaker runs it as sagemaker-user, allows it five minutes, and does not start the app if it fails.",
    ),
    "ec2-user-data": Platform(
        "an EC2 instance",
        "ec2-user",
        ".snapper",
        "For each start, not the first alone: put it into /var/lib/cloud/scripts/per-boot/, executable.",
    ),
    "jupyterhub": Platform(
        "a JupyterHub server",
        "jovyan",
        ".snapper",
        "Run it before the server: /usr/local/bin/before-notebook.d/, or the pod's postStart hook.",
    ),
}


@dataclass(frozen=True)
class LifecycleOptions:
    """What a script is to do. `settings` are snapper's, by key, as their variables would have them; `wheelhouse` is a
    directory or an `s3://` URL with wheels, for machines that cannot reach PyPI. `budget` in seconds.
    """

    event: Event
    platform: str
    settings: Mapping[str, str] = field(default_factory=dict)
    budget: int = BUDGET
    user: str = ""
    requirement: str = ""
    wheelhouse: str = ""
    made_by: str = ""


def render_script(wanted: LifecycleOptions) -> str:
    """The script's text, with a line feed at each line's end; raises UsageError where it would be too long."""
    platform = PLATFORMS[wanted.platform]
    values = {
        "EVENT": wanted.event,
        "TITLE": platform.title,
        "NOTE": platform.note,
        "MADE_BY": wanted.made_by,
        "USER": shlex.quote(wanted.user or platform.user),
        "BASE": shlex.quote(platform.base),
        "BUDGET": str(wanted.budget),
        "REQUIREMENT": shlex.quote(wanted.requirement or f"conda-snapper=={__version__}"),
        "WHEELHOUSE": shlex.quote(wanted.wheelhouse),
        "SETTINGS": "".join(
            f"\n    {variable_name(key)}={shlex.quote(value)}"
            for key, value in sorted(wanted.settings.items())
        ),
        "REMEMBER": _REMEMBER * bool(wanted.settings)
        + "".join(
            f'    as_user "$venv/bin/snapper" config set {key} {shlex.quote(value)} --json >/dev/null ||\n'
            f'        say "{key} could not be set for terminals"\n'
            for key, value in sorted(wanted.settings.items())
        ),
        "MAIN": _RESTORE if wanted.event == "on-start" else _CREATE,
    }
    text = _SCRIPT
    for name in ("MAIN", *values):
        text = text.replace(f"@{name}@", values[name])
    length = len(base64.b64encode(text.encode()))
    if length > LONGEST:
        raise UsageError(
            f"the script would be {length:,} characters in base64; the limit is {LONGEST:,}",
            "Use fewer patterns, or put them in the settings file: snapper config set.",
        )
    return text


_SCRIPT = r"""#!/bin/bash
# snapper: @EVENT@ of @TITLE@.
# @NOTE@
# Made by: @MADE_BY@
( # of its own, so that who sources this goes on
set -u
SECONDS=0

user=@USER@
requirement=@REQUIREMENT@
wheelhouse=@WHEELHOUSE@
budget=@BUDGET@ # seconds, from the beginning of this script
settings=(LANG=C.UTF-8@SETTINGS@) # these go before what the file of settings says

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

# As the user whose environments they are, with a home, and with the settings.
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

# Runs a command for so many seconds at most.
limited() {
    local seconds=$1
    shift
    as_user timeout -k 5 "$seconds" "$@"
}

# The seconds that are left, ten at least.
left() { echo $((budget - SECONDS > 10 ? budget - SECONDS : 10)); }

find_python() {
    local candidate look='import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))'
    for candidate in "$home"/anaconda3/envs/python3/bin/python3 "$home"/anaconda3/bin/python3 \
        /opt/conda/bin/python3 python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
        if as_user "$candidate" -I -c "$look" 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

installed() { as_user "$venv/bin/python" -I -c 'import snapper' 2>/dev/null; }

# Once: into a virtual environment that survives stops.
install() {
    local python source=()
    if ! python=$(find_python); then
        say "no Python 3.10 or later was found: snapper cannot be installed"
        return 1
    fi
    say "installing $requirement with $python"
    case $wheelhouse in
    '') ;;
    s3://*)
        limited "$(left)" aws s3 sync --only-show-errors "$wheelhouse" "$base/wheelhouse" || return
        source=(--no-index --find-links "$base/wheelhouse")
        ;;
    *) source=(--no-index --find-links "$wheelhouse") ;;
    esac
    limited "$(left)" "$python" -m venv --clear "$venv" || return
    limited "$(left)" "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        --no-cache-dir ${source[@]+"${source[@]}"} "$requirement" || return
    say "snapper is installed"
}

# For the user's terminals, unless they have another one. What the user may write to comes into no PATH of root's.
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
    say "@EVENT@ begins"
    if ! installed && ! install; then
        say "snapper could not be installed: nothing is restored"
        return
    fi
    link
@REMEMBER@@MAIN@
}

if [ -z "$home" ] || [ ! -d "$home" ]; then
    say "there is no user $user with a home: nothing is done"
    exit 0
fi
as_user mkdir -p "$base/log"
if [ -f "$log" ] && [ "$(wc -c <"$log")" -gt 1000000 ]; then
    as_user mv -f "$log" "$log.1"
fi
# To the log, and to whoever runs this: CloudWatch has it too.
main 2>&1 | as_user tee -a "$log"
exit 0
)
"""

_REMEMBER = """\
    # What this script says holds for the user's terminals, too.
"""

_CREATE = """\
    as_user "$venv/bin/snapper" config
    say "on-create has ended after $SECONDS s\""""

_RESTORE = """\
    # Kernels need no restart of Jupyter: it looks for them whenever it shows its menu.
    limited $(($(left) + 20)) "$venv/bin/snapper" restore --all --budget "$(left)"
    say "on-start has ended with $? after $SECONDS s\""""
