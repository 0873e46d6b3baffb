"""Which environments of a store are restored, and in which order."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from snapper.errors import NotInStore, empty_value

logger = logging.getLogger(__name__)

#: What distinguishes a pattern from a name.
_PATTERN = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class NamePatterns:
    """Shell patterns of environment names: `only` those are selected (all if empty), without those of `except_`."""

    only: tuple[str, ...] = ()
    except_: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if "" in (*self.only, *self.except_):
            raise empty_value("a pattern of environment names")

    def select(self, names: Sequence[str]) -> list[str]:
        """Return the names that are selected."""
        return [
            name
            for name in names
            if (not self.only or _matches(name, self.only)) and not _matches(name, self.except_)
        ]

    def select_from_store(self, names: Sequence[str], store: str) -> list[str]:
        """Return the names that are selected; raise NotInStore if the store has environments but none of them is.

        Report each name without wildcards that the store does not have: it has no effect.
        """
        selected = self.select(names)
        if names and not selected:
            patterns = "; ".join(
                f"{setting}: {', '.join(map(repr, values))}"
                for setting, values in (("only", self.only), ("except", self.except_))
                if values
            )
            summary = f"no environment in the store {store} is selected ({patterns})"
            raise NotInStore("the selection", store, tuple(names), summary=summary)
        for name in (*self.only, *self.except_):
            if names and not _PATTERN.search(name) and name not in names:
                logger.warning(
                    "the selection names %s, but the store %s has no environment of that name", name, store
                )
        return selected


def rank_names(names: Sequence[str], first: Sequence[str], used: Sequence[str]) -> dict[str, int]:
    """Return the rank of each name, lowest first.

    Names that match patterns of `first` come in the order of the patterns, then those that are `used`, in that order.
    All others share the last rank.
    """
    order = list(dict.fromkeys(name for pattern in first for name in names if fnmatchcase(name, pattern)))
    order += [name for name in used if name in names and name not in order]
    return {name: order.index(name) if name in order else len(order) for name in names}


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
