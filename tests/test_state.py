"""What snapper recorded about an environment: only what this user or root has written counts, and it is read safely."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from snapper.environment import clock, state
from snapper.environment.drift import is_touched
from snapper.environment.index import IndexHeader
from snapper.environment.installed import InstalledEnvironment
from snapper.environment.state import EnvironmentState
from snapper.format import manifest
from snapper.format.manifest import EncodedSnapshot
from snapper.format.model import FORMAT, Snapshot
from tests.support.processes import run_as_nobody

NOBODY = 65534
NAMES = ("state.json", "snapshot", "index")


def empty_snapshot() -> EncodedSnapshot:
    return manifest.encode(Snapshot(FORMAT, "linux-64", 0o755, (), (), (), (), (), ()))


def write_state(prefix: Path) -> None:
    snapshot = empty_snapshot()
    header = IndexHeader(snapshot.digest, str(prefix), 2**62)
    state.write(prefix, EnvironmentState(FORMAT, "work", snapshot.digest, str(prefix)), snapshot, header, ())


@pytest.fixture
def prefix() -> Iterator[Path]:
    """An environment with state, which other users can reach."""
    with tempfile.TemporaryDirectory() as top:
        os.chmod(top, 0o755)
        prefix = Path(top) / "envs" / "work"
        (prefix / "conda-meta").mkdir(parents=True)
        write_state(prefix)
        yield prefix


def known(prefix: Path) -> list[bool]:
    """Return which of state, snapshot, index, and its header are known, asking a new object each time."""
    installed = InstalledEnvironment(prefix)
    parts = (installed.state, installed.previous, installed.index)
    return [*(part is not None for part in parts), not is_touched(prefix)]


def test_state_is_read_as_it_was_written(prefix: Path) -> None:
    assert known(prefix) == [True] * 4
    assert sorted(path.name for path in (prefix / ".snapper").iterdir()) == sorted(NAMES)


def become_pipe(file: Path) -> None:
    os.mkfifo(file)


def become_endless(file: Path) -> None:
    file.symlink_to("/dev/zero")


def become_huge(file: Path) -> None:
    with file.open("wb") as out:
        out.truncate(1 << 40)


def become_link(file: Path) -> None:
    file.symlink_to(file.parent.parent.parent / file.name)


def become_directory(file: Path) -> None:
    file.mkdir()


@pytest.mark.parametrize("become", [become_pipe, become_endless, become_huge, become_link, become_directory])
def test_only_small_regular_files_are_read(prefix: Path, become: Callable[[Path], None]) -> None:
    for name in NAMES:
        file = prefix / ".snapper" / name
        file.rename(prefix.parent / name)
        become(file)
    assert known(prefix) == [False] * 4


def test_the_largest_index_is_that_of_millions_of_files(prefix: Path) -> None:
    assert state._MAX_INDEX > 4_000_000 * (200 + 40)


def test_a_state_directory_that_is_a_link_is_not_used(prefix: Path) -> None:
    """Reading it would trust another environment's state, and writing it would overwrite files elsewhere."""
    elsewhere = prefix.parent / "elsewhere"
    (prefix / ".snapper").rename(elsewhere)
    (elsewhere / ".index.0123456789abcdef").touch()
    (prefix / ".snapper").symlink_to(elsewhere)
    before = {path.name: path.stat().st_mtime_ns for path in elsewhere.iterdir()}
    assert known(prefix) == [False] * 4
    with pytest.raises(OSError):
        write_state(prefix)
    with pytest.raises(OSError):
        clock.now(prefix)
    state.remove_leftovers(prefix)
    assert {path.name: path.stat().st_mtime_ns for path in elsewhere.iterdir()} == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of two users")
@pytest.mark.parametrize("path", [".", ".snapper", *(f".snapper/{name}" for name in NAMES)])
def test_state_of_other_users_does_not_count(prefix: Path, path: str) -> None:
    """Root has written it, which everyone trusts, until another user has."""
    other = NOBODY - 1
    os.chown(prefix, NOBODY, NOBODY)
    assert run_as_nobody(lambda: known(prefix)) == [True] * 4
    os.chown(prefix / path, other, other)
    expected = [name not in path for name in (*NAMES, "index")] if path.endswith(NAMES) else [False] * 4
    assert run_as_nobody(lambda: known(prefix)) == expected


@pytest.mark.parametrize("path", [".snapper", *(f".snapper/{name}" for name in NAMES)])
def test_state_that_others_may_write_to_does_not_count(prefix: Path, path: str) -> None:
    """Otherwise, they could have another snapshot packed under this environment's name, or files removed."""
    (prefix / path).chmod(0o777)
    expected = [name not in path for name in (*NAMES, "index")] if path.endswith(NAMES) else [False] * 4
    assert known(prefix) == expected
    write_state(prefix)
    assert known(prefix) == [True] * 4


def test_state_of_an_environment_that_others_may_write_to(prefix: Path) -> None:
    """It counts unless they can have put the environment where it is, since such an environment is never replaced."""
    for path in (prefix, prefix / ".snapper", *(prefix / ".snapper").iterdir()):
        path.chmod(0o777)
    assert known(prefix) == [True] * 4
    for mode in (0o777, 0o1777):
        prefix.parent.chmod(mode)
        assert known(prefix) == [False] * 4


def test_others_may_not_write_to_the_state_whatever_the_umask(prefix: Path) -> None:
    shutil.rmtree(prefix / ".snapper")
    before = os.umask(0)
    try:
        write_state(prefix)
    finally:
        os.umask(before)
    assert known(prefix) == [True] * 4
    for path in (prefix / ".snapper", *(prefix / ".snapper").iterdir()):
        assert not path.stat().st_mode & 0o022, path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of two users")
def test_nothing_is_written_into_an_environment_of_another_user(prefix: Path) -> None:
    os.chown(prefix, NOBODY, NOBODY)
    for action in (lambda: write_state(prefix), lambda: clock.now(prefix)):
        with pytest.raises(PermissionError):
            action()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of two users")
def test_link_of_another_user_to_an_own_environment_does_not_count(prefix: Path) -> None:
    link = prefix.with_name("link")
    link.symlink_to(prefix)
    assert known(link) == [True] * 4
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    assert known(link) == [False] * 4


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of two users")
def test_own_link_to_an_environment_of_another_user_does_not_count(prefix: Path) -> None:
    link = prefix.with_name("link")
    link.symlink_to(prefix)
    os.chown(prefix, NOBODY, NOBODY)
    assert known(link) == [False] * 4


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("environment", "../../.bashrc"),
        ("environment", "a b; id"),
        ("snapshot", "../latest"),
        ("prefix", 1),
        ("format", FORMAT + 1),
    ],
)
def test_state_with_invalid_values_does_not_count(prefix: Path, field: str, value: object) -> None:
    """Names become parts of paths and of commands to paste."""
    file = prefix / ".snapper" / "state.json"
    file.write_text(json.dumps({**json.loads(file.read_bytes()), field: value}))
    assert state.read(prefix) is None


@pytest.mark.parametrize(
    "header", [{"taken": "now"}, {"unrelocated": "lib"}, {"snapshot": None}, {"more": 1}]
)
def test_index_with_an_invalid_header_does_not_count(prefix: Path, header: dict[str, object]) -> None:
    file = prefix / ".snapper" / "index"
    file.write_text(json.dumps({**json.loads(file.read_bytes()), **header}) + "\n")
    assert state.read_index(prefix) is None
    assert is_touched(prefix)
