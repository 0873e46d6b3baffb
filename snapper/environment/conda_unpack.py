"""What conda-pack adds to an archive: scripts that activate the environment, and `conda-unpack`, which relocates it."""

from __future__ import annotations

import ast
import os
from typing import NamedTuple

from snapper.format.constraints import is_placeholder
from snapper.format.model import Mode
from snapper.fs.pinned import Top
from snapper.fs.small_files import read_beneath

ACTIVATION_SCRIPTS = ("bin/activate", "bin/activate.fish", "bin/deactivate")
CONDA_UNPACK = "bin/conda-unpack"
ADDED_FILES = (*ACTIVATION_SCRIPTS, CONDA_UNPACK, "bin/conda_unpack_progress.py")

_MAX_SCRIPT_SIZE = 32 * 1024 * 1024
_MAX_LINE_LENGTH = 64 * 1024
_BEGIN, _END = b"\n_prefix_records = [", b"\n]\n"


class PrefixRecord(NamedTuple):
    """A file in which conda-unpack replaces the placeholder by the prefix."""

    path: str
    placeholder: str
    mode: Mode

    @property
    def max_prefix_length(self) -> int:
        """The longest prefix that fits in a binary, in bytes."""
        return len(self.placeholder.encode())


def read_prefix_records(top: Top) -> tuple[PrefixRecord, ...] | None:
    """Return the `_prefix_records` of the `bin/conda-unpack` below `top`, which is not executed; None without one.

    Raise ValueError if they do not have the form that conda-pack writes.
    """
    try:
        script = read_beneath(top, CONDA_UNPACK, _MAX_SCRIPT_SIZE)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"{CONDA_UNPACK}: {error.strerror}") from None
    _, begin, rest = (b"\n" + script + b"\n").partition(_BEGIN)
    lines, end, _ = rest.partition(_END)
    if not (begin and end):
        raise ValueError(f"{CONDA_UNPACK} has no list of prefixes")
    return tuple(
        _parse_line(line) for line in lines.decode("utf-8", "surrogateescape").splitlines() if line.strip()
    )


def _parse_line(line: str) -> PrefixRecord:
    if len(line) > _MAX_LINE_LENGTH:
        raise ValueError(f"{CONDA_UNPACK} has a line that is too long")
    try:
        fields = ast.literal_eval(line.strip().rstrip(","))
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        fields = None
    if (
        not isinstance(fields, tuple)
        or len(fields) != 3
        or not all(isinstance(field, str) for field in fields)
        or fields[2] not in ("text", "binary")
        or not is_placeholder(fields[1])
    ):
        raise ValueError(f"{CONDA_UNPACK} has a line that conda-pack would not write")
    path = os.path.normpath(fields[0])
    if path.startswith("/") or path.split("/", 1)[0] == ".." or "\0" in path:
        raise ValueError(f"{CONDA_UNPACK} would change {path!r}, which is not in the environment")
    return PrefixRecord(path, fields[1], fields[2])
