"""Paths count as trusted if only this user and root can change what they lead to."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import subprocess
from pathlib import Path

import pytest

from snapper.fs.moves import Entry
from snapper.fs.ownership import (
    _is_private_group,
    is_of_this_user,
    is_own,
    others_can_write,
    owner_name,
    trusted_users,
    untrusted_component,
)
from snapper.settings.directories import control_by_others, trusted_group
from tests.conftest import Machine
from tests.support.access_lists import GROUP, NO_ID, OWNING_GROUP, USER, set_access_list
from tests.support.environments import make_data
from tests.support.processes import run_as, run_as_nobody

OTHER_USER = 65534
UNUSED_ID = 54321

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to create files of another user")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "one/two"
    directory.mkdir(parents=True)
    for parent in directory.parents:
        if parent.stat().st_mode & 0o111 == 0o100:
            parent.chmod(0o755)
    return directory


def reason(path: Path) -> tuple[str, str]:
    component = untrusted_component(path)
    return (component.path, component.reason) if component else ("", "")


def test_own_directories_are_trusted(directory: Path) -> None:
    for path in (directory, directory / "missing/too", Path("/"), Path("/etc"), directory / "../two"):
        assert untrusted_component(path) is None
    directory.chmod(0o755)
    assert is_own(directory.stat())
    assert not others_can_write(directory.stat(), directory)


def test_directories_that_others_can_write_to(directory: Path) -> None:
    """The first one counts. In a sticky directory, others cannot replace an entry."""
    directory.parent.chmod(0o777)
    assert others_can_write(directory.parent.stat(), directory.parent)
    assert reason(directory) == (str(directory.parent), "is writable by other users")
    directory.parent.chmod(0o1777)
    assert untrusted_component(directory) is None
    (directory / "file").touch()
    (directory / "file").chmod(0o1666)
    assert reason(directory / "file") == (str(directory / "file"), "is writable by other users")


def test_links_are_followed(directory: Path) -> None:
    (directory.parent / "link").symlink_to("two")
    (directory.parent / "absolute").symlink_to(directory.parent / "link/..")
    assert untrusted_component(directory.parent / "absolute/two") is None
    directory.chmod(0o777)
    assert reason(directory.parent / "absolute/link/x") == (str(directory), "is writable by other users")
    (directory.parent / "loop").symlink_to("loop")
    with pytest.raises(OSError) as caught:
        untrusted_component(directory.parent / "loop")
    assert caught.value.errno == errno.ELOOP


@as_root
def test_files_of_other_users(directory: Path) -> None:
    (directory / "link").symlink_to("/etc")
    os.chown(directory / "link", OTHER_USER, OTHER_USER, follow_symlinks=False)
    assert reason(directory / "link") == (str(directory / "link"), "is a link of the user nobody")
    os.chown(directory, UNUSED_ID, UNUSED_ID)
    status = directory.stat()
    assert (is_own(status), owner_name(status)) == (False, str(UNUSED_ID))
    assert reason(directory / "missing") == (str(directory), f"belongs to the user {UNUSED_ID}")


@as_root
def test_groups_of_which_this_user_is_the_only_member(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing by the group is harmless then. Nobody can be known not to be in a group without a name."""
    directory.chmod(0o775)
    assert not others_can_write(directory.stat(), directory)  # root's group
    for name in ("nobody", "no such user"):
        monkeypatch.setattr(grp, "getgrgid", lambda gid: grp.struct_group(("root", "x", gid, [name])))  # noqa: B023
        _is_private_group.cache_clear()
        assert others_can_write(directory.stat(), directory)
        monkeypatch.undo()
    accounts = pwd.getpwall()
    for number, private in (
        (11, True),
        (1001, False),
    ):  # an account of the system, as on Fedora, and a person's
        added = pwd.struct_passwd(("x", "x", number, 0, "", "/", ""))
        monkeypatch.setattr(pwd, "getpwall", lambda: [*accounts, added])  # noqa: B023
        _is_private_group.cache_clear()
        assert others_can_write(directory.stat(), directory) is not private
        monkeypatch.undo()
    _is_private_group.cache_clear()
    os.chown(directory, 0, UNUSED_ID)
    assert others_can_write(directory.stat(), directory)
    os.chown(directory, 0, OTHER_USER)
    assert others_can_write(directory.stat(), directory)  # nobody's


