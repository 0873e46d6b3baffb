"""Symlinks that lead out of an environment."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from snapper.environment.tree import File, Tree


@dataclass(frozen=True)
class FollowedLinks:
    """A tree in which links into a package cache are the files that these lead to.

    `targets` are their absolute paths, by the path in the environment. `unproved` are links of packages that lead out
    of the environment to something else, or nothing.
    """

    tree: Tree
    targets: Mapping[str, str] = field(default_factory=dict)
    unproved: tuple[File, ...] = ()


def leads_outside(link: File, prefixes: Iterable[str]) -> bool:
    """Return whether a symlink leads out of the environment, whatever of the prefixes its path is.

    A link on the way is not followed.
    """
    if link.target.startswith("/"):
        return not any(f"{link.target}/".startswith(f"{prefix}/") for prefix in prefixes)
    target = posixpath.normpath(posixpath.join(posixpath.dirname(link.path), link.target))
    return target == ".." or target.startswith("../")
