"""What differs between two sets of packages."""

from __future__ import annotations

from snapper.environment.changes import Change, Packages, between
from snapper.format.model import Package, PipPackage


def conda(name: str, version: str, build: str = "0") -> Package:
    return Package(name, version, build, "noarch", "", "")


def test_each_kind_of_change() -> None:
    before = Packages((conda("a", "1"), conda("b", "1"), conda("c", "1", "h1")), (PipPackage("D_d", "1"),))
    after = Packages((conda("b", "2"), conda("c", "1", "h2"), conda("e", "1")), (PipPackage("d-D", "1"),))
    found = between(before, after)
    assert found.added == (Change("e", "conda", "", "1"),)
    assert found.removed == (Change("a", "conda", "1", ""),)
    assert found.changed == (Change("b", "conda", "1", "2"), Change("c", "conda", "1=h1", "1=h2"))
    assert len(found) == 4
    assert not between(before, before)


def test_what_moves_from_conda_to_pip() -> None:
    found = between(Packages((conda("a", "1"),), ()), Packages((), (PipPackage("a", "1"),)))
    assert found.removed == (Change("a", "conda", "1", ""),)
    assert found.added == (Change("a", "pip", "", "1"),)
