# shellcheck shell=bash
# Sourced by the scripts beside it.

# find_python: prints a Python that snapper runs on: $PYTHON, or the first of 3.10 or later on PATH.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python3.10}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    echo "Python 3.10 or later is needed; none was found. Name one: PYTHON=/path/to/python $0" >&2
    return 1
}

# make_venv DIR REQUIREMENT [PIP-OPTION]: a virtual environment with the project and what it asks for,
# installed again only when the project's requirements or the interpreter have changed.
make_venv() {
    local dir=$1 requirement=$2 option=${3:-} python stamp
    python=$(find_python)
    stamp="$("$python" -VV) $requirement $(cksum pyproject.toml)"
    if [ "$(cat "$dir/stamp" 2>/dev/null)" = "$stamp" ]; then
        return
    fi
    echo "Making $dir with $("$python" -V)"
    "$python" -m venv --clear "$dir"
    "$dir/bin/python" -m pip install --quiet --disable-pip-version-check ${option:+"$option"} "$requirement"
    echo "$stamp" >"$dir/stamp"
}
