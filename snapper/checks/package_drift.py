"""Find the packages that were installed, removed or updated in an environment since its last snapshot."""

from __future__ import annotations

import posixpath
from typing import NamedTuple

from snapper.environment import conda, pip
from snapper.environment.changes import PackageChanges, PackageSet, diff_packages, normalize_name
from snapper.environment.drift import Drift
from snapper.environment.installed import InstalledEnvironment
from snapper.format.model import Snapshot


class _ChangedFiles(NamedTuple):
    """The paths of changed files that describe packages: conda's records, and metadata of Python distributions."""

    records: list[str]
    metadata: list[str]


def find_package_changes(installed: InstalledEnvironment, drift: Drift) -> PackageChanges:
    """Compare the packages in the environment with its last snapshot; `drift` is what has changed since.

    Only the records and metadata that have changed are read. Raise NotAnEnvironment, PermissionDenied,
    FileOperationFailed.
    """
    snapshot = installed.previous.snapshot if installed.previous else None
    files = _ChangedFiles(
        [path for path in drift.paths if conda.is_record_path(path)],
        [path for path in drift.paths if pip.is_metadata_path(path)],
    )
    if snapshot is None or not (files.records or files.metadata):
        return PackageChanges((), (), ())
    if _is_ambiguous(files, drift, snapshot):
        from snapper.packing.plan import installed_packages  # noqa: PLC0415 - rarely needed

        after = installed_packages(installed)
    else:
        after = _updated_packages(installed, drift, files, snapshot)
    return diff_packages(PackageSet(snapshot.packages, snapshot.pip), after)


def _is_ambiguous(files: _ChangedFiles, drift: Drift, snapshot: Snapshot) -> bool:
    """Return whether the paths do not tell which packages have changed, so that all records must be read.

    That is so if a record is not named after its package, or if metadata was changed in place, as its owner, conda or
    pip, may have changed too.
    """
    known = {_record_path(package.dist) for package in snapshot.packages}
    changed = {*drift.changed, *drift.modified}
    return bool(set(files.records) - set(drift.added) - known or set(files.metadata) & changed)


def _updated_packages(
    installed: InstalledEnvironment, drift: Drift, files: _ChangedFiles, snapshot: Snapshot
) -> PackageSet:
    """Return the packages of the snapshot, updated with those that the changed files describe."""
    records = [
        conda.read_record(installed.prefix, path) for path in files.records if path not in drift.removed
    ]
    owned_by_conda = {entry.path for record in records for entry in record.entries}
    pip_metadata = {
        file.path: file
        for file in installed.tree.files
        if file.path in files.metadata and file.path not in owned_by_conda
    }
    changed = {_distribution_name(path) for path in files.metadata}
    return PackageSet(
        (
            *(package for package in snapshot.packages if _record_path(package.dist) not in files.records),
            *(record.package for record in records),
        ),
        (
            *(package for package in snapshot.pip if normalize_name(package.name) not in changed),
            *(distribution.package for distribution in pip.distributions(installed.directory, pip_metadata)),
        ),
    )


def _record_path(dist: str) -> str:
    return f"{conda.META}/{dist}.json"


def _distribution_name(metadata: str) -> str:
    """Return the normalized name of a Python distribution from the path of its metadata."""
    directory = posixpath.basename(metadata.removesuffix("/METADATA"))
    return normalize_name(directory.partition("-")[0])
