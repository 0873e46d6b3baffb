"""Which paths can be prefixes, and by which paths an environment can be meant."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from snapper.environment.conda import is_environment
from snapper.format.constraints import is_placeholder

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

#: Directories that hold more than environments.
_SYSTEM = re.compile(
    r"/(?:bin|boot|dev|etc|home|lib\w*|media|mnt|nix|opt|proc|root|run|sbin|srv|sys|tmp|usr|var)?"
    r"|/(?:usr/(?:local/)?)?s?bin/.*|/(?:etc|proc|sys)/.*"
    r"|/usr/(?:bin|lib\w*|local|local/bin|local/lib|sbin|share)|/var/(?:lib|tmp)"
    r"|/(?:Applications|Library|System|Users|Volumes)|/private(?:/tmp|/var)?"
)


@dataclass(frozen=True)
class ForeignPrefix:
    """The prefix in the files of an environment that is temporarily in another directory.

    `placeholders` maps paths to the placeholders that these files had before the prefix was written into them, and
    `kept` to the prefixes that they contained then.
    """

    prefix: str
    placeholders: Mapping[str, str]
    kept: Mapping[str, str] = field(default_factory=dict)


def spellings(prefix: Path) -> tuple[str, ...]:
    """Return the paths of a directory: as it was named, and without links."""
    return tuple(dict.fromkeys((os.path.abspath(prefix), os.path.realpath(prefix))))


def is_prefix(path: str) -> bool:
    """Return whether the text can be a prefix: a normal absolute path."""
    return (
        path.startswith("/")
        and len(path) > 1
        and not _CONTROL.search(path)
        and os.path.normpath(path) == path
    )


def is_acceptable(path: str, top: Path) -> bool:
    """Return whether a path from a file can be the prefix of the environment at `top`."""
    home, current = os.path.expanduser("~"), os.path.abspath(top)
    is_parent = f"{current}/".startswith(f"{path}/") and path != current
    return (
        is_placeholder(path)
        and not _SYSTEM.fullmatch(path)
        and not f"{home}/".startswith(f"{path}/")
        and not (is_parent and not is_environment(Path(path)))
    )
