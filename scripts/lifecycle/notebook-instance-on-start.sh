#!/bin/bash
# snapper: on-start of a SageMaker notebook instance.
# SageMaker runs it as root, allows it five minutes, and does not start the instance if it fails.
# Made by: snapper lifecycle on-start --platform notebook-instance
# shellcheck disable=SC2329 # functions are called in the shells that they are passed to
( # in a subshell, so that a shell that sources this script continues
set +e
SECONDS=0

user=ec2-user # who owns the environments, if root runs this script
ids='' # user and group id that this user gets
requirement=conda-snapper==0.2.0
wheelhouse=''
budget=240 # time limit of this script in seconds
settings=(LANG=C.UTF-8) # these override the settings file

say() { printf '%s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$*"; }

find_account() {
    local made=$mode
    IFS=: read -r _ _ uid gid _ home _ < <(getent passwd -- "$user")
    if [ "$EUID" != 0 ]; then
        uid=$EUID
        if [ -O "$HOME" ] || [ ! -O "$home" ]; then home=$HOME; fi
    elif [ "$ids" ] && [ "${ids%:*}" != "$uid" ]; then
        IFS=: read -r uid gid <<<"$ids"
        home=${home:-/home/$user}
        made=--fork
    fi
    [ "${home:0:1}" = / ] && [ -d "$home" ] || return
    [ "$made" = --wait ] || [ "$(stat -L -c %u -- "$home")" = "$uid" ] # it is made for the user in the end
}

# --- supervise: run the work with limits. Root runs this part only, and it uses no file that the user can write.

stop_after() {
    sleep "$1"
    kill -KILL 0
}

show() {
    local line count=0 unsafe=$'[^\t -~]' LC_ALL=C
    while IFS= read -r -n 1000 line || [ -n "$line" ]; do
        printf '%s\n' "${line//$unsafe/?}"
        if ((++count == 2000)); then
            echo "more output is not shown"
            cat >/dev/null # the writer must not wait
        fi
    done
}

supervise() {
    local fd home='' uid gid groups as_user
    for fd in /proc/self/fd/*; do
        fd=${fd##*/}
        if ((fd > 2)); then exec {fd}>&-; fi
    done
    export "${settings[@]}" # they may contain secrets, and everyone can see arguments
    stop_after $((budget - SECONDS)) &
    until find_account; do sleep 1; done
    as_user=(env HOME="$home")
    if [ "$EUID" = 0 ]; then
        umask 022
        as_user+=(USER="$user" LOGNAME="$user" PATH="$PATH")
        if command -v setpriv >/dev/null; then
            groups=$(id -G -- "$user" 2>/dev/null | tr ' ' ,)
            as_user=(setpriv --reuid "$uid" --regid "$gid" --groups "${groups:-$gid}" -- "${as_user[@]}")
        else
            as_user=(runuser -u "$user" -- "${as_user[@]}")
        fi
    fi
    {
        "${as_user[@]}" bash -c "$(declare -p requirement wheelhouse budget own_path)
            $(declare -f "${work_functions[@]}")
            SECONDS=$SECONDS; work"
        stop_after 2 >/dev/null 2>&1 & # if a process that has left the group keeps the pipe open
    } 2>&1 | show
}

# --- work: install snapper, and restore. All of this runs as the user.

work_functions=(say left limited is_own choose_base is_below_managed is_managed use_own_path find_python is_installed
    install link restore write_log work)

left() { echo $((budget - $1 - SECONDS > 1 ? budget - $1 - SECONDS : 1)); }

limited() {
    local seconds
    seconds=$(left 5)
    if (($1 < seconds)); then seconds=$1; fi
    timeout --foreground -k 2 "$seconds" "${@:2}"
}

is_own() {
    local owner gid mode me members
    read -r owner gid mode < <(stat -L -c '%u %g 0%a' -- "$1") || return
    case $owner in 0 | "$EUID") ;; *) return 1 ;; esac
    if ((mode & 01000 || !(mode & 022))); then return; fi
    me=$(id -un)
    members=$(getent group -- "$gid" | cut -d: -f1,4)
    case $((mode & 2)):$(LC_ALL=C ls -Ldn -- "$1"):$members in # + is an access control list
    0:??????????[^+]*:"$me:" | 0:??????????[^+]*:"$me:$me") ;;
    *) return 1 ;;
    esac
    ! getent passwd | cut -d: -f3,4 | grep -v "^$EUID:" | grep -q ":$gid$"
}

