"""The variables that an environment sets when it is activated."""

from __future__ import annotations

import json
import logging
from typing import Any

from snapper.fs.beneath import is_possible_path
from snapper.fs.pinned import Top
from snapper.fs.small_files import list_beneath, read_beneath
from snapper.process.shell import is_variable_name

logger = logging.getLogger(__name__)

#: Where an environment keeps variables: a directory of packages' files, and the file of `conda env config vars`.
_ENV_VARS = "etc/conda/env_vars.d"
_STATE = "conda-meta/state"

#: The most files in that directory, and the most bytes in all files with variables. No system passes on more.
MOST_FILES = 256
MOST_BYTES = 1 << 20

#: The value in `conda-meta/state` of a variable that is not to be set.
_UNSET = "***unset***"


def environment_variables(prefix: Top) -> dict[str, str]:
    """Return the variables that packages (etc/conda/env_vars.d) and `conda env config vars` (conda-meta/state) set.

    Files that cannot be read, or are not as expected, are ignored with a warning.
    """
    variables: dict[str, Any] = {}
    remaining = MOST_BYTES
    for path in (*_package_variables(prefix), _STATE):
        data = _read(prefix, path, remaining)
        remaining -= len(data)
        fields = _parse_object(f"{prefix}/{path}", data)
        values = fields.get("env_vars") if path == _STATE else fields
        variables.update(values if isinstance(values, dict) else {})
    return {name: value for name, value in variables.items() if is_variable_name(name) and _is_value(value)}


def _is_value(value: object) -> bool:
    """Return whether a variable can have the value, and is to be set: some text from JSON cannot be in variables."""
    return isinstance(value, str) and value != _UNSET and is_possible_path(value)


def _package_variables(prefix: Top) -> list[str]:
    """Return the paths of the files with variables of packages, sorted."""
    try:
        names = list_beneath(prefix, _ENV_VARS, MOST_FILES)
    except FileNotFoundError:
        return []
    except OSError as error:
        logger.warning("ignored %s: %s", error.filename, error.strerror)
        return []
    return [f"{_ENV_VARS}/{name}" for name in names if name.endswith(".json") and not name.startswith(".")]


def _read(prefix: Top, path: str, limit: int) -> bytes:
    """Return the contents of a file of the environment, nothing if it cannot be read."""
    try:
        return read_beneath(prefix, path, limit)
    except FileNotFoundError:
        return b""
    except OSError as error:
        logger.warning("ignored %s: %s", error.filename, error.strerror)
        return b""


def _parse_object(file: str, data: bytes) -> dict[str, Any]:
    """Return the JSON object in the data of a file, an empty one if there is none."""
    try:
        fields = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        logger.warning("ignored %s: it is not valid JSON", file)
        return {}
    return fields if isinstance(fields, dict) else {}
