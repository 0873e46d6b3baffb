"""Find credentials in what conda and pip write into an environment: whoever can read its snapshots can use them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from snapper.environment.conda import META, Record
from snapper.fs.small_files import read_beneath

#: Files that may contain URLs of channels and package indexes: conda's history of commands, and settings.
_SETTINGS = (f"{META}/history", ".condarc", "condarc", "pip.conf")

#: The variables that `conda env config vars set` has set.
_VARIABLES = f"{META}/state"

_WORDS = re.compile(rb"""[^\s'"]+""")
_SECRET_NAME = re.compile(r"token|secret|passw|credential|(api|access|auth|private)_?key", re.I)


def _has_credentials(word: bytes) -> bool:
    """Return whether a word contains a URL with a user or password, or with a token of a conda channel."""
    for url in re.split(rb"https?://", word)[1:]:
        host, _, path = url.partition(b"/")
        token = (b"/" + path).partition(b"/t/")[2]
        if b"@" in host or b"/" in token.lstrip(b"/"):
            return True
    return False


def find_credentials(prefix: Path, records: Iterable[Record]) -> tuple[str, ...]:
    """Return the paths of package records and settings in the environment that contain credentials, sorted.

    It is not known what other files contain.
    """
    paths = [record.file for record in records if record.has_credentials]
    for path in _SETTINGS:
        with suppress(OSError):
            if any(map(_has_credentials, _WORDS.findall(read_beneath(prefix, path)))):
                paths.append(path)
    with suppress(OSError, ValueError, RecursionError, KeyError, TypeError):
        if any(map(_SECRET_NAME.search, json.loads(read_beneath(prefix, _VARIABLES))["env_vars"])):
            paths.append(_VARIABLES)
    return tuple(sorted(paths))
