"""Save built conda environments in a directory or on S3, and restore them with their Jupyter kernels.

The public API is what `__all__` lists, documented in docs/api.md; everything else may change. Names are imported when
they are first used, so that `import snapper` is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from snapper.version import __version__

if TYPE_CHECKING:
    from snapper.api.comparing import diff, status, verify_environment
    from snapper.api.histories import read_snapshot, remove, snapshots, tag, untag
    from snapper.api.importing import import_archive
    from snapper.api.maintenance import prune, repair, verify
    from snapper.api.packing import pack
    from snapper.api.restoring import restore, restore_all, rollback
    from snapper.api.sharing import copy, export
    from snapper.api.stores import environments, open_store
    from snapper.commands.copy import CopyFailure, CopyResult
    from snapper.commands.diff import FileChanges, SnapshotDiff
    from snapper.commands.export import ExportResult
    from snapper.commands.log import LogEntry
    from snapper.commands.pack_result import PackResult
    from snapper.commands.prune import PruneResult
    from snapper.commands.restore import RestoreFailure, RestoreResult
    from snapper.commands.retention import RetentionPolicy
    from snapper.commands.rollback import Rollback, RollbackResult
    from snapper.commands.status import EnvironmentStatus
    from snapper.commands.tag import TagResult
    from snapper.commands.verify import EnvironmentCheck, LayerSample, RepairResult, VerifyResult
    from snapper.errors import SnapperError
    from snapper.format.model import Snapshot
    from snapper.process.progress import Progress
    from snapper.repository.refs import StoredEnvironment
    from snapper.store import Store

#: The modules that define the public names.
_MODULES = {
    "snapper.api.comparing": (
        "diff",
        "status",
        "verify_environment",
    ),
    "snapper.api.histories": (
        "read_snapshot",
        "remove",
        "snapshots",
        "tag",
        "untag",
    ),
    "snapper.api.importing": ("import_archive",),
    "snapper.api.maintenance": (
        "prune",
        "repair",
        "verify",
    ),
    "snapper.api.packing": ("pack",),
    "snapper.api.restoring": (
        "restore",
        "restore_all",
        "rollback",
    ),
    "snapper.api.sharing": (
        "copy",
        "export",
    ),
    "snapper.api.stores": (
        "environments",
        "open_store",
    ),
    "snapper.commands.copy": ("CopyFailure", "CopyResult"),
    "snapper.commands.diff": ("FileChanges", "SnapshotDiff"),
    "snapper.commands.export": ("ExportResult",),
    "snapper.commands.log": ("LogEntry",),
    "snapper.commands.pack_result": ("PackResult",),
    "snapper.commands.prune": ("PruneResult",),
    "snapper.commands.retention": ("RetentionPolicy",),
    "snapper.commands.restore": ("RestoreFailure", "RestoreResult"),
    "snapper.commands.rollback": ("Rollback", "RollbackResult"),
    "snapper.commands.status": ("EnvironmentStatus",),
    "snapper.commands.tag": ("TagResult",),
    "snapper.commands.verify": ("EnvironmentCheck", "LayerSample", "RepairResult", "VerifyResult"),
    "snapper.errors": ("SnapperError",),
    "snapper.format.model": ("Snapshot",),
    "snapper.process.progress": ("Progress",),
    "snapper.repository.refs": ("StoredEnvironment",),
    "snapper.store": ("Store",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "CopyFailure",
    "CopyResult",
    "EnvironmentCheck",
    "EnvironmentStatus",
    "ExportResult",
    "FileChanges",
    "LayerSample",
    "LogEntry",
    "PackResult",
    "Progress",
    "PruneResult",
    "RepairResult",
    "RestoreFailure",
    "RestoreResult",
    "RetentionPolicy",
    "Rollback",
    "RollbackResult",
    "SnapperError",
    "Snapshot",
    "SnapshotDiff",
    "Store",
    "StoredEnvironment",
    "TagResult",
    "VerifyResult",
    "__version__",
    "copy",
    "diff",
    "environments",
    "export",
    "import_archive",
    "open_store",
    "pack",
    "prune",
    "read_snapshot",
    "remove",
    "repair",
    "restore",
    "restore_all",
    "rollback",
    "snapshots",
    "status",
    "tag",
    "untag",
    "verify",
    "verify_environment",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
