"""The shell scripts that a registered kernel runs. They need neither snapper nor conda.

`launch.sh` waits for its environment while that is being restored, activates it as `conda activate` does, and executes
the kernel's own command from `command.sh` next to it. That file exists only while the environment does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from snapper.environment.conda_directories import CondaCommands
from snapper.environment.variables import environment_variables
from snapper.fs.pinned import Top
from snapper.kernels.access import Access
from snapper.process.shell import fill, is_variable_name, quote

LAUNCH_SCRIPT = "launch.sh"
COMMAND_SCRIPT = "command.sh"

#: Where programs of the system are, other than on systems such as NixOS.
SYSTEM_PATH = "/usr/bin:/bin:/usr/local/bin"

#: A field that Jupyter fills in a kernel's argv, such as `{connection_file}`.
_FIELD = re.compile(r"\{([A-Za-z0-9_]+)\}")

#: A reference that Jupyter would replace in the value of a kernel's variable.
_REFERENCE = re.compile(r"\$\{?[A-Za-z_]")

_LAUNCH_TEMPLATE = r"""#!/bin/sh
# Written by snapper. Waits for an environment, activates it as `conda activate` does, and starts its kernel.

set +eu

# Programs that this script runs itself are those of the system, if it has them: an environment that is first in PATH
# may have come from a store.
snapper_usual_path=${PATH:-}
PATH=@SYSTEM@:${PATH:-/usr/bin:/bin}

# Scripts in activate.d often need bash without saying so.
if [ -z "${BASH_VERSION:-}" ] && snapper_bash=$(command -v bash); then
    PATH=$snapper_usual_path
    exec "$snapper_bash" "$0" "$@"
fi

