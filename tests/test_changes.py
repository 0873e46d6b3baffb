"""What differs between two sets of packages."""

from __future__ import annotations

from snapper.environment.changes import PackageChange, PackageSet, diff_packages
from snapper.format.model import Package, PipPackage


def conda(name: str, version: str, build: str = "0") -> Package:
    return Package(name, version, build, "noarch", "", "")


def test_each_kind_of_change() -> None:
    before = PackageSet((conda("a", "1"), conda("b", "1"), conda("c", "1", "h1")), (PipPackage("D_d", "1"),))
    after = PackageSet((conda("b", "2"), conda("c", "1", "h2"), conda("e", "1")), (PipPackage("d-D", "1"),))
    found = diff_packages(before, after)
    assert found.added == (PackageChange("e", "conda", "", "1"),)
    assert found.removed == (PackageChange("a", "conda", "1", ""),)
    assert found.changed == (
        PackageChange("b", "conda", "1", "2"),
        PackageChange("c", "conda", "1=h1", "1=h2"),
    )
    assert len(found) == 4
    assert not diff_packages(before, before)


def test_what_moves_from_conda_to_pip() -> None:
    found = diff_packages(PackageSet((conda("a", "1"),), ()), PackageSet((), (PipPackage("a", "1"),)))
    assert found.removed == (PackageChange("a", "conda", "1", ""),)
    assert found.added == (PackageChange("a", "pip", "", "1"),)