@as_root
def test_only_the_own_group_is_trusted_in_the_home(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its other members may be unknown there, as with LDAP or without a name, but not known."""
    monkeypatch.setenv("HOME", str(directory.parent))
    monkeypatch.setattr(os, "getegid", lambda: UNUSED_ID)
    for parent in (directory, directory.parent):
        os.chown(parent, 0, UNUSED_ID)
        parent.chmod(0o775)
    assert trusted_group(directory.parent / "SageMaker/x") is None
    assert trusted_group(directory.parent.parent) is None
    assert control_by_others(directory / "missing") is None
    elsewhere = directory.parent.with_name("elsewhere")
    elsewhere.mkdir()
    os.chown(elsewhere, 0, UNUSED_ID)
    elsewhere.chmod(0o775)
    (directory / "link").symlink_to(elsewhere)
    assert control_by_others(directory / "link/x") == (str(elsewhere), "is writable by other users")
    os.chown(directory, 0, OTHER_USER)
    assert control_by_others(directory / "missing") == (str(directory), "is writable by other users")
    os.chown(directory, 0, UNUSED_ID)
    monkeypatch.setattr(grp, "getgrgid", lambda gid: grp.struct_group(("team", "x", gid, ["nobody"])))
    _is_private_group.cache_clear()
    assert control_by_others(directory / "missing") == (str(directory), "is writable by other users")
    monkeypatch.undo()
    _is_private_group.cache_clear()


@as_root
@pytest.mark.parametrize(
    ("entries", "others"),
    [
        ([(USER, OTHER_USER, 0o7), (OWNING_GROUP, NO_ID, 0o5)], True),
        ([(USER, OTHER_USER, 0o5), (OWNING_GROUP, NO_ID, 0o7)], False),
        ([(GROUP, OTHER_USER, 0o6), (OWNING_GROUP, NO_ID, 0o5)], True),
        ([(USER, 0, 0o7), (OWNING_GROUP, NO_ID, 0o7)], False),
    ],
)
def test_access_control_lists(directory: Path, entries: list[tuple[int, int, int]], others: bool) -> None:
    """The mode shows the most that the entries of a list permit as the permission of the group, which is root's."""
    file = directory / "file"
    file.touch()
    for path in (directory, file):
        set_access_list(path, *entries)
        assert path.stat().st_mode & 0o020
        assert others_can_write(path.stat(), path) is others
    assert (untrusted_component(directory) is not None) is others
    descriptor = os.open(directory, os.O_PATH)
    try:
        for place in (descriptor, Entry(descriptor, "file")):
            assert others_can_write(file.stat(), place) is others
    finally:
        os.close(descriptor)
    directory.chmod(0o755)
    assert not others_can_write(directory.stat(), directory), "the mode limits what the entries permit"


@as_root
def test_groups_whose_members_cannot_be_known(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Directory services often do not list accounts, so that a group seems to have no members."""
    directory.chmod(0o775)
    used = {account.pw_gid for account in pwd.getpwall()}
    empty = [group for group in grp.getgrall() if not group.gr_mem and group.gr_gid not in used]
    if not empty:
        pytest.skip("every group has members")
    os.chown(directory, OTHER_USER, empty[0].gr_gid)
    assert not run_as_nobody(lambda: others_can_write(directory.stat(), directory))
    monkeypatch.setattr(pwd, "getpwall", list)
    assert run_as_nobody(lambda: others_can_write(directory.stat(), directory))
    own = pwd.struct_passwd((empty[0].gr_name, "x", OTHER_USER, empty[0].gr_gid, "", "/", ""))
    monkeypatch.setattr(pwd, "getpwuid", lambda _: own)
    assert not run_as_nobody(lambda: others_can_write(directory.stat(), directory))


@as_root
def test_owner_of_the_home_is_trusted_except_by_root(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Containers run with any user, and network file systems may give all files one owner."""
    monkeypatch.setenv("HOME", str(tmp_path))
    os.chown(directory, OTHER_USER, OTHER_USER)
    assert reason(directory)[1] == "belongs to the user nobody"
    assert run_as(UNUSED_ID, lambda: reason(directory))[1] == "belongs to the user nobody"
    os.chown(tmp_path, OTHER_USER, OTHER_USER)
    assert reason(directory)[1] == "belongs to the user nobody"
    os.chown(directory.parent, UNUSED_ID, UNUSED_ID)
    assert run_as(UNUSED_ID, lambda: untrusted_component(directory)) is None
    assert run_as(UNUSED_ID, lambda: is_of_this_user(directory.stat()))
    assert run_as(UNUSED_ID, trusted_users) == (0, UNUSED_ID, OTHER_USER)
    os.chown(directory, UNUSED_ID + 1, UNUSED_ID)
    assert run_as(UNUSED_ID, lambda: reason(directory))[1] == f"belongs to the user {UNUSED_ID + 1}"
    os.chown(tmp_path, 0, 0)
    assert not run_as(UNUSED_ID, lambda: is_of_this_user(tmp_path.stat()))


@as_root
def test_root_is_trusted_by_other_users_but_not_the_reverse(directory: Path) -> None:
    assert run_as_nobody(lambda: untrusted_component(directory)) is None
    os.chown(directory, OTHER_USER, OTHER_USER)
    assert run_as_nobody(lambda: untrusted_component(directory)) is None
    assert reason(directory) == (str(directory), "belongs to the user nobody")


def test_new_directories_are_not_writable_by_others_whatever_the_umask(machine: Machine) -> None:
    """A container or a service may run with umask 000. Nobody else can enter what nobody has chosen to share."""
    prefix = make_data(machine.home / "project/data")
    home, shared = machine.home / "new", machine.home / "shared/team"
    home.mkdir(mode=0o755)
    variables = {name: value for name, value in machine.variables.items() if not name.startswith("SNAPPER_")}
    variables |= {"HOME": str(home), "CONDA_ENVS_PATH": ""}
    for arguments in (
        ("pack", "-p", prefix),
        ("pack", "-p", prefix, "--store", shared),
        ("config", "set", "level", 4),
        ("restore", "--all"),
        ("restore", "--all"),
        ("restore", "data", "-p", home / "other/envs/data"),
    ):
        command = ["sh", "-c", 'umask 0; exec "$@"', "sh", *machine.command(*arguments)]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (arguments, done)
        assert "could not" not in done.stderr
    found = [path for path in home.rglob("*") if not path.is_symlink()]
    store, state = home / ".local/share/snapper", home / ".local/state/snapper"
    assert [path for path in found if others_can_write(path.stat(), path) and store not in path.parents] == []
    assert home / ".conda/environments.txt" in found and home / "other/envs" in found
    assert (store.stat().st_mode & 0o777, state.stat().st_mode & 0o777) == (0o700, 0o700)
    assert shared.stat().st_mode & 0o777 == (shared / "layers").stat().st_mode & 0o777 == 0o777
    assert not others_can_write(shared.parent.stat(), shared.parent)
