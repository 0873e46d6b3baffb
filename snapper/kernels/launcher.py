"""What a registered kernel runs: shell scripts that need neither snapper nor conda.

`launch.sh` waits for its environment where that is on its way, activates it as `conda activate` does, and becomes
the kernel's own command, which stands in `command.sh` beside it. That file is there only while the environment is.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

LAUNCH = "launch.sh"
COMMAND = "command.sh"

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_FIELD = re.compile(r"\{([A-Za-z0-9_]+)\}")

#: What Jupyter would replace in the value of a kernel's variable.
_REFERENCE = re.compile(r"\$\{?[A-Za-z_]")

#: What stands in `conda-meta/state` for a variable that is not to be set.
_UNSET = "***unset***"

_LAUNCH = r"""#!/bin/sh
# Written by snapper. Waits for an environment, activates it as `conda activate` does, and becomes its kernel.

# Scripts of activate.d are written for bash more often than they say.
if [ -z "${BASH_VERSION:-}" ] && command -v bash >/dev/null 2>&1; then
    exec bash "$0" "$@"
fi
set +eu

snapper_environment=@ENVIRONMENT@
snapper_prefix=@PREFIX@
snapper_default=@DEFAULT@
snapper_condabin=@CONDABIN@
snapper_waiting=@WAITING@
snapper_used=@USED@
snapper_command=${0%/*}/@COMMAND@

# --- wait ---

snapper_is_there() {
    [ -d "$snapper_prefix/conda-meta" ] && [ -r "$snapper_command" ]
}

# Whether process $1 is at work and was started at $2, in the count of Linux; no other that has its number now.
# Of other users' processes there may be no telling, but that they are there.
snapper_is_alive() {
    if [ -n "$2" ] && read -r snapper_stat 2>/dev/null <"/proc/$1/stat"; then
        snapper_started=$2
        # shellcheck disable=SC2086 # the fields of the line
        set -- ${snapper_stat##*) }
        [ "$1" != Z ] && [ "${20}" = "$snapper_started" ]
    else
        case $(LC_ALL=C kill -0 "$1" 2>&1) in
        '' | *ermi*) ;; # there it is, or there but not permitted
        *) return 1 ;;
        esac
    fi
}

snapper_end() {
    echo "snapper: $1" >&2
    if [ -n "$snapper_log" ]; then echo "snapper: its log is $snapper_log" >&2; fi
    echo "snapper: bring it back with: snapper restore $snapper_environment" >&2
    exit 1
}

snapper_said=
snapper_count=0
trap : INT # there is nothing to interrupt yet
while ! snapper_is_there; do
    snapper_condition='' snapper_process='' snapper_start='' snapper_text='' snapper_log=''
    if [ -r "$snapper_waiting" ]; then
        {
            read -r snapper_condition
            read -r snapper_process snapper_start
            read -r snapper_text
            read -r snapper_log
        } <"$snapper_waiting"
    fi
    case $snapper_condition in
    waiting | restoring)
        if ! snapper_is_alive "$snapper_process" "$snapper_start"; then
            # It may have ended well since.
            if snapper_is_there; then break; fi
            snapper_end "$snapper_environment was being restored, and that was cut off"
        fi
        if [ $((snapper_count % 10)) = 0 ] && [ "$snapper_text" != "$snapper_said" ]; then
            echo "snapper: waiting for $snapper_environment, which is being restored: $snapper_text" >&2
            snapper_said=$snapper_text
        fi
        ;;
    failed)
        snapper_end "$snapper_environment could not be restored: $snapper_text"
        ;;
    *)
        if snapper_is_there; then break; fi
        if [ -d "$snapper_prefix/conda-meta" ]; then
            snapper_end "$snapper_environment does not have this kernel any more"
        fi
        snapper_end "$snapper_environment is not at $snapper_prefix"
        ;;
    esac
    snapper_count=$((snapper_count + 1))
    sleep 0.2 2>/dev/null || sleep 1
done
trap - INT
touch "$snapper_used" 2>/dev/null

# --- activate ---

# Sources the scripts of directory $1, in order or, if $2 says so, in reverse.
snapper_source() {
    snapper_order=$2
    snapper_locale=${LC_ALL-unset}
    LC_ALL=C
    set -- "$1"/*.sh
    if [ "$snapper_locale" = unset ]; then unset LC_ALL; else LC_ALL=$snapper_locale; fi
    if [ "$snapper_order" = reverse ]; then
        snapper_last=$1
        for snapper_script; do
            if [ "$snapper_script" = "$snapper_last" ]; then set --; fi
            set -- "$snapper_script" "$@"
        done
    fi
    for snapper_script; do
        # shellcheck disable=SC1090 # the environment's own
        if [ -r "$snapper_script" ]; then . "$snapper_script" >&2; fi
    done
}

# Puts the environment's programs into PATH in the place of those of $1, or first.
snapper_replace_in_path() {
    snapper_left=${PATH:-/usr/bin:/bin}:
    snapper_new=
    snapper_place=$snapper_prefix/bin:
    while [ -n "$snapper_left" ]; do
        snapper_entry=${snapper_left%%:*}
        snapper_left=${snapper_left#*:}
        if [ -n "$snapper_place" ] && [ "$snapper_entry" = "$1/bin" ]; then
            snapper_entry=${snapper_place%:}
            snapper_place=
        fi
        snapper_new=$snapper_new:$snapper_entry
    done
    PATH=$snapper_place${snapper_new#:}
}

snapper_outer=${CONDA_PREFIX:-}
snapper_level=${CONDA_SHLVL:-0}
case $snapper_level in *[!0-9]*) snapper_level=0 ;; esac
if [ "$snapper_level" -gt 0 ] && [ -n "$snapper_outer" ]; then
    snapper_source "$snapper_outer/etc/conda/deactivate.d" reverse
    snapper_replace_in_path "$snapper_outer"
    if [ "$snapper_outer" != "$snapper_prefix" ]; then
        export "CONDA_PREFIX_$snapper_level=$snapper_outer"
        snapper_level=$((snapper_level + 1))
    fi
else
    snapper_level=1
    case :${PATH:-/usr/bin:/bin}: in
    *condabin:*) ;;
    *) if [ -d "$snapper_condabin" ]; then PATH=$snapper_condabin:${PATH:-/usr/bin:/bin}; fi ;;
    esac
    PATH=$snapper_prefix/bin:${PATH:-/usr/bin:/bin}
fi
# For %conda, where no conda has been activated before.
if [ -z "${CONDA_EXE:-}" ] && [ -x "${snapper_condabin%/*}/bin/conda" ]; then
    export CONDA_EXE="${snapper_condabin%/*}/bin/conda"
fi
CONDA_PREFIX=$snapper_prefix
CONDA_SHLVL=$snapper_level
CONDA_DEFAULT_ENV=$snapper_default
CONDA_PROMPT_MODIFIER="($snapper_default) "
export PATH CONDA_PREFIX CONDA_SHLVL CONDA_DEFAULT_ENV CONDA_PROMPT_MODIFIER

# shellcheck source=/dev/null # its variables, and snapper_kernel
. "$snapper_command"
snapper_source "$CONDA_PREFIX/etc/conda/activate.d" forward
snapper_kernel "$@"
"""


@dataclass(frozen=True)
class Place:
    """Where the launcher finds what it needs: the environment, how conda calls it, conda's own `condabin` if there
    is one, and the files by which it waits and by which it tells that it was used.
    """

    environment: str
    prefix: Path
    condabin: str
    waiting: Path
    used: Path


def launch(place: Place) -> str:
    """The text of `launch.sh`."""
    values = {
        "ENVIRONMENT": place.environment,
        "PREFIX": str(place.prefix),
        "DEFAULT": default_env(place.prefix, place.condabin),
        "CONDABIN": place.condabin,
        "WAITING": str(place.waiting),
        "USED": str(place.used),
    }
    text = _LAUNCH.replace("@COMMAND@", COMMAND)
    for name, value in values.items():
        text = text.replace(f"@{name}@", shlex.quote(value), 1)
    return text


def fields(argv: Sequence[str]) -> list[str]:
    """What Jupyter puts into a kernel's command, by name; the connection file first."""
    found = [name for word in argv for name in _FIELD.findall(word)]
    return list(dict.fromkeys(("connection_file", *found)))


def command(prefix: Path, argv: Sequence[str], own: Mapping[str, object] = MappingProxyType({})) -> str:
    """The text of `command.sh`, for a kernel's own command and variables.

    Jupyter sets those variables too, but not for a kernel that was started before its environment was there.
    """
    lines = ["# Written by snapper: what the environment sets, and its kernel's command."]
    lines += [
        f'[ -n "${{{name}+set}}" ] || export {name}={shlex.quote(value)}'
        for name, value in own.items()
        if _VARIABLE.match(name) and isinstance(value, str) and not _REFERENCE.search(value)
    ]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in _variables(prefix)]
    numbers = {name: number for number, name in enumerate(fields(argv), 1)}
    words = " ".join(_word(word, numbers) for word in argv)
    return "\n".join([*lines, "snapper_kernel() {", f"    exec {words}", "}", ""])


def default_env(prefix: Path, condabin: str = "") -> str:
    """What CONDA_DEFAULT_ENV is in the environment: its name if it is in an envs directory, else its prefix."""
    if condabin and Path(condabin).parent == prefix:
        return "base"
    return prefix.name if prefix.parent.name == "envs" else str(prefix)


def _word(word: str, numbers: dict[str, int]) -> str:
    """The word for a shell, with what Jupyter puts in as the launcher's arguments."""
    parts = _FIELD.split(word)
    quoted = [
        f'"${{{numbers[part]}}}"' if count % 2 else shlex.quote(part)
        for count, part in enumerate(parts)
        if count % 2 or part
    ]
    return "".join(quoted) or "''"


def _variables(prefix: Path) -> Iterator[tuple[str, str]]:
    """What `conda env config vars` and packages set: etc/conda/env_vars.d and conda-meta/state."""
    found: dict[object, object] = {}
    for file in (*sorted((prefix / "etc/conda/env_vars.d").glob("*.json")), prefix / "conda-meta" / "state"):
        try:
            values = json.loads(file.read_bytes())
            found.update(values["env_vars"] if file.name == "state" else values)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, str):
            continue
        if _VARIABLE.match(name) and value != _UNSET:
            yield name, value
