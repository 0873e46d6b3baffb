"""Users to whom file permissions apply, also when the tests are run by root."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import Machine

_WITHOUT_PRIVILEGES = """
import ctypes, os, sys
for capability in range(64):
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
os.execv(sys.argv[1], sys.argv[1:])
"""


class Unprivileged(Machine):
    """A machine whose user is subject to file permissions: root without capabilities, or the user running the tests."""

    def command(self, *arguments: object) -> list[str]:
        return _unprivileged(super().command(*arguments))


def unprivileged(machine: Machine) -> Unprivileged:
    """Return the machine for such a user; skip the test if root keeps its privileges here."""
    closed = machine.home / "closed"
    closed.touch(mode=0)
    probe = [sys.executable, "-c", f"import os, sys; sys.exit(os.access({str(closed)!r}, os.R_OK))"]
    done = subprocess.run(_unprivileged(probe), check=False)
    closed.unlink()
    if done.returncode:
        pytest.skip("file permissions do not apply to this user")
    return Unprivileged(machine.home, machine.envs, machine.store)


def _unprivileged(command: list[str]) -> list[str]:
    return [sys.executable, "-c", _WITHOUT_PRIVILEGES, *command] if os.geteuid() == 0 else command
