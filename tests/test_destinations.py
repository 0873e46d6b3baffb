"""A store cannot decide where environments are restored: only this user's settings, choices, and conda can."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from snapper.environment.conda_directories import (
    conda_commands,
    envs_dirs,
    envs_dirs_to_restore_into,
    find_roots,
)
from snapper.environment.condarc import EnvsDirs, read_envs_dirs
from snapper.environment.locations import find_environment
from snapper.environment.own_locations import own_locations, remember_location
from snapper.environment.state import EnvironmentState
from snapper.errors import EnvironmentNotFound, NoTargetDirectory, ReservedName
from snapper.format import canonical
from snapper.format.model import FORMAT
from snapper.restoring.destinations import Destination, Destinations
from snapper.settings.directories import state_directory

_OTHER_USER = 64203

#: Variables that name conda's directories.
_VARIABLES = (
    "CONDA_EXE",
    "CONDA_PREFIX",
    "CONDA_DEFAULT_ENV",
    "CONDARC",
    "MAMBA_ROOT_PREFIX",
    "CONDA_ENVS_DIRS",
)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of a user who has an envs directory and no conda."""
    home = tmp_path / "home"
    (home / "envs").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CONDA_ENVS_PATH", str(home / "envs"))
    return home


def choose(name: str, packed_at: object) -> Destination:
    return Destinations().choose(name, str(packed_at))


def environment(prefix: Path, name: str = "") -> Path:
    """Make an environment, with the state of a restore if it has a name in a store."""
    (prefix / "conda-meta").mkdir(parents=True)
    if name:
        state = canonical.encode(EnvironmentState(FORMAT, name, "0" * 64, str(prefix)))
        (prefix / ".snapper").mkdir()
        (prefix / ".snapper" / "state.json").write_bytes(state)
    return prefix


def conda_root(prefix: Path) -> Path:
    """Make a conda installation."""
    environment(prefix)
    for name in ("bin", "condabin", "envs"):
        (prefix / name).mkdir()
    return prefix


def give_away(path: Path) -> None:
    os.chown(path, _OTHER_USER, _OTHER_USER, follow_symlinks=False)


def refused(home: Path, name: str, packed_at: object) -> str:
    """Return why the environment is not restored where it was packed, but in the envs directory."""
    destination = choose(name, packed_at)
    assert destination.prefix == home / "envs" / name
    assert destination.unused is not None
    assert destination.unused.prefix == str(packed_at)
    return destination.unused.reason


# --- what a publisher can state ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place",
    [
        ".ssh", ".ssh/authorized_keys", ".aws", ".jupyter/custom", "bin", "project", "project/team-x",
        "envs", "envs/other/lib/python3.12/site-packages", "envs/other/envs/team-x", "envs/.hidden/team-x",
        "miniforge3/pkgs/team-x", "miniforge3", "miniconda3", "miniforge3/envs/other/team-x",
    ],
)  # fmt: skip
def test_publisher_cannot_choose_a_directory(home: Path, place: str) -> None:
    conda_root(home / "miniforge3")
    environment(home / "envs" / "other", "other")
    for directory in (".ssh", "project", ".jupyter", "bin", "envs/other/envs"):
        (home / directory).mkdir()
    assert refused(home, "team-x", home / place) == "that is not in one of your envs directories"


@pytest.mark.parametrize(
    "change",
    [
        "{home}/envs/../.ssh/team-x", "{home}/envs/../envs/team-x", "/{home}/envs/team-x", "{home}//envs/team-x",
        "{home}/envs/./team-x", "{home}/envs/team-x/", "envs/team-x", "~/envs/team-x", "{home}/.ssh/../envs/team-x",
    ],
)  # fmt: skip
def test_paths_in_other_spellings_are_not_followed(home: Path, change: str) -> None:
    destination = choose("team-x", change.format(home=home))
    assert destination.prefix == home / "envs" / "team-x"
    assert destination.unused
    assert "not a normal path" in destination.unused.reason


def test_strange_paths_are_not_followed(home: Path) -> None:
    for packed_at in (f"{home}/" + "x/" * 3000 + "x", f"{home}/\udcff", "/dev/zero/x", "/proc/self/root/x"):
        assert "not in one of your envs directories" in refused(home, "team-x", packed_at)
    assert choose("team-x", "") == Destination(home / "envs" / "team-x")