snapper_environment=@ENVIRONMENT@
snapper_prefix=@PREFIX@
snapper_default=@DEFAULT@
snapper_owners=@OWNERS@
snapper_writers=@WRITERS@
snapper_inode=@INODE@
snapper_recorded=@RECORDED@
snapper_conda=@CONDA@
snapper_condabin=@CONDABIN@
snapper_waiting=@WAITING@
snapper_used=@USED@
snapper_command=${0%/*}/@COMMAND@

# --- wait ---

snapper_is_ready() {
    [ -d "$snapper_prefix/conda-meta" ] && [ -r "$snapper_command" ] && snapper_is_own
}

# Succeeds if no others have put the environment there than those who could when the kernel was registered. In a shared
# directory, another user can move it away, and move something else there: also another environment of this user, or a
# directory of this user that others may write to.
snapper_is_own() {
    snapper_reason='belongs to another user than when this kernel was registered'
    if [ -L "$snapper_prefix" ] && ! snapper_is_of_owner -ldn "$snapper_prefix"; then return 1; fi
    snapper_is_owned "$snapper_prefix/." || return 1
    case " $snapper_writers " in *" all "*) return 0 ;; esac
    snapper_reason='may be written to by others, and was not, or not by them, when this kernel was registered'
    # shellcheck disable=SC2046 # split into fields: inode, mode, links, user, group
    set -- $(LC_ALL=C ls -Lldin "$snapper_prefix/." 2>/dev/null)
    if [ "${1:-unknown}" = "$snapper_inode" ]; then return; fi
    if [ -f "$snapper_prefix/.snapper/state.json" ]; then
        snapper_state=
        read -r snapper_state 2>/dev/null <"$snapper_prefix/.snapper/state.json"
        case $snapper_state in
        *"$snapper_recorded"*) ;;
        *) snapper_reason='is another environment than when this kernel was registered' && return 1 ;;
        esac
    fi
    case ${2:-unknown} in
    d???????w* | d????w*+) return 1 ;; # "+": an access control list lets others write as well
    d????w*) case " $snapper_writers " in *" ${5:-unknown} "*) return 0 ;; esac ;;
    d*) return 0 ;;
    esac
    return 1
}

# Succeeds if $1 belongs to this user, or to one that the environment may belong to since the kernel was registered.
snapper_is_owned() {
    # shellcheck disable=SC3067 # shells that do not know -O go on
    if [ -O "$1" ] 2>/dev/null; then return; fi
    snapper_is_of_owner -Lldn "$1"
}

# Does the same for what ls lists for $2 with the options $1.
snapper_is_of_owner() {
    # shellcheck disable=SC2046 # split into fields
    set -- $(LC_ALL=C ls "$1" "$2" 2>/dev/null)
    case " $snapper_owners " in *" ${3:-unknown} "*) return 0 ;; esac
    return 1
}

# Succeeds if process $1 is alive and was started at $2 (clock ticks since boot, as in /proc), so that a later
# process with the same PID does not count. The state of another user's process may be unknown: it counts as alive.
snapper_is_alive() {
    if [ -n "$2" ] && read -r snapper_stat 2>/dev/null <"/proc/$1/stat"; then
        snapper_started=$2
        # shellcheck disable=SC2086 # split into fields
        set -- ${snapper_stat##*") "}
        [ "$1" != Z ] && [ "${20}" = "$snapper_started" ]
    else
        case $(LC_ALL=C kill -0 "$1" 2>&1) in
        '' | *ermi*) return 0 ;; # alive, or "not permitted": another user's
        *) return 1 ;;
        esac
    fi
}

snapper_say() {
    printf 'snapper: %s\n' "$1" >&2
}

snapper_fail() {
    snapper_say "$1"
    if [ -n "${2:-}" ]; then snapper_say "$2"; fi
    if [ -n "$snapper_log" ]; then snapper_say "see the log: $snapper_log"; fi
    snapper_say "to restore it: snapper restore $snapper_environment"
    exit 1
}

snapper_last_text=
snapper_count=0
trap : INT # Jupyter may interrupt the kernel before it runs
while ! snapper_is_ready; do
    snapper_condition='' snapper_process='' snapper_start='' snapper_text='' snapper_log=''
    if [ -f "$snapper_waiting" ] && [ -r "$snapper_waiting" ] && snapper_is_owned "$snapper_waiting"; then
        {
            read -r snapper_condition
            read -r snapper_process snapper_start
            read -r snapper_text
            read -r snapper_log
        } <"$snapper_waiting"
    fi
    case $snapper_text$snapper_log in *[[:cntrl:]]*) snapper_condition='' ;; esac # snapper does not write these
    case $snapper_condition in
    waiting | restoring)
        if ! snapper_is_alive "$snapper_process" "$snapper_start"; then
            # It may have completed since the file was read.
            if snapper_is_ready; then break; fi
            snapper_fail "the restore of $snapper_environment was interrupted"
        fi
        if [ $((snapper_count % 10)) = 0 ] && [ "$snapper_text" != "$snapper_last_text" ]; then
            snapper_say "waiting for $snapper_environment to be restored: $snapper_text"
            snapper_last_text=$snapper_text
        fi
        ;;
    failed)
        snapper_fail "$snapper_environment could not be restored: $snapper_text"
        ;;
    *)
        if snapper_is_ready; then break; fi
        if [ -d "$snapper_prefix" ] && ! snapper_is_own; then
            snapper_fail "$snapper_prefix $snapper_reason" \
                "if you trust what is there: snapper kernels register --prefix '$snapper_prefix'"
        fi
        if [ -d "$snapper_prefix/conda-meta" ]; then
            snapper_fail "$snapper_environment no longer has this kernel"
        fi
        snapper_fail "$snapper_environment does not exist at $snapper_prefix"
        ;;
    esac
    snapper_count=$((snapper_count + 1))
    sleep 0.2 2>/dev/null || sleep 1
done
trap - INT
if [ -n "$snapper_used" ] && [ ! -L "$snapper_used" ]; then touch "$snapper_used" 2>/dev/null; fi
PATH=$snapper_usual_path

# --- activate ---

# Sources the scripts in directory $1, in order ($2 is "forward") or in reverse order ("reverse").
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
        # shellcheck disable=SC1090 # a script of the environment
        if [ -r "$snapper_script" ]; then . "$snapper_script" >&2; fi
    done
}

# Replaces $1/bin in PATH with the environment's bin directory, or puts that first.
snapper_replace_in_path() {
    snapper_rest=${PATH:-/usr/bin:/bin}:
    snapper_path=
    snapper_added=$snapper_prefix/bin:
    while [ -n "$snapper_rest" ]; do
        snapper_entry=${snapper_rest%%:*}
        snapper_rest=${snapper_rest#*:}
        if [ -n "$snapper_added" ] && [ "$snapper_entry" = "$1/bin" ]; then
            snapper_entry=${snapper_added%:}
            snapper_added=
        fi
        snapper_path=$snapper_path:$snapper_entry
    done
    PATH=$snapper_added${snapper_path#:}
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
    *)
        # What was restored from a store must not get into the PATH of other environments, also not later.
        if [ -d "$snapper_condabin" ] && [ ! -e "$snapper_conda/.snapper" ]; then
            PATH=$snapper_condabin:${PATH:-/usr/bin:/bin}
        fi
        ;;
    esac
    PATH=$snapper_prefix/bin:${PATH:-/usr/bin:/bin}
fi
# %conda needs CONDA_EXE, which is not set where conda was never activated.
if [ -z "${CONDA_EXE:-}" ] && [ -n "$snapper_conda" ] && [ -x "$snapper_conda/bin/conda" ]; then
    export CONDA_EXE="$snapper_conda/bin/conda"
fi
CONDA_PREFIX=$snapper_prefix
CONDA_SHLVL=$snapper_level
CONDA_DEFAULT_ENV=$snapper_default
CONDA_PROMPT_MODIFIER="($snapper_default) "
export PATH CONDA_PREFIX CONDA_SHLVL CONDA_DEFAULT_ENV CONDA_PROMPT_MODIFIER

# shellcheck source=/dev/null # sets variables and defines snapper_kernel
. "$snapper_command"
snapper_source "$CONDA_PREFIX/etc/conda/activate.d" forward
snapper_kernel "$@"
"""


@dataclass(frozen=True)
class LaunchTarget:
    """The environment that a launch script starts a kernel in.

    The kernel does not start if others control the environment than those who have `access`, besides the user who
    starts it. The script reads the file `waiting` while it waits, and touches the file `used` when it starts the
    kernel, if there are such files.
    """

    environment: str
    prefix: Path
    access: Access
    conda: CondaCommands
    waiting: Path | None
    used: Path | None


def render_launch_script(target: LaunchTarget) -> str:
    """Return the text of `launch.sh`; raise ValueError if a path contains NUL."""
    values = {
        "SYSTEM": SYSTEM_PATH,
        "ENVIRONMENT": target.environment,
        "PREFIX": str(target.prefix),
        "DEFAULT": conda_default_env(target.prefix, target.conda.root),
        "OWNERS": " ".join(map(str, target.access.owners)),
        "WRITERS": " ".join(map(str, target.access.writers)),
        "INODE": str(target.access.inode or "none"),
        "RECORDED": f'"environment":{json.dumps(target.environment)}',
        "CONDA": target.conda.root,
        "CONDABIN": target.conda.condabin,
        "WAITING": str(target.waiting or ""),
        "USED": str(target.used or ""),
        "COMMAND": COMMAND_SCRIPT,
    }
    return fill(_LAUNCH_TEMPLATE, values)


def render_command_script(
    prefix: Top, argv: Sequence[str], variables: Mapping[str, object] = MappingProxyType({})
) -> str:
    """Return the text of `command.sh` for a kernel's own command and the variables of its kernelspec.

    Jupyter sets those variables too, but not for a kernel that was started before its environment was restored. Raise
    ValueError if a word or a value contains NUL.
    """
    lines = ["# Written by snapper: the environment's variables, and the kernel's command."]
    lines += [
        f'[ -n "${{{name}+set}}" ] || export {name}={quote(value)}'
        for name, value in variables.items()
        if is_variable_name(name) and isinstance(value, str) and not _REFERENCE.search(value)
    ]
    lines += [f"export {name}={quote(value)}" for name, value in environment_variables(prefix).items()]
    positions = {field: position for position, field in enumerate(argv_fields(argv), 1)}
    words = " ".join(_shell_word(word, positions) for word in argv)
    return "\n".join([*lines, "snapper_kernel() {", f"    exec {words}", "}", ""])


def argv_fields(argv: Sequence[str]) -> list[str]:
    """Return the names of the fields that Jupyter fills in a kernel's argv, the connection file first."""
    fields = [name for word in argv for name in _FIELD.findall(word)]
    return list(dict.fromkeys(("connection_file", *fields)))


def conda_default_env(prefix: Path, root: str = "") -> str:
    """Return CONDA_DEFAULT_ENV as conda sets it: the environment's name in an envs directory, else its prefix."""
    if root and Path(root) == prefix:
        return "base"
    return prefix.name if prefix.parent.name == "envs" else str(prefix)


def _shell_word(word: str, positions: Mapping[str, int]) -> str:
    """Return the word quoted for a shell, with the launcher's positional parameters in place of fields."""
    parts = _FIELD.split(word)  # text and fields alternate
    quoted = [
        f'"${{{positions[part]}}}"' if index % 2 else quote(part)
        for index, part in enumerate(parts)
        if index % 2 or part
    ]
    return "".join(quoted) or "''"
