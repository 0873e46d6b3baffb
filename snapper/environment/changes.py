"""Compare the packages of two environments, or of one environment at two times."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from snapper.format.model import Package, PipPackage

Manager = Literal["conda", "pip"]


@dataclass(frozen=True)
class PackageChange:
    """A package with its version before and after, "" if it is not installed.

    If only the build differs, it is part of the versions, as in `1.0=py311_0`.
    """

    name: str
    manager: Manager
    before: str
    after: str


@dataclass(frozen=True)
class PackageChanges:
    """Packages by what happened to them, each sorted by name."""

    added: tuple[PackageChange, ...]
    removed: tuple[PackageChange, ...]
    changed: tuple[PackageChange, ...]

    def __len__(self) -> int:
        return len(self.added) + len(self.removed) + len(self.changed)


@dataclass(frozen=True)
class PackageSet:
    """The packages of an environment: those that conda installed, and those that only pip knows."""

    conda: tuple[Package, ...]
    pip: tuple[PipPackage, ...]


def diff_packages(before: PackageSet, after: PackageSet) -> PackageChanges:
    """Return which packages were added, removed, or changed."""
    all_changes = [
        *_diff("conda", _conda_versions(before.conda), _conda_versions(after.conda)),
        *_diff("pip", _pip_versions(before.pip), _pip_versions(after.pip)),
    ]
    all_changes.sort(key=lambda change: (change.name.lower(), change.manager))
    return PackageChanges(
        added=tuple(change for change in all_changes if not change.before),
        removed=tuple(change for change in all_changes if not change.after),
        changed=tuple(change for change in all_changes if change.before and change.after),
    )


class _Version(NamedTuple):
    """A package's name as it is spelled, its version, and its build."""

    name: str
    version: str
    build: str


_ABSENT = _Version("", "", "")


def _diff(
    manager: Manager, before: dict[str, _Version], after: dict[str, _Version]
) -> Iterable[PackageChange]:
    for key in before.keys() | after.keys():
        old, new = before.get(key, _ABSENT), after.get(key, _ABSENT)
        name = new.name or old.name
        if old.version != new.version:
            yield PackageChange(name, manager, old.version, new.version)
        elif old.build != new.build:
            yield PackageChange(name, manager, f"{old.version}={old.build}", f"{new.version}={new.build}")


def _conda_versions(packages: Iterable[Package]) -> dict[str, _Version]:
    return {
        package.name: _Version(package.name, package.version or "?", package.build) for package in packages
    }


def _pip_versions(packages: Iterable[PipPackage]) -> dict[str, _Version]:
    return {
        normalize_name(package.name): _Version(package.name, package.version or "?", "")
        for package in packages
    }


def normalize_name(name: str) -> str:
    """Return the name of a Python distribution as the packaging specification normalizes it."""
    return re.sub(r"[-_.]+", "-", name).lower()
