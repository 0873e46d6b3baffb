"""Where the symbolic links of an archive lead, before any of them exists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: The longest path of a member, and the longest target of a link, in bytes. Nothing exists at longer ones.
LONGEST_PATH = 4095


class LeadsOutside(Exception):
    """A link leads out of the environment."""


@dataclass
class _Walk:
    """A link that is being followed: the place reached so far, and the parts of its target to come, the next last."""

    link: str
    place: str
    pending: list[str]


class Links:
    """The targets of links by path. The place of each link is found once, however many lead through it.

    `prefix` is that of the archived environment: absolute targets below it are inside.
    """

    def __init__(self, targets: Mapping[str, str], prefix: str) -> None:
        self._targets = targets
        self._prefix = prefix
        self._places: dict[str, str | None] = {}

    def follow(self, link: str) -> str | None:
        """Return the place that a link leads to; None if there cannot be anything, as in a circle of links.

        Raise LeadsOutside.
        """
        walks = [] if link in self._places else [self._begin(link)]
        while walks:
            needed = self._advance(walks[-1])
            if needed is None:
                walks.pop()
            else:
                walks.append(self._begin(needed))
        return self._places[link]

    def _begin(self, link: str) -> _Walk:
        """Start to follow a link, which leads nowhere if it is needed for that."""
        self._places[link] = None
        target = self._targets[link]
        if not target.startswith("/"):
            return _Walk(link, link.rpartition("/")[0], target.split("/")[::-1])
        if not f"{target}/".startswith(f"{self._prefix}/"):
            raise LeadsOutside
        return _Walk(link, "", target[len(self._prefix) :].split("/")[::-1])

    def _advance(self, walk: _Walk) -> str | None:
        """Go on to the place that the link leads to, or return another link that has to be followed before."""
        while walk.pending and len(walk.place) <= LONGEST_PATH:
            part = walk.pending[-1]
            place = f"{walk.place}/{part}" if walk.place else part
            if part == "..":
                if not walk.place:
                    raise LeadsOutside
                place = walk.place.rpartition("/")[0]
            elif part in ("", "."):
                place = walk.place
            elif place in self._targets:
                if place not in self._places:
                    return place
                followed = self._places[place]
                if followed is None:
                    return None
                place = followed
            walk.place = place
            walk.pending.pop()
        self._places[walk.link] = walk.place if len(walk.place) <= LONGEST_PATH else None
        return None
