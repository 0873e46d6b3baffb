"""The text of the script that starts a registered kernel, with fields for `process.shell.fill`."""

from __future__ import annotations

LAUNCH_SCRIPT_TEMPLATE = r"""#!/bin/sh
# Written by snapper. Waits for an environment, activates it as `conda activate` does, and starts its kernel. What the
# environment says about the kernel and about variables is read each time.

set +eu
if [ -n "${ZSH_VERSION:-}" ]; then emulate sh; fi

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
snapper_kernelspec=@KERNELSPEC@

# --- wait ---

snapper_is_ready() {
    [ -d "$snapper_prefix/conda-meta" ] && [ -r "$snapper_prefix/$snapper_kernelspec/kernel.json" ] &&
        ! snapper_is_exchanged && snapper_is_own
}

# Succeeds if a restore is exchanging what is in the environment, or was killed then.
snapper_is_exchanged() {
    for snapper_phase in "$snapper_prefix"/@INSIDE@/@LEAVING@_* "$snapper_prefix"/@INSIDE@/@ENTERING@_*; do
        if [ -d "$snapper_phase" ]; then return; fi
    done
    return 1
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
        if snapper_is_exchanged; then snapper_fail "the restore of $snapper_environment was interrupted"; fi
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

# --- read what the environment says now ---

# Prints records for awk: $1, which says what the file $2 is, and its text if that has at most snapper_limit bytes. The
# limit becomes what is left of it.
snapper_record() {
    if [ ! -f "$2" ] || [ ! -r "$2" ]; then return; fi
    # shellcheck disable=SC3045 # bash needs no process for this
    case ${BASH_VERSION:-} in
    [0-9]*) IFS='' read -r -d '' -n $((snapper_limit + 1)) snapper_text <"$2" ;;
    *) snapper_text=$(head -c $((snapper_limit + 1)) "$2") ;;
    esac
    if [ ${#snapper_text} -gt "$snapper_limit" ]; then
        snapper_say "ignored $1: it is too large"
        return
    fi
    snapper_limit=$((snapper_limit - ${#snapper_text}))
    case $snapper_text in
    '') ;;
    *"$snapper_separator"*) snapper_say "ignored $1: it is not a JSON object" ;;
    *) printf '%s\001%s\001' "$1" "$snapper_text" ;;
    esac
}

# Sets snapper_file to the path without links of the file $1 of the environment. Fails if a link leads out of it.
snapper_find() {
    snapper_file=$snapper_top/$1
    snapper_links=
    while
        cd -P -- "${snapper_file%/*}" 2>/dev/null || return
        snapper_file=${PWD%/}/${snapper_file##*/}
        case $snapper_file in
        "$snapper_top"/*) ;;
        *) snapper_say "ignored $1: it is a link that leads out of the environment" && return 1 ;;
        esac
        [ -L "$snapper_file" ]
    do
        snapper_links=$snapper_links+
        if [ ${#snapper_links} = 40 ]; then return 1; fi
        snapper_target=$(readlink "$snapper_file")
        case $snapper_target in
        /*) snapper_file=$snapper_target ;;
        *) snapper_file=$PWD/$snapper_target ;;
        esac
    done
}

# Prints all records. Must be called in a subshell.
snapper_records() {
    LC_ALL=C # sizes are in bytes
    snapper_separator=@SEPARATOR@
    snapper_limit=@LARGEST_SPEC@
    snapper_record registered "${snapper_field_registered-}/kernel.json"
    cd -P -- "$snapper_prefix" 2>/dev/null || return
    snapper_top=${PWD%/}
    snapper_limit=@LARGEST_SPEC@
    if snapper_find "$snapper_kernelspec/kernel.json"; then snapper_record kernelspec "$snapper_file"; fi
    snapper_limit=@MOST_BYTES@
    set -- "$snapper_top"/etc/conda/env_vars.d/*.json
    if [ $# -gt @MOST_FILES@ ]; then
        snapper_say "ignored etc/conda/env_vars.d: it has more than @MOST_FILES@ files"
        set --
    fi
    for snapper_path in "$@" "$snapper_top/conda-meta/state"; do
        snapper_path=${snapper_path#"$snapper_top/"}
        case $snapper_path in *"$snapper_separator"*) continue ;; esac
        if snapper_find "$snapper_path"; then snapper_record "$snapper_path" "$snapper_file"; fi
    done
}

# Executes a program of the environment, or else of PATH, with its arguments.
# shellcheck disable=SC2329 # what awk prints calls it
snapper_execute() {
    case $1 in
    */*) ;;
    *)
        if [ -e "$snapper_prefix/bin/$1" ]; then
            snapper_program=$snapper_prefix/bin/$1
            shift
            set -- "$snapper_program" "$@"
        fi
        ;;
    esac
    exec "$@"
}

if ! snapper_awk=$(command -v awk); then snapper_fail "the program awk was not found" "install it"; fi
snapper_settings=$(
    export snapper_prefix snapper_field_resource_dir="$snapper_prefix/$snapper_kernelspec"
    export snapper_field_connection_file="${1:-}"
    case " $* " in
    *' -- '*)
        for snapper_argument; do
            case ${snapper_argument%%=*} in
            --) break ;;
            *[!A-Za-z0-9_]*) ;;
            *) export "snapper_field_$snapper_argument" ;;
            esac
        done
        ;;
    *)
        # A kernel.json of an earlier version, which gave no names, or a copy of it.
        # shellcheck disable=SC2043 # there may be only one
        for snapper_name in @FIELDS@; do
            if [ $# -gt 0 ]; then export "snapper_field_$snapper_name=$1" && shift; fi
        done
        ;;
    esac
    if [ -n "${LC_ALL+set}" ]; then export snapper_locale="$LC_ALL"; fi
    # shellcheck disable=SC2016 # awk, not the shell, expands what is in the program
    snapper_records | PATH=$snapper_usual_path LC_ALL=C "$snapper_awk" @READ_SETTINGS@
)
PATH=$snapper_usual_path
snapper_is_valid=
eval "$snapper_settings" # exports the variables of the kernelspec
if [ -z "$snapper_is_valid" ]; then
    snapper_fail "$snapper_prefix/$snapper_kernelspec/kernel.json is not a kernelspec that can be used"
fi
for snapper_argument; do # what follows -- are the kernel's own arguments
    shift
    if [ "$snapper_argument" = -- ]; then break; fi
done

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

snapper_variables
snapper_source "$CONDA_PREFIX/etc/conda/activate.d" forward
snapper_start "$@"
"""
