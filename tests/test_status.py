"""What `snapper status` says about environments on this machine and in the store."""

from __future__ import annotations

from tests.conftest import Machine


def test_directory_that_is_not_an_environment_is_refused(machine: Machine) -> None:
    directory = machine.home / "directory"
    directory.mkdir()
    error = machine.expect_error(10, "status", "--prefix", directory)
    assert error["type"] == "NotAnEnvironment"
    assert str(directory) in error["message"]
