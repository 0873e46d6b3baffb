#!/bin/bash
# snapper: on-start of a SageMaker notebook instance.
# SageMaker runs it as root, allows it five minutes, and does not start the instance if it fails.
# Made by: snapper lifecycle on-start --platform notebook-instance
( # in a subshell, so that a shell that sources this script continues
set -u
SECONDS=0

user=ec2-user
requirement=conda-snapper==0.2.0
wheelhouse=''
budget=240 # time limit of this script in seconds
settings=(LANG=C.UTF-8) # these override the settings file

PATH=${PATH:-/usr/bin:/bin}:/usr/local/bin:/usr/bin:/bin
home=$(getent passwd "$user" | cut -d : -f 6)
if [ "$(id -u)" != 0 ]; then
    user=$(id -un)
    home=${HOME:-$home}
fi
base=$home/SageMaker/.snapper
venv=$base/venv
log=$base/log/on-start.log

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
    say "on-start started"
    if ! is_installed && ! install; then
        say "snapper could not be installed, so nothing is restored"
        return
    fi
    link
    # Jupyter need not be restarted: it looks for kernels whenever it shows its menu.
    with_timeout $(($(remaining) + 20)) "$venv/bin/snapper" restore --all --budget "$(remaining)"
    say "on-start finished with exit code $? after $SECONDS s"
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
