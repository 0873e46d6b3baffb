"""What packing an environment, or importing one, has resulted in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from snapper.environment.dependency import Dependency
from snapper.environment.tree import SkippedPath
from snapper.format.model import HistoryEntry, Snapshot

if TYPE_CHECKING:
    from snapper.kernels.carried import CarriedKernel
    from snapper.kernels.updates import KernelUpdates


@dataclass(frozen=True)
class PackResult:
    """The snapshot of a pack, and what it added to the store; sizes in bytes.

    `prefix` is empty for an imported environment, and `owner` unless the environment belongs to another user. `skipped`
    are paths that were not packed. `unrelocated` are those with a prefix that cannot be relocated; the first
    `own_unrelocated` of them are in no conda package. `harmless_unrelocated` are further ones, caches and static
    libraries, in which that does no harm. `outside` are symlinks to absolute paths outside of the environment.
    `dependencies` are what else the environment uses that is outside of it and not packed. `kernels` are kernelspecs
    that start the environment and were copied into it. `kernel_updates` says which of its kernels were registered
    again, because it was packed or restored before. `clamped` are files with times that a snapshot cannot hold; it
    has the nearest ones. `included` are the sources of editable installs that were packed too. `credentials` are files
    that contain some; they are not looked for if the environment is unchanged. `first` says whether the store had no
    environments before. `replaced` is the history entry that was current before, if this environment was not packed or
    restored from it. `newer` is the current snapshot if the environment is an earlier one, unchanged, which is then not
    published again. `without_effect` says which options had no effect, and why.
    """

    environment: str
    snapshot_id: str
    snapshot: Snapshot
    prefix: str
    owner: str
    store: str
    unchanged: bool
    added_layers: int
    added_size: int
    skipped: tuple[SkippedPath, ...]
    unrelocated: tuple[str, ...]
    own_unrelocated: int
    harmless_unrelocated: tuple[str, ...]
    outside: tuple[str, ...]
    found_prefixes: tuple[str, ...]
    dependencies: tuple[Dependency, ...]
    kernels: tuple[CarriedKernel, ...]
    kernel_updates: KernelUpdates
    clamped: tuple[str, ...]
    included: tuple[str, ...]
    credentials: tuple[str, ...]
    first: bool
    replaced: HistoryEntry | None
    newer: str
    without_effect: tuple[str, ...]
    seconds: float
