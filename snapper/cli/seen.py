"""What commands say where a store cannot be reached, and what this machine has kept of it stands for it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from snapper.cli import output
from snapper.cli.text import age
from snapper.errors import ExitCode
from snapper.process.identity import format_utc

if TYPE_CHECKING:
    from snapper.store import Store


@dataclass(frozen=True)
class Seen:
    """When what stands for the store was last seen, in seconds since 1970; None where the store itself was asked."""

    store: str
    last: float | None

    @property
    def fields(self) -> dict[str, Any]:
        """What a JSON document says of it."""
        return {} if self.last is None else {"store_last_seen": format_utc(self.last)}

    @property
    def code(self) -> ExitCode:
        return ExitCode.DONE if self.last is None else ExitCode.PARTIAL

    def tell(self) -> None:
        if self.last is not None:
            output.warn(
                f"the store {self.store} cannot be reached: this is as it was at {format_utc(self.last)} "
                f"({age(time.time() - self.last)} ago), from the cache"
            )


#: Nothing stands for a store.
REACHED = Seen("", None)


def seen(store: Store, names: Iterable[str] = ()) -> Seen:
    """When the entries of these environments were last seen, or the store as a whole if there are none."""
    from snapper.format.layout import Layout
    from snapper.store import last_seen

    return Seen(store.url, last_seen(store, map(Layout.ref, names)))
