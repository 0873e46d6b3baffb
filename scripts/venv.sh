# shellcheck shell=bash
# Functions to find interpreters and make virtual environments, sourced by the scripts in this directory.

SUPPORTED=(3.14 3.13 3.12 3.11 3.10)

# Print the path of the interpreter to use: $PYTHON, or the first supported one on PATH.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 "${SUPPORTED[@]/#/python}"}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    echo "no Python 3.10 or later was found; set PYTHON=/path/to/python" >&2
    return 1
}

# installed_python VERSION: print the path of an interpreter of this minor version, from PATH or pyenv.
installed_python() {
    local candidate
    for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
        # Running it is the only way to know: pyenv's shims exist for versions that are not active.
        if "$candidate" -c 'import sys; sys.exit("{}.{}".format(*sys.version_info) != sys.argv[1])' "$1" 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

# make_venv DIR REQUIREMENT [PIP-OPTION]: make a virtual environment and install the project into it. It is only made
# again when the project's requirements or the interpreter have changed.
make_venv() {
    local dir=$1 requirement=$2 option=${3:-} python stamp
    python=$(find_python)
    stamp="$("$python" -VV) $requirement $(cksum pyproject.toml)"
    if [ "$(cat "$dir/stamp" 2>/dev/null)" = "$stamp" ]; then
        return
    fi
    echo "Creating $dir with $("$python" -V)"
    "$python" -m venv --clear "$dir"
    "$dir/bin/python" -m pip install --quiet --disable-pip-version-check ${option:+"$option"} "$requirement"
    echo "$stamp" >"$dir/stamp"
}
