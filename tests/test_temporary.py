"""Temporary directories: what killed commands leave is removed, and nothing else."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest

from snapper.fs.temporary import temporary_directory
from tests.conftest import tree_of
from tests.support.processes import forking


@pytest.fixture(autouse=True)
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_leftovers_of_a_killed_command_are_removed(top: Path) -> None:
    def killed() -> None:
        with temporary_directory() as directory:
            (directory / "file").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    process = forking.Process(target=killed)
    process.start()
    process.join()
    (left,) = top.iterdir()
    with temporary_directory() as directory:
        assert list(top.iterdir()) == [directory.parent]
        assert left != directory.parent
    assert list(top.iterdir()) == []


@pytest.mark.parametrize("names", [["work"], ["0123456789abcdef"], ["work", "lock"]])
def test_other_private_directories_are_kept(top: Path, names: list[str]) -> None:
    """Whoever may write to the directory for temporary files can rename those that others have there."""
    renamed = top / "snapper-scratch-renamed"
    renamed.mkdir(mode=0o700)
    for name in names:
        (renamed / name).write_text("")
    os.utime(renamed, (0, 0))
    before = tree_of(top)
    with temporary_directory():
        pass
    assert tree_of(top) == before


@pytest.mark.parametrize("names", [[], ["lock"]])
def test_empty_leftovers_are_removed(top: Path, names: list[str]) -> None:
    """The command may have been killed before it could sign the lock."""
    leftover = top / "snapper-scratch-leftover"
    leftover.mkdir(mode=0o700)
    for name in names:
        (leftover / name).touch()
    with temporary_directory():
        assert leftover.exists()
    os.utime(leftover, (0, 0))
    with temporary_directory():
        assert not leftover.exists()
