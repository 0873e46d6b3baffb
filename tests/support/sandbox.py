"""A store and a home in a directory, with an environment `work` whose snapshots are written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from snapper.commands.restore import RestoreFailure, RestoreResult, restore
from snapper.environment.platforms import this_platform
from snapper.errors import SnapperError
from snapper.format import canonical, manifest
from snapper.format.layout import Layout
from snapper.format.model import FORMAT, HistoryEntry, Layer, Ref, Snapshot
from snapper.repository.objects import write_pages
from snapper.repository.snapshots import write_snapshot
from snapper.repository.specs import SnapshotSpec
from snapper.restoring.requests import RestoreRequest
from snapper.store import Store, open_store


def make_sandbox(top: Path) -> None:
    """Make a store, a home with an environment `work` to be replaced, and files outside that must not change."""
    work = work_prefix(top)
    (work / "conda-meta").mkdir(parents=True)
    (work / "kept").write_text("as it was")
    (top / "outside").mkdir()
    (top / "outside" / "secret").write_text("secret")
    (top / "outside" / "victim").write_text("untouched")
    open_store(str(top / "store"), create=True)


def work_prefix(sandbox: Path) -> Path:
    """Return the prefix of the environment `work`."""
    return sandbox / "home" / "envs" / "work"


def publish_layers(store: Store, layers: Sequence[tuple[Layer, bytes]], mode: int = 0o755) -> None:
    """Write the layers and a snapshot of them, and make it the current one of `work`."""
    for layer, data in layers:
        store.put(Layout.layer(layer.digest), data)
    snapshot = Snapshot(
        FORMAT, this_platform(), mode, (), (), (), (), (), tuple(layer for layer, _ in layers)
    )
    point_ref(store, put_snapshot(store, snapshot))


def put_snapshot(store: Store, snapshot: Snapshot) -> str:
    """Write the snapshot, whose layers need not exist, and return its id."""
    encoded = manifest.encode(snapshot)
    write_pages(store, encoded.pages)
    write_snapshot(store, encoded)
    return encoded.digest


def point_ref(store: Store, digest: str) -> None:
    """Make the snapshot the current one of `work`, and the only one in its history."""
    entry = HistoryEntry(
        digest, "pack", "2026-01-01T00:00:00Z", "ada", "host", "/nowhere/work", "", 0, 0, 0, 0
    )
    try:
        version = store.read_versioned(Layout.ref("work"))[1]
    except SnapperError:
        version = None
    ref = Ref(FORMAT, "work", digest, (entry,), {})
    store.replace(Layout.ref("work"), canonical.encode(ref), version)


def restore_work(
    sandbox: Path, *, jobs: int = 2, prefix: Path | None = None
) -> RestoreResult | RestoreFailure:
    """Restore `work` from the sandbox's store, by default over the environment in its home."""
    store = open_store(str(sandbox / "store"))
    request = RestoreRequest(SnapshotSpec("work"), prefix=prefix or work_prefix(sandbox), replace=True)
    (outcome,) = restore(store, [request], jobs=jobs)
    return outcome


def restore_layers(
    sandbox: Path, layers: Sequence[tuple[Layer, bytes]], *, mode: int = 0o755, **options: Any
) -> Path:
    """Publish and restore the layers, which must succeed, and return the prefix."""
    publish_layers(open_store(str(sandbox / "store")), layers, mode)
    outcome = restore_work(sandbox, **options)
    assert isinstance(outcome, RestoreResult), outcome
    return Path(outcome.prefix)