def test_environment_is_restored_into_an_envs_directory_under_its_own_name(home: Path) -> None:
    root = conda_root(home / "miniforge3")
    assert choose("team-x", root / "envs/team-x") == Destination(root / "envs/team-x")
    for name in ("other", ".ssh", "-x"):
        destination = choose("team-x", root / "envs" / name)
        assert destination.prefix == root / "envs/team-x"
        assert destination.unused
        assert destination.unused.reason == "in an envs directory, an environment has its own name"


def test_paths_are_not_accessed_unless_they_are_in_a_known_directory(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An automounter would contact another machine, a pipe would block."""
    accessed: list[str] = []
    for function in (os.stat, os.lstat, os.access, os.open, os.readlink):

        def record(
            path: object, *args: object, function: Callable[..., object] = function, **kwargs: object
        ) -> object:
            accessed.append(str(path))
            return function(path, *args, **kwargs)

        monkeypatch.setattr(os, function.__name__, record)
    choose("team-x", "/net/evil.example/team-x")
    monkeypatch.undo()
    assert accessed
    assert not [path for path in accessed if path.startswith("/net")]


# --- what this user has chosen ----------------------------------------------------------------------------


def test_location_that_the_user_packed_from_is_used_for_that_environment_only(home: Path) -> None:
    (home / "project").mkdir()
    remember_location("team-x", home / "project" / "env")
    assert choose("team-x", home / "project/env") == Destination(home / "project/env")
    assert refused(home, "team-y", home / "project/env")
    assert refused(home, "team-x", home / "project/other")
    environment(home / "project/env", "team-x")
    assert choose("team-x", home / "project/env") == Destination(home / "project/env")
    (home / "project/env").rename(home / "project/moved")
    environment(home / "project/env", "other")
    beside = choose("team-x", home / "project/env")
    assert beside.prefix == home / "project/team-x"
    assert beside.unused


def test_environment_that_is_still_there_stays_there(home: Path) -> None:
    """In an envs directory its directory may have another name; elsewhere, conda has to know it."""
    named = environment(home / "envs" / "named", "team-x")
    assert choose("team-x", named) == Destination(named)
    assert choose("team-y", named).prefix == home / "envs/team-y"
    elsewhere = environment(home / "project" / "env", "team-x")
    assert refused(home, "team-x", elsewhere)
    (home / ".conda").mkdir()
    (home / ".conda/environments.txt").write_text(f"{elsewhere}\n")
    assert choose("team-x", elsewhere) == Destination(elsewhere)
    assert refused(home, "team-y", elsewhere)
    hidden = environment(home / "envs" / ".hidden", "team-x")
    assert choose("team-x", hidden).prefix == home / "envs/team-x"


def test_record_of_locations_is_private_bounded_and_survives_damage(home: Path) -> None:
    assert own_locations("x") == ()
    for number in (*range(40), 39, 5):
        remember_location("x", home / str(number))
    known = own_locations("x")
    assert (len(known), known[-2:]) == (32, (f"{home}/39", f"{home}/5"))
    remember_location("odd", home / "\udcff\n")
    assert own_locations("odd") == (f"{home}/\udcff\n",)
    file = state_directory() / "locations" / "x"
    assert file.stat().st_mode & 0o777 == 0o600
    (file.parent / "X").write_bytes(file.read_bytes())
    assert own_locations("X") == ()
    for damaged in (b"", b"{", b"[" * 100_000, b"[]", b'{"format":2,"environment":"x","prefixes":[]}'):
        file.write_bytes(damaged)
        assert own_locations("x") == ()
    file.unlink()
    os.mkfifo(file)
    assert own_locations("x") == ()
    file.unlink()
    file.symlink_to("/dev/zero")
    assert own_locations("x") == ()
    remember_location("x", home / "new")
    assert own_locations("x") == (f"{home}/new",)


# --- base environments ------------------------------------------------------------------------------------


def no_system_conda() -> None:
    if any(Path("/opt", name).exists() for name in ("conda", "miniconda3", "miniforge3")):
        pytest.skip("this machine has a conda in /opt")


def test_base_becomes_the_conda_of_a_machine_without_one(home: Path) -> None:
    no_system_conda()
    destinations = Destinations()
    base = home / "miniforge3"
    assert destinations.choose("base", str(base)).prefix == base
    assert destinations.choose("inner", f"{base}/envs/inner").prefix == base / "envs/inner"
    assert destinations.choose("lib", f"{base}/lib/lib").prefix == home / "envs/lib"
    assert destinations.choose("deep", f"{base}/envs/inner/envs/deep").prefix == home / "envs/deep"
    assert choose("inner", f"{base}/envs/inner").prefix == home / "envs/inner"
    assert refused(home, "team-x", base)
    with pytest.raises(ReservedName, match=r"nor to .*/bin: that is not in one of your envs directories"):
        choose("base", home / "bin")


def test_base_is_in_no_envs_directory_unless_the_user_has_chosen_that(home: Path) -> None:
    """There, it would be another environment than the one that `-n base` names."""
    place = environment(home / "envs/base", "base")
    for packed_at in ("", str(place), "/opt/elsewhere"):
        with pytest.raises(ReservedName):
            choose("base", packed_at)
    remember_location("base", place)
    assert choose("base", place).prefix == place


def test_base_of_a_store_does_not_become_a_second_conda(home: Path) -> None:
    """The programs of the first one found are on PATH in all kernels."""
    root = conda_root(home / "miniforge3")
    with pytest.raises(ReservedName):
        choose("base", home / "miniconda3")
    assert choose("base", root) == Destination(root)


def test_restored_base_does_not_decide_where_others_go(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONDA_ENVS_PATH")
    root = conda_root(home / "miniforge3")
    (root / ".condarc").write_text(f"envs_dirs: [{home}/.ssh]\n")
    (home / ".ssh").mkdir()
    assert choose("keys", "").prefix == home / ".ssh/keys"
    environment(home / "other", "base")
    (home / "other/.snapper").rename(root / ".snapper")
    assert choose("keys", "").prefix == root / "envs/keys"
    assert choose("keys", home / ".ssh/keys").prefix == root / "envs/keys"


def test_envs_directory_of_a_restored_base_may_be_on_another_disk(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the user can have made the link: no snapshot can contain it."""
    monkeypatch.delenv("CONDA_ENVS_PATH")
    root = conda_root(home / "miniforge3")
    volume = tmp_path / "volume"
    (volume / "envs").mkdir(parents=True)
    (root / ".snapper").mkdir()
    (root / "envs").rmdir()
    (root / "envs").symlink_to(volume / "envs")
    assert choose("team-x", root / "envs/team-x").prefix == root / "envs/team-x"
    assert choose("team-x", volume / "envs/team-x").prefix == root / "envs/team-x"
    environment(root / "lib")
    (root / "envs").unlink()
    (root / "envs").symlink_to("lib")
    assert choose("team-x", root / "envs/team-x").prefix == home / ".conda/envs/team-x"


@needs_root
def test_link_of_others_to_envs_directories_is_not_followed(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CONDA_ENVS_PATH")
    root = conda_root(home / "miniforge3")
    (tmp_path / "volume").mkdir()
    (root / "envs").rmdir()
    (root / "envs").symlink_to(tmp_path / "volume")
    assert choose("team-x", "").prefix == root / "envs/team-x"
    give_away(tmp_path / "volume")
    assert choose("team-x", "").prefix == home / ".conda/envs/team-x"
    os.chown(tmp_path / "volume", 0, 0)
    give_away(root / "envs")
    assert choose("team-x", "").prefix == home / ".conda/envs/team-x"


@pytest.mark.parametrize("variable", ["CONDA_EXE", "PATH"])
@pytest.mark.parametrize(
    "links",
    [
        {"bin/conda": "../lib/y/bin/conda"},
        {"bin": "lib/y/bin"},
        {"bin/conda": "../share/conda", "share/conda": "../lib/y/bin/conda"},
        {"bin/conda": "../envs/.y/bin/conda"},
        {"bin/conda": "../../downloads/bin/conda"},
        {"bin/conda": "../../mine/evil/bin/conda"},
        {"bin/conda": "../../evil-envs/evil/bin/conda"},
    ],
)
def test_restored_base_does_not_choose_the_conda_of_this_user(
    home: Path, links: dict[str, str], variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its program is a link to that of another root prefix, whose settings would count."""
    monkeypatch.setenv("CONDA_ENVS_PATH", str(home / "evil-envs"))
    base = environment(home / "miniforge3", "base")
    (home / ".config").mkdir()
    environment(home / "evil-envs/evil", "evil")
    planted = [
        base / "lib/y",
        base / "envs/.y",
        home / "downloads",
        home / "mine/evil",
        home / "evil-envs/evil",
    ]
    for root in planted:
        for directory in ("bin", "condabin", "envs"):
            (root / directory).mkdir(parents=True, exist_ok=True)
        (root / "bin/conda").touch(0o755)
        (root / ".condarc").write_text(f"envs_dirs: [{home}/.config]\n")
    for name, target in links.items():
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).symlink_to(target)
    program = {"CONDA_EXE": f"{base}/bin/conda", "PATH": f"{base}/bin:/usr/bin"}[variable]
    monkeypatch.setenv(variable, program)
    no_system_conda()
    assert find_roots() == [base]
    assert envs_dirs() == [home / "evil-envs", base / "envs", home / ".conda/envs"]
    assert [each.path for each in envs_dirs_to_restore_into()] == envs_dirs()
    assert conda_commands() == ("", "")


def test_managed_environment_may_have_no_records(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its publisher leaves out `conda-meta`, or has a link there that leads nowhere."""
    no_system_conda()
    base = environment(home / "miniforge3", "base")
    (base / "conda-meta").rmdir()
    (base / "lib/y/bin").mkdir(parents=True)
    (base / "lib/y/bin/conda").touch(0o755)
    monkeypatch.setenv("CONDA_EXE", f"{base}/lib/y/bin/conda")
    assert find_roots() == [base]
    (base / "conda-meta").symlink_to("nowhere")
    assert find_roots() == [base]


@pytest.mark.parametrize("place", ["", "SageMaker", "SageMaker/team"])
def test_other_directories_of_snapper_make_nothing_managed(
    home: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its settings, state, store and programs are in a directory of the same name."""
    (home / place / ".snapper/venv/bin").mkdir(parents=True)
    (home / place / ".snapper/config.toml").touch()
    monkeypatch.setenv("CONDA_ENVS_PATH", "")
    root = conda_root(home / place / "conda")
    (root / "bin/conda").touch(0o755)
    (root / ".condarc").write_text(f"envs_dirs: [{home}/envs]\n")
    monkeypatch.setenv("CONDA_EXE", f"{root}/bin/conda")
    assert envs_dirs()[:2] == [home / "envs", root / "envs"]
    assert conda_commands() == (str(root), f"{root}/condabin")


def test_environment_in_an_envs_directory_is_no_root(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user has the programs of a restored environment in PATH, and it has a `conda`."""
    no_system_conda()
    for directory in (home / "envs", home / "miniforge3/envs"):
        tools = environment(directory / "tools", "tools")
        (tools / "bin").mkdir()
        (tools / "bin/conda").touch(0o755)
        monkeypatch.setenv("PATH", f"{tools}/bin:/usr/bin")
        assert tools not in find_roots()
        shutil.rmtree(tools / ".snapper")
        assert tools in find_roots()


def test_conda_in_an_environment_of_a_restored_base_may_be_used(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in `envs` is not from the snapshot of base."""
    base = environment(home / "miniforge3", "base")
    tools = conda_root(base / "envs/tools")
    (tools / "bin/conda").touch(0o755)
    (tools / ".condarc").write_text(f"envs_dirs: [{home}/mine]\n")
    monkeypatch.setenv("CONDA_EXE", f"{tools}/bin/conda")
    assert find_roots() == [tools, base]
    assert envs_dirs()[1:4] == [home / "mine", tools / "envs", base / "envs"]


def test_program_of_the_users_own_conda_may_be_a_link(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for root in (conda_root(home / "apps/conda"), environment(home / "apps/base", "base")):
        for directory in ("bin", "condabin"):
            (root / directory).mkdir(exist_ok=True)
        (root / "bin/conda").touch(0o755)
        link = home / root.name / "conda"
        link.parent.mkdir()
        link.symlink_to(root / "bin/conda")
        monkeypatch.setenv("CONDA_EXE", str(link))
        assert find_roots()[0] == root
        assert root / "envs" in envs_dirs()
        is_managed = (root / ".snapper").exists()
        assert conda_commands() == (str(root), "" if is_managed else f"{root}/condabin")


def test_settings_in_a_restored_environment_name_no_envs_directories(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever environments are searched or restored, and also if a link of another root prefix leads there."""
    monkeypatch.delenv("CONDA_ENVS_PATH")
    root, base = conda_root(home / "miniforge3"), conda_root(home / "miniconda3")
    (base / ".snapper").mkdir()
    environment(base / "lib/x/team")
    (base / ".condarc").write_text(f"envs_dirs: [{base}/lib/x, {home}/work]\n")
    expected = {root / "envs", base / "envs", home / ".conda/envs"}
    assert set(envs_dirs()) == expected
    with pytest.raises(EnvironmentNotFound):
        find_environment("team")
    (root / ".condarc").symlink_to(base / ".condarc")
    (home / ".condarc").symlink_to(base / ".condarc")
    assert set(envs_dirs()) == expected
    (home / ".condarc").unlink()
    (home / ".condarc").write_text(f"envs_dirs: [{base}/lib/x]\n")
    assert set(envs_dirs()) == {*expected, base / "lib/x"}
    assert find_environment("team") == base / "lib/x/team"


def test_restored_environment_does_not_become_a_root(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even if it has the programs of a conda installation and is active."""
    monkeypatch.delenv("CONDA_ENVS_PATH")
    evil = environment(home / "mine" / "evil", "evil")
    for name in ("condabin", "envs"):
        (evil / name).mkdir()
    monkeypatch.setenv("CONDA_PREFIX", str(evil))
    assert choose("team-x", evil / "envs/team-x").prefix == home / ".conda/envs/team-x"
    (evil / ".snapper").rename(home / "no-state")
    assert choose("team-x", evil / "envs/team-x").prefix == evil / "envs/team-x"


# --- other users ------------------------------------------------------------------------------------------


@needs_root
def test_directories_that_others_control_are_not_used(home: Path, tmp_path: Path) -> None:
    """Neither where this user once packed from, nor in another user's installation."""
    shared = tmp_path / "shared"
    for name in ("theirs", "writable", "own"):
        (shared / name).mkdir(parents=True)
        remember_location("team-x", shared / name / "env")
    give_away(shared / "theirs")
    (shared / "writable").chmod(0o777)
    (shared / "link").symlink_to("own")
    give_away(shared / "link")
    remember_location("team-x", shared / "link/env")
    assert (
        refused(home, "team-x", shared / "theirs/env") == f"{shared}/theirs belongs to the user {_OTHER_USER}"
    )
    assert refused(home, "team-x", shared / "writable/env") == f"{shared}/writable is writable by other users"
    assert (
        refused(home, "team-x", shared / "link/env") == f"{shared}/link is a link of the user {_OTHER_USER}"
    )
    assert choose("team-x", shared / "own/env").prefix == shared / "own/env"
    give_away(environment(shared / "own/env", "team-x"))
    assert choose("team-x", shared / "own/env").prefix == shared / "own/team-x"


def test_others_could_create_what_is_missing_in_a_sticky_directory(home: Path, tmp_path: Path) -> None:
    sticky = tmp_path / "sticky"
    sticky.mkdir()
    sticky.chmod(0o1777)
    for place in (sticky / "env", sticky / "base", sticky / "base/envs/team-x"):
        remember_location("team-x", place)
    assert choose("team-x", sticky / "env").prefix == sticky / "env"
    destinations = Destinations()
    destinations.choose("team-x", f"{sticky}/base")
    assert destinations.choose("team-x", f"{sticky}/base/envs/team-x").prefix == home / "envs/team-x"


@needs_root
def test_chosen_directory_may_be_shared_but_not_what_is_in_it(home: Path, tmp_path: Path) -> None:
    (home / "envs").chmod(0o777)
    assert choose("team-x", home / "envs/team-x") == Destination(home / "envs/team-x")
    give_away(environment(home / "envs/team-x", "team-x"))
    destination = choose("team-x", home / "envs/team-x")
    assert destination.prefix == home / ".conda/envs/team-x"
    assert destination.unused
    assert "belongs to the user" in destination.unused.reason
    (home / "envs/team-y").symlink_to(tmp_path)
    give_away(home / "envs/team-y")
    assert choose("team-y", "").prefix == home / ".conda/envs/team-y"


@needs_root
def test_root_does_not_write_into_the_home_of_another_user(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if HOME says so, as with some settings of sudo."""
    no_system_conda()
    monkeypatch.delenv("CONDA_ENVS_PATH")
    conda_root(home / "miniforge3")
    (home / ".condarc").write_text(f"envs_dirs: [{tmp_path}]\n")
    (home / ".conda").mkdir()
    (home / ".conda/environments.txt").write_text(f"{environment(tmp_path / 'listed', 'team-x')}\n")
    assert choose("team-x", tmp_path / "listed").prefix == tmp_path / "listed"
    give_away(home)
    for name in (".condarc", ".conda", ".conda/environments.txt"):
        give_away(home / name)
    with pytest.raises(NoTargetDirectory):
        choose("team-x", tmp_path / "listed")
    with pytest.raises(NoTargetDirectory) as caught:
        choose("team-x", home / "miniforge3/envs/team-x")
    assert f"{home} belongs to the user {_OTHER_USER}" in caught.value.message
    with pytest.raises(PermissionError):
        state_directory()
    link = home / ".local/state/snapper/locations"
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path)
    give_away(link)
    remember_location("team-x", tmp_path / "env")
    assert not (tmp_path / "team-x").exists()


def test_home_may_be_writable_by_a_group(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a umask of 002, everything in it is."""
    monkeypatch.delenv("CONDA_ENVS_PATH")
    root = conda_root(home / "miniforge3")
    if os.geteuid() == 0:
        monkeypatch.setattr(os, "getegid", lambda: _OTHER_USER)
    for directory in (home, root, root / "envs"):
        if os.geteuid() == 0:
            os.chown(directory, -1, _OTHER_USER)
        directory.chmod(0o775)
    assert choose("team-x", root / "envs/team-x").prefix == root / "envs/team-x"
    (root / "envs").chmod(0o777)
    assert choose("team-x", root / "envs/team-x").prefix == home / ".conda/envs/team-x"


@needs_root
def test_conda_that_a_group_may_write_to_is_not_used(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = conda_root(tmp_path / "conda")
    monkeypatch.setenv("CONDA_EXE", f"{root}/bin/conda")
    assert choose("team-x", root / "envs/team-x").prefix == root / "envs/team-x"
    os.chown(root, -1, _OTHER_USER)
    root.chmod(0o775)
    assert refused(home, "team-x", root / "envs/team-x") == f"{root} is writable by other users"


@needs_root
def test_home_may_be_in_a_directory_of_another_user(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other user controls the home anyway. In containers, root may appear as another user."""
    monkeypatch.delenv("CONDA_ENVS_PATH")
    root = conda_root(home / "miniforge3")
    give_away(tmp_path)
    assert choose("team-x", root / "envs/team-x") == Destination(root / "envs/team-x")
    for place in (home / "project", tmp_path / "project"):
        place.mkdir()
        remember_location("team-x", place / "env")
    assert choose("team-x", home / "project/env") == Destination(home / "project/env")
    assert choose("team-x", tmp_path / "project/env").prefix == root / "envs/team-x"


def test_envs_directory_may_be_a_link(home: Path, tmp_path: Path) -> None:
    (home / "envs").rename(tmp_path / "real")
    (home / "envs").symlink_to(tmp_path / "real")
    for packed_at in (home / "envs/team-x", tmp_path / "real/team-x"):
        assert choose("team-x", packed_at) == Destination(home / "envs/team-x")


# --- conda's settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "[" * 50_000, "a: " + "{a: " * 10_000, "- " * 30_000, "envs_dirs: [x] #" + "x" * (1 << 17),
        "envs_dirs: " + "[" * 60_000,
        "envs_dirs: !!seq text", "envs_dirs: !!python/object/apply:os.system [true]", "!!map envs_dirs",
        'envs_dirs: ["a\\0b"]', "envs_dirs: &a [*a]", "envs_dirs: {a: b}", "? [envs_dirs]\n: [x]",
    ],
    ids=range(12),
)  # fmt: skip
def test_malformed_condarc_is_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / ".condarc").write_text(text)
    assert read_envs_dirs(tmp_path / ".condarc") == EnvsDirs()


def test_condarc_that_expands_is_not_expanded(tmp_path: Path) -> None:
    """Merge keys would double the number of entries with each level."""
    levels = "".join(f"l{n}: &l{n}\n  <<: [*l{n - 1}, *l{n - 1}]\n" for n in range(1, 60))
    aliases = "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
    text = f"l0: &l0 {{a: 1, b: 2}}\n{levels}a0: &a0 [x]\n{aliases}envs_dirs: [~/here, *a59]\n"
    (tmp_path / ".condarc").write_text(text)
    assert read_envs_dirs(tmp_path / ".condarc").directories == ("~/here",)


@pytest.mark.parametrize("name", [".condarc", ".conda/environments.txt"])
def test_settings_of_conda_that_cannot_be_read_are_ignored(home: Path, name: str) -> None:
    file = home / name
    file.parent.mkdir(exist_ok=True)
    for make in (os.mkfifo, lambda path: os.symlink("/dev/zero", path), os.mkdir):
        make(file)
        assert choose("team-x", home / "project/env").prefix == home / "envs/team-x"
        os.rmdir(file) if file.is_dir() else file.unlink()
