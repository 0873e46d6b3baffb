#!/bin/bash
# snapper: on-start of an EC2 instance.
# For each start, not the first alone: put it into /var/lib/cloud/scripts/per-boot/, executable.
# Made by: snapper lifecycle on-start --platform ec2-user-data --store s3://BUCKET/snapper
( # of its own, so that who sources this goes on
set -u
SECONDS=0

user=ec2-user
requirement=conda-snapper==0.1.0
wheelhouse=''
budget=240 # seconds, from the beginning of this script
settings=(LANG=C.UTF-8
    SNAPPER_STORE=s3://BUCKET/snapper) # these go before what the file of settings says

PATH=${PATH:-/usr/bin:/bin}:/usr/local/bin:/usr/bin:/bin
home=$(getent passwd "$user" | cut -d : -f 6)
if [ "$(id -u)" != 0 ]; then
    user=$(id -un)
    home=${HOME:-$home}
fi
base=$home/.snapper
venv=$base/venv
log=$base/log/on-start.log

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
    say "on-start begins"
    if ! installed && ! install; then
        say "snapper could not be installed: nothing is restored"
        return
    fi
    link
    # What this script says holds for the user's terminals, too.
    as_user "$venv/bin/snapper" config set store s3://BUCKET/snapper --json >/dev/null ||
        say "store could not be set for terminals"
    # Kernels need no restart of Jupyter: it looks for them whenever it shows its menu.
    limited $(($(left) + 20)) "$venv/bin/snapper" restore --all --budget "$(left)"
    say "on-start has ended with $? after $SECONDS s"
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