choose_base() {
    local directory home
    base=$HOME/SageMaker/.snapper
    home=$(cd -P -- "$HOME" && pwd)
    for directory in "${base%/*}" "$base"{,/venv{,/bin}}; do
        directory=$(cd -P -- "$directory" 2>/dev/null && pwd)
        while [ "$directory" ] && [ "$directory" != "$home" ]; do
            if ! is_own "$directory"; then
                say "$base is not used, because others control $directory"
                base=$HOME/.local/share/snapper/start
                return
            fi
            directory=${directory%/*}
        done
    done
}

is_below_managed() {
    local directory=$1
    while [[ $directory == */* ]]; do
        directory=${directory%/*}
        if [ "$directory" = "$HOME" ]; then return 1; fi
        if [ -e "$directory/.snapper/state.json" ]; then return; fi
        if [ -e "$directory/.snapper" ] && [ -d "$directory/conda-meta" ]; then return; fi
        case $directory in */envs) directory=${directory%/*} ;; esac # the environment around it
    done
    return 1
}

is_managed() {
    local path=$1 target count=0
    while ! is_below_managed "$path" && ! is_below_managed "$(cd -P -- "${path%/*}" 2>/dev/null && pwd)/"; do
        if [ ! -L "$path" ] || ((++count == 40)); then return 1; fi
        target=$(readlink -- "$path")
        if [ "${target:0:1}" != / ]; then target=${path%/*}/$target; fi
        path=$target
    done
    say "${1%/.} is not used, because it is in an environment that snapper has packed or restored"
}

use_own_path() {
    local rest=$own_path: directory path=
    while [ -n "$rest" ]; do
        directory=${rest%%:*}
        rest=${rest#*:}
        if ! is_managed "$directory/."; then path=$path:$directory; fi
    done
    PATH=${path#:}
}

find_python() {
    local name check='import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))'
    for name in python3 python3.14 python3.13 python3.12 python3.11 python3.10 /opt/conda/bin/python3 \
        "$HOME"/anaconda3/bin/python3 "$HOME"/anaconda3/envs/python3/bin/python3; do
        python=$(command -v "$name") || continue
        if is_managed "$python"; then continue; fi
        if limited 10 "$python" -I -c "$check" >/dev/null 2>&1; then return; fi
    done
    return 1
}

is_installed() {
    ! is_managed "$venv/bin/python" && limited 30 "$venv/bin/python" -I -c 'import snapper' >/dev/null 2>&1
}

install() {
    local python source=(--find-links="$wheelhouse" --no-index)
    if ! find_python; then
        say "cannot install snapper: no Python 3.10 or later was found outside of such environments"
        return 1
    fi
    say "installing $requirement with $python"
    case $wheelhouse in
    '') source=(--disable-pip-version-check) ;;
    s3://*)
        limited "$budget" aws s3 sync --only-show-errors "$wheelhouse" "$base/wheelhouse" || return
        source=(--find-links="$base/wheelhouse" --no-index)
        ;;
    esac
    limited "$budget" "$python" -m venv --clear "$venv" &&
        limited "$budget" "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
            --no-cache-dir "${source[@]}" -- "$requirement" &&
        say "snapper is installed"
}

link() {
    local bin=$HOME/.local/bin
    if [ "$EUID" = 0 ]; then bin=/usr/local/bin; fi
    mkdir -p "$bin"
    case $(readlink "$bin/snapper" || echo none) in
    none) [ -e "$bin/snapper" ] || ln -s "$venv/bin/snapper" "$bin/snapper" ;;
    */.snapper/venv/bin/snapper) ln -sfn "$venv/bin/snapper" "$bin/snapper" ;;
    esac
}

restore() {
    say "on-start started"
    is_installed
    case $? in
    0) ;;
    124 | 137)
        say "nothing is restored, because this did not start in time: $venv/bin/python"
        return
        ;;
    *)
        if ! install; then
            say "snapper could not be installed, so nothing is restored"
            say "install it in $venv, or make this script with --wheelhouse"
            return
        fi
        ;;
    esac
    link
    # Jupyter need not be restarted: it looks for kernels whenever it shows its menu.
    limited "$budget" "$venv/bin/snapper" restore --all --budget "$(left 10)"
    say "on-start finished with exit code $? after $SECONDS s"
}

write_log() {
    local log=$base/log/on-start.log
    mkdir -p "$base/log"
    if [ -f "$log" ] && [ "$(wc -c <"$log")" -gt 1000000 ]; then mv -f "$log" "$log.1"; fi
    (ulimit -f 4000 && exec dd bs=64k of="$log" oflag=append,nofollow,nonblock conv=notrunc) 2>/dev/null
    cat >/dev/null
}

work() {
    export HOME
    choose_base
    venv=$base/venv
    use_own_path
    restore > >(tee >(write_log)) 2>&1 # does not wait for processes that keep the output open
}

# --- start

# The first directory in the user's PATH may be one of an environment that came from a store.
own_path=${PATH:-/usr/bin}:/usr/local/bin:/usr/bin:/bin
PATH=/usr/sbin:/usr/bin:/sbin:/bin
environment=()
if [ "$EUID" = 0 ]; then
    own_path=/usr/local/bin:/usr/bin:/bin:/opt/conda/bin
    environment=(-i)
    # What says where the AWS role and the network are, without keys and tokens.
    for name in AWS_{REGION,DEFAULT_REGION,ROLE_ARN,WEB_IDENTITY_TOKEN_FILE,STS_REGIONAL_ENDPOINTS,CA_BUNDLE} \
        AWS_CONTAINER_{CREDENTIALS_FULL_URI,CREDENTIALS_RELATIVE_URI,AUTHORIZATION_TOKEN_FILE} \
        AWS_ENDPOINT_URL{,_S3,_STS} SSL_CERT_{FILE,DIR} REQUESTS_CA_BUNDLE \
        {HTTP,HTTPS,NO}_PROXY {http,https,no}_proxy; do
        case ${!name:-} in
        '') ;;
        *@*) say "$name is not passed on to $user, because it may contain a password" ;;
        *) settings+=("$name=${!name}") ;;
        esac
    done
fi
cd /
if [ "$EUID" != 0 ]; then user=$EUID; fi
mode=--wait # of setsid
if ! find_account; then
    say "user $user, or the home directory, does not exist yet: this continues in the background"
    mode=--fork
    exec >/dev/null 2>&1
fi
{
    env "${environment[@]}" PATH="$PATH" setsid $mode bash -c \
        "eval \"\$(cat)\"; exec </dev/null; supervise; kill -KILL 0" 2>&1 < <(
        declare -p user ids mode requirement wheelhouse budget own_path settings work_functions
        declare -f find_account stop_after show supervise "${work_functions[@]}"
        echo "SECONDS=$SECONDS"
    )
} 2>/dev/null # without the shell's message that a process was killed
if ((SECONDS >= budget)); then say "on-start was stopped: it reached its time limit of $budget s"; fi
exit 0
)
