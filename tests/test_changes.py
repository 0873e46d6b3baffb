"""Comparing two sets of packages."""

from __future__ import annotations

from snapper.environment.changes import PackageChange, PackageSet, diff_packages
from snapper.format.model import Package, PipPackage


def conda(name: str, version: str, build: str = "0") -> Package:
    return Package(name, version, build, "noarch", "", "")


def test_added_removed_and_changed_packages_are_distinguished() -> None:
    before = PackageSet((conda("a", "1"), conda("b", "1"), conda("c", "1", "h1")), (PipPackage("D_d", "1"),))
    after = PackageSet((conda("b", "2"), conda("c", "1", "h2"), conda("e", "1")), (PipPackage("d-D", "1"),))
    changes = diff_packages(before, after)
    assert changes.added == (PackageChange("e", "conda", "", "1"),)
    assert changes.removed == (PackageChange("a", "conda", "1", ""),)
    assert changes.changed == (
        PackageChange("b", "conda", "1", "2"),
        PackageChange("c", "conda", "1=h1", "1=h2"),
    )
    assert len(changes) == 4
    assert not diff_packages(before, before)


def test_moving_from_conda_to_pip_is_a_removal_and_an_addition() -> None:
    changes = diff_packages(PackageSet((conda("a", "1"),), ()), PackageSet((), (PipPackage("a", "1"),)))
    assert changes.removed == (PackageChange("a", "conda", "1", ""),)
    assert changes.added == (PackageChange("a", "pip", "", "1"),)
