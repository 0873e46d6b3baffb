"""Say how old cached data is when the store cannot be reached."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from snapper.cli.render import output
from snapper.cli.render.text import age, moment
from snapper.errors import ExitCode
from snapper.process.identity import format_utc

if TYPE_CHECKING:
    from snapper.store import Store


@dataclass(frozen=True)
class Staleness:
    """Since when the cached data of an offline store may be stale, as a Unix time; None if the store is online."""

    store: str
    since: float | None

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of a JSON document that say so; none if the store is online."""
        return {} if self.since is None else {"store_last_seen": format_utc(self.since)}

    @property
    def code(self) -> ExitCode:
        return ExitCode.DONE if self.since is None else ExitCode.PARTIAL

    def warn(self) -> None:
        if self.since is not None:
            output.warn(
                f"the store {self.store} cannot be reached; using its cache of {moment(format_utc(self.since))} UTC "
                f"({age(time.time() - self.since)} ago)"
            )


#: The store is online.
FRESH = Staleness("", None)


def read_staleness(store: Store, names: Iterable[str] = ()) -> Staleness:
    """Return how old the cached entries of these environments are, or of the whole store if none are named."""
    from snapper.format.layout import Layout

    return Staleness(store.url, store.stale_since(map(Layout.ref, names)))
