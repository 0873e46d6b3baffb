"""What differs between the packages of two environments, or of one at two times."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from snapper.format.model import Package, PipPackage

Manager = Literal["conda", "pip"]


@dataclass(frozen=True)
class PackageChange:
    """A package with its version before and after; empty where it is not there. Builds stand behind versions
    that are equal, as `1.0=py311_0`.
    """

    name: str
    manager: Manager
    before: str
    after: str


@dataclass(frozen=True)
class PackageChanges:
    """Packages by what happened to them, each in the order of names."""

    added: tuple[PackageChange, ...]
    removed: tuple[PackageChange, ...]
    changed: tuple[PackageChange, ...]

    def __len__(self) -> int:
        return len(self.added) + len(self.removed) + len(self.changed)


@dataclass(frozen=True)
class PackageSet:
    """What is installed in an environment, by conda and by pip alone."""

    conda: tuple[Package, ...]
    pip: tuple[PipPackage, ...]


def diff_packages(before: PackageSet, after: PackageSet) -> PackageChanges:
    """What became of each package."""
    found = [
        *_between("conda", _builds(before.conda), _builds(after.conda)),
        *_between("pip", _versions(before.pip), _versions(after.pip)),
    ]
    found.sort(key=lambda change: (change.name.lower(), change.manager))
    return PackageChanges(
        added=tuple(change for change in found if not change.before),
        removed=tuple(change for change in found if not change.after),
        changed=tuple(change for change in found if change.before and change.after),
    )


def _between(
    manager: Manager, before: dict[str, tuple[str, str, str]], after: dict[str, tuple[str, str, str]]
) -> Iterable[PackageChange]:
    for key in before.keys() | after.keys():
        name, old, old_build = before.get(key, ("", "", ""))
        new_name, new, new_build = after.get(key, ("", "", ""))
        if (old, old_build) != (new, new_build):
            if old == new:
                old, new = f"{old}={old_build}", f"{new}={new_build}"
            yield PackageChange(new_name or name, manager, old, new)


def _builds(packages: Iterable[Package]) -> dict[str, tuple[str, str, str]]:
    """Name, version and build, by name."""
    return {each.name: (each.name, each.version or "?", each.build) for each in packages}


def _versions(packages: Iterable[PipPackage]) -> dict[str, tuple[str, str, str]]:
    return {normalize_name(each.name): (each.name, each.version or "?", "") for each in packages}


def normalize_name(name: str) -> str:
    """The name of a Python distribution as the packaging specification normalizes it."""
    return re.sub(r"[-_.]+", "-", name).lower()
