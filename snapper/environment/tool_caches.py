"""Files that tools write into an environment when they run, and write again if they are missing: no data of the user.

A pattern is compared with the path of a file in the environment, with that of each directory above it, and with the
ends of these that begin after a slash. `*` and `?` also match slashes.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Container, Iterable
from functools import lru_cache

from snapper.format import bytecode
from snapper.settings.resolution import explain_setting

_PATTERNS = (
    "__pycache__/*.nb[ic]",  # numba
    ".ipynb_checkpoints",
    ".pytest_cache",
    ".mypy_cache",
    ".ruff_cache",
    "var/cache/fontconfig",
    "matplotlib/fontlist-*.json",
    "mpl-data/fontlist-*.json",
    "lib/R/doc/html/packages.html",  # R: the list of installed packages, and compiled code of packages
    "lib/R/library/*/R/*.rd[bx]",
    "julia/compiled/v[0-9]*",  # Julia: compiled packages, and when which of them were used
    "julia/logs/*_usage.toml",
)

#: The ends of the names of those without which programs do not work, so that a missing one counts.
NEEDED = (".rdb", ".rdx")


def cache_check(known: Container[str]) -> Callable[[str], bool]:
    """Return a function that tells whether the file at a path is a cache of a tool, among files with `known` paths.

    The paths of directories end in `/`. Compiled modules of Python are caches if their source is known. Raise
    InvalidSettings.
    """
    patterns = explain_setting("caches").value
    matches = _matcher((*_PATTERNS, *(patterns if isinstance(patterns, tuple) else ()))).match

    def is_cache(path: str) -> bool:
        source = bytecode.probable_source_of(path)
        if source is None and path.endswith(".pyc"):
            source = path[:-1]  # as compileall writes them with -b
        return source in known or matches(path) is not None or path.endswith("__pycache__/")

    return is_cache


@lru_cache(maxsize=1)
def _matcher(patterns: Iterable[str]) -> re.Pattern[str]:
    # The last two characters are the end of the text, which is \z from Python 3.14 on.
    alternatives = "|".join(fnmatch.translate(pattern.strip("/"))[:-2] for pattern in patterns)
    return re.compile(rf"(?:.*/)?(?:{alternatives})(?:/.*)?\Z", re.S)
