"""Which environment a name refers to, and where environments are restored."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from snapper.environment import conda_directories, condarc_files
from snapper.environment.locations import find_environment
from tests.conftest import Machine, tree_of
from tests.support.environments import make_data
from tests.support.redteam import publisher
from tests.support.users import unprivileged

#: Without the developer's own conda.
PROGRAMS = "/usr/bin:/bin"


def environment(prefix: Path) -> Path:
    """Create a minimal environment."""
    (prefix / "conda-meta").mkdir(parents=True)
    (prefix / "conda-meta" / "history").write_text("")
    return prefix


def found(machine: Machine, name: str, **variables: str) -> str:
    """Return the directory that `snapper pack NAME` packs."""
    prefix: str = machine.run_json("pack", name, PATH=PROGRAMS, **variables)["prefix"]
    return prefix


def not_found(machine: Machine, name: str, **variables: str) -> None:
    outcome = machine.snapper("pack", name, "--json", PATH=PROGRAMS, **variables)
    assert outcome.code == 10, outcome
    assert outcome.json["error"]["type"] == "EnvironmentNotFound"


def register(machine: Machine, text: str) -> Path:
    file = machine.home / ".conda" / "environments.txt"
    file.parent.mkdir()
    file.write_text(text)
    return file


# --- pack NAME --------------------------------------------------------------------------------------------


def test_environments_in_condas_list_are_found_by_name(machine: Machine) -> None:
    prefix = environment(machine.home / "project" / "env")
    register(machine, f"/somewhere/gone/env\n\n  {prefix}  \n{prefix}er\nrelative\n")
    assert found(machine, "env") == str(prefix)
    not_found(machine, "gone")
    not_found(machine, "project")


@pytest.mark.parametrize("variable", ["CONDA_ENVS_PATH", "CONDA_ENVS_DIRS"])
def test_environments_in_directories_from_the_environment_are_found(variable: str, machine: Machine) -> None:
    prefix = environment(machine.home / "second" / "env")
    listed = os.pathsep.join(["", "/does/not/exist", "~/first", "$HOME/second"])
    assert found(machine, "env", **{variable: listed}) == str(prefix)
    not_found(machine, "env")


@pytest.mark.parametrize(
    "file", [".condarc", ".conda/condarc", ".config/conda/.condarc", ".mambarc", "elsewhere/condarc"]
)
def test_environments_in_directories_from_a_condarc_are_found(file: str, machine: Machine) -> None:
    there = machine.home / file
    there.parent.mkdir(parents=True, exist_ok=True)
    there.write_text("channels: [conda-forge]\nenvs_dirs:\n  - ~/tilde\n  - $PLACE/variable\n  - 5\n")
    variables = {"PLACE": str(machine.home), "CONDARC": str(machine.home / "elsewhere" / "condarc")}
    for directory in ("tilde", "variable"):
        prefix = environment(machine.home / directory / f"in-{directory}")
        assert found(machine, f"in-{directory}", **variables) == str(prefix)


#: Files of conda and mamba, by what they are relative to, in the order of precedence, the lowest first.
FILES = (
    *(f"root/{name}" for name in (".condarc", "condarc", "condarc.d/x.yml", "condarc.d/y.yaml", ".mambarc")),
    *(f"xdg/conda/{name}" for name in (".condarc", "condarc", "condarc.d/x.yml")),
    *(f".config/conda/{name}" for name in (".condarc", "condarc", "condarc.d/x.yml")),
    *(f".conda/{name}" for name in (".condarc", "condarc", "condarc.d/x.yml")),
    ".condarc",
    *(f"xdg/mamba/{name}" for name in (".mambarc", "mambarc", "mambarc.d/x.yml")),
    *(f".config/mamba/{name}" for name in (".mambarc", "mambarc", "mambarc.d/x.yml")),
    *(f".mamba/{name}" for name in (".mambarc", "mambarc", "mambarc.d/x.yml")),
    ".mambarc",
    *(f"active/{name}" for name in (".condarc", "condarc", "condarc.d/x.yml", ".mambarc")),
    "by-variable/conda.yml",
    "by-variable-of-mamba/x.yaml",
)


@pytest.fixture
def files_of_conda(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Write files with envs directories that are named like them, and return those that are found, in order."""
    home = machine.home
    environment(home / "active")
    monkeypatch.setattr(conda_directories, "system_files", lambda: iter(()))
    for name, value in {
        "HOME": home,
        "CONDA_ROOT": home / "root",
        "XDG_CONFIG_HOME": home / "xdg",
        "CONDA_PREFIX": home / "active",
        "CONDARC": "~/by-variable/conda.yml",
        "MAMBARC": "~/by-variable-of-mamba",
    }.items():
        monkeypatch.setenv(name, str(value))
    for name in ("CONDA_ENVS_DIRS", "CONDA_ENVS_PATH", "CONDA_EXE", "MAMBA_ROOT_PREFIX"):
        monkeypatch.delenv(name, raising=False)

    def order(texts: dict[str, str]) -> list[str]:
        for file, text in texts.items():
            (home / file).parent.mkdir(parents=True, exist_ok=True)
            (home / file).write_text(text)
        found = [str(path) for path in conda_directories.envs_dirs()]
        return [path.removeprefix("/of/") for path in found if path.startswith("/of/")]

    return order


def test_all_files_of_conda_and_mamba_are_read_in_order(files_of_conda: Callable[..., list[str]]) -> None:
    texts = {file: f"envs_dirs: [/of/{file}]\n" for file in FILES}
    assert files_of_conda(texts) == [*reversed(FILES)]


@pytest.mark.parametrize("file", ["condarc.d/x.txt", "condarc.d/yml", "condarc.d/sub/x.yml", "mamba.yml"])
def test_other_files_are_not_read(file: str, files_of_conda: Callable[..., list[str]]) -> None:
    assert files_of_conda({f".conda/{file}": "envs_dirs: [/of/it]\n"}) == []


def test_flags_in_files_of_conda_are_followed(files_of_conda: Callable[..., list[str]]) -> None:
    texts = {
        "root/.condarc": "envs_dirs:\n  - /of/root\n  - /of/first  #!top\n  - /of/last  #!bottom\n",
        ".condarc": "envs_dirs:  #!final\n  - /of/home\n  - /of/lower  #!bottom\n  - /of/plain # top\n",
        "active/.condarc": "envs_dirs: [/of/hidden]\n",
    }
    assert files_of_conda(texts) == ["first", "home", "plain", "root", "lower", "last"]


def test_values_that_conda_has_by_other_names(files_of_conda: Callable[..., list[str]]) -> None:
    texts = {
        "root/.condarc": "envs_path: [/of/path]\n",
        ".condarc": "\ufeffenvs_dirs: ['/of/quoted # not a comment', /of/path, '${HOME}/x']\n",
    }
    assert files_of_conda(texts) == ["quoted # not a comment", "path"]


def test_files_of_the_system_are_searched() -> None:
    assert list(map(str, condarc_files._SYSTEM)) == ["/etc/conda", "/var/lib/conda"]


@pytest.mark.parametrize("name", ["condarc.d/x.yml", "condarc", ".condarc", ".mambarc"])
def test_environments_in_directories_that_the_system_names_are_found(
    name: str, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "etc" / name).parent.mkdir(parents=True)
    (tmp_path / "etc" / name).write_text(f"envs_dirs: [{tmp_path}/shared]\n")
    prefix = environment(tmp_path / "shared" / "env")
    monkeypatch.setattr(condarc_files, "_SYSTEM", (tmp_path / "etc",))
    assert find_environment("env") == prefix


@pytest.mark.parametrize("name", ["condarc", "condarc.d/x.yml", ".mambarc"])
def test_files_of_managed_environments_decide_nothing(
    name: str, files_of_conda: Callable[..., list[str]], machine: Machine
) -> None:
    text = "envs_dirs: [/of/it]\n"
    assert files_of_conda({f"active/{name}": text}) == ["it"]
    machine.run_json("pack", "-p", machine.home / "active")
    assert files_of_conda({}) == []
    (machine.home / ".conda").mkdir()
    (machine.home / ".conda/condarc").symlink_to(machine.home / "active" / name)
    assert files_of_conda({}) == []


@pytest.mark.parametrize("controlled", [".conda/condarc.d", ".conda/condarc.d/x.yml", ".mambarc"])
def test_files_of_other_users_decide_nothing(
    controlled: str, files_of_conda: Callable[..., list[str]], machine: Machine
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to give files to another user")
    file = controlled if controlled.endswith("rc") else ".conda/condarc.d/x.yml"
    assert files_of_conda({file: "envs_dirs: [/of/it]\n"}) == ["it"]
    os.chown(machine.home / controlled, 12345, -1)
    assert files_of_conda({}) == []


def test_default_root_prefixes_of_micromamba_are_searched(machine: Machine) -> None:
    for top in ("micromamba", "xdg/mamba"):
        prefix = environment(machine.home / top / "envs" / f"in-{top[:3]}")
        assert found(machine, prefix.name, XDG_DATA_HOME=f"{machine.home}/xdg") == str(prefix)


def test_environments_are_restored_into_directories_of_all_files(machine: Machine, tmp_path: Path) -> None:
    prefix = make_data(tmp_path / "origin" / "data")
    machine.run_json("pack", "-p", prefix)
    shutil.rmtree(tmp_path / "origin")
    shutil.rmtree(machine.home / ".local", ignore_errors=True)
    (machine.home / "mine").mkdir()
    (machine.home / ".config/conda/condarc.d").mkdir(parents=True)
    (machine.home / ".config/conda/condarc.d/x.yaml").write_text(f"envs_dirs: [{machine.home}/mine]\n")
    assert restored(machine, CONDA_ENVS_PATH="") == machine.home / "mine" / "data"


def test_credentials_in_all_files_of_conda_are_named(machine: Machine) -> None:
    prefix = environment(machine.envs / "env")
    (prefix / "condarc.d").mkdir()
    for file in ("condarc.d/x.yml", "condarc", ".mambarc"):
        (prefix / file).write_text("channels: [https://conda.example/t/s3cret-3/channel]\n")
    packed = machine.run_json("pack", "env", PATH=PROGRAMS)
    assert packed["credentials"] == [".mambarc", "condarc", "condarc.d/x.yml"]


def test_invalid_condarc_files_are_ignored(machine: Machine) -> None:
    strange = {
        ".condarc": "[",
        ".conda/.condarc": "envs_dirs: 5",
        ".mambarc": "- list",
        "by-variable": "\x00",
        "mamba/.condarc": "when: 2024-99-99",
        "conda/.condarc": "",
    }
    for file, text in strange.items():
        (machine.home / file).parent.mkdir(exist_ok=True)
        (machine.home / file).write_text(text)
    variables = {"CONDARC": "~/by-variable", "MAMBA_ROOT_PREFIX": "~/mamba"}
    variables["CONDA_EXE"] = str(machine.home / "conda" / "bin" / "conda")
    prefix = environment(machine.envs / "env")
    assert found(machine, "env", **variables) == str(prefix)


def root(machine: Machine) -> Path:
    """Return the root of a conda installation: its own environment, a program, and an environment in it."""
    prefix = environment(machine.home / "miniforge")
    for directory in ("bin", "condabin"):
        (prefix / directory).mkdir()
        (prefix / directory / "conda").write_text("#!/bin/sh\n")
        (prefix / directory / "conda").chmod(0o755)
    (prefix / ".condarc").write_text("envs_dirs: [~/of-the-root]\n")
    environment(prefix / "envs" / "inner")
    environment(machine.home / "of-the-root" / "outer")
    return prefix


Ways = Callable[[Path], dict[str, str]]

WAYS: dict[str, Ways] = {
    "its program": lambda prefix: {"CONDA_EXE": f"{prefix}/bin/conda"},
    "base is active": lambda prefix: {"CONDA_PREFIX": str(prefix)},
    "base is active by name": lambda prefix: {"CONDA_PREFIX": str(prefix), "CONDA_DEFAULT_ENV": "base"},
    "another is active": lambda prefix: {"CONDA_PREFIX": f"{prefix}/envs/inner"},
    "mamba's variable": lambda prefix: {"MAMBA_ROOT_PREFIX": str(prefix)},
    "mamba's variable with a tilde": lambda _: {"MAMBA_ROOT_PREFIX": "~/miniforge"},
}


@pytest.mark.parametrize("way", WAYS)
def test_environments_of_a_conda_installation_are_found(way: str, machine: Machine) -> None:
    prefix = root(machine)
    variables = WAYS[way](prefix)
    assert found(machine, "inner", **variables) == f"{prefix}/envs/inner"
    assert found(machine, "outer", **variables) == f"{machine.home}/of-the-root/outer"
    not_found(machine, "inner")


def no_system_conda() -> None:
    if any(Path("/opt", name).exists() for name in ("conda", "miniconda3", "miniforge3")):
        pytest.skip("this machine has a conda of its own in /opt, whose base is found too")


@pytest.mark.parametrize("way", WAYS)
def test_base_is_the_environment_of_conda_itself(way: str, machine: Machine) -> None:
    no_system_conda()
    prefix = root(machine)
    (prefix / "pkgs").mkdir()
    (prefix / "pkgs" / "urls.txt").write_text("")
    packed = machine.run_json("pack", "base", PATH=PROGRAMS, **WAYS[way](prefix))
    assert packed["prefix"] == str(prefix)
    assert packed["environment"] == "base"
    assert {each["path"] for each in packed["skipped"]} == {"envs", "pkgs"}


def test_root_is_another_name_of_base(machine: Machine) -> None:
    no_system_conda()
    prefix = root(machine)
    environment(prefix / "envs" / "root")  # conda never finds it by its name
    packed = machine.run_json("pack", "root", PATH=PROGRAMS, CONDA_EXE=f"{prefix}/bin/conda")
    assert (packed["prefix"], packed["environment"]) == (str(prefix), "base")


def test_the_first_configured_directory_with_the_name_counts(machine: Machine) -> None:
    """As for `conda activate`; what conda does not find by its name does not count."""
    prefix = root(machine)
    for directory in ("first", "second", "listed", "of-the-root"):
        environment(machine.home / directory / "env")
    environment(prefix / "envs" / "env")
    register(machine, f"{machine.home}/listed/env\n")
    variables = {"CONDA_EXE": f"{prefix}/bin/conda"}
    assert found(machine, "env", **variables) == f"{machine.home}/of-the-root/env"
    variables["CONDA_ENVS_DIRS"] = f"{machine.home}/missing:{machine.home}/second:{machine.home}/first"
    assert found(machine, "env", **variables) == f"{machine.home}/second/env"


def test_environments_of_several_installations_are_ambiguous(machine: Machine) -> None:
    for installation in ("miniforge3", "micromamba"):
        environment(machine.home / installation / "envs" / "env")
    assert machine.expect_error(11, "pack", "env", PATH=PROGRAMS)["type"] == "AmbiguousName"


def test_active_environments_are_not_base(machine: Machine) -> None:
    no_system_conda()
    prefix = environment(machine.home / "project" / "env")
    not_found(machine, "base", CONDA_PREFIX=str(prefix), CONDA_DEFAULT_ENV=str(prefix))


def test_conda_is_found_on_the_path(machine: Machine) -> None:
    prefix = root(machine)
    packed = machine.run_json("pack", "inner", PATH=f"{prefix}/condabin:{PROGRAMS}")
    assert packed["prefix"] == f"{prefix}/envs/inner"


def test_one_environment_found_in_several_ways_is_not_ambiguous(machine: Machine) -> None:
    prefix = environment(machine.home / "real" / "env")
    for link in ("one", "two"):
        (machine.home / link).symlink_to("real")
    (machine.envs / "env").symlink_to(prefix)
    register(machine, f"{machine.home}/one/env\n{prefix}\n{prefix}/\n")
    assert Path(found(machine, "env", CONDA_ENVS_DIRS=f"{machine.home}/two")).resolve() == prefix


@pytest.mark.parametrize("text", ["loop", "x" * 300, "closed/envs"])
def test_unreadable_directories_are_ignored(text: str, machine: Machine) -> None:
    user = unprivileged(machine)
    (machine.home / "loop").symlink_to("loop")
    (machine.home / "closed" / "envs").mkdir(parents=True)
    (machine.home / "closed").chmod(0)
    register(machine, f"{machine.home}/{text}/env\n")
    (machine.home / ".condarc").symlink_to(f"{text}/.condarc")
    prefix = environment(machine.envs / "env")
    strange = f"{machine.home}/{text}"
    variables = {
        "CONDA_ENVS_DIRS": strange,
        "MAMBA_ROOT_PREFIX": strange,
        "CONDA_EXE": f"{strange}/bin/conda",
    }
    assert found(user, "env", **variables) == str(prefix)
    (machine.home / "closed").chmod(0o755)


# --- restore targets --------------------------------------------------------------------------------------


@pytest.fixture
def origin(machine: Machine) -> Path:
    """Return the prefix that `data` was packed from, which is removed; its parent directory exists."""
    prefix = make_data(machine.home / "origin" / "data")
    machine.run_json("pack", "-p", prefix)
    shutil.rmtree(prefix)
    return prefix


def restored(machine: Machine, *options: object, **variables: str) -> Path:
    """Return the prefix to which `snapper restore data` restores."""
    (document,) = machine.run_json("restore", "data", *options, PATH=PROGRAMS, **variables)["restored"]
    prefix = Path(document["prefix"])
    assert (prefix / "conda-meta").is_dir()
    return prefix


def test_restore_to_the_prefix_it_was_packed_from(origin: Path, machine: Machine) -> None:
    assert restored(machine) == origin


def test_restore_to_a_project_directory_with_another_name(machine: Machine) -> None:
    """The project may differ in name; in an envs directory, conda finds environments by directory name."""
    project = make_data(machine.home / "project" / "env")
    machine.run_json("pack", "-p", project, "--name", "data")
    shutil.rmtree(project)
    assert restored(machine) == project
    (project / "which").write_text("changed")
    machine.run_json("pack", "-p", project, "--name", "data")
    machine.run_json("rollback", "data")
    assert not (project / "which").exists()
    assert [path.name for path in project.parent.iterdir()] == ["env"]
    shutil.rmtree(project)
    make_data(project)
    assert restored(machine) == project.parent / "data"
    named = make_data(machine.envs / "env")
    machine.run_json("pack", "-p", named, "--name", "other")
    shutil.rmtree(named)
    (document,) = machine.run_json("restore", "other")["restored"]
    assert document["prefix"] == str(machine.envs / "other")


def test_environments_packed_from_one_prefix_do_not_share_a_target(machine: Machine) -> None:
    project = make_data(machine.home / "project" / "env")
    for name in ("first", "env", "second"):
        (project / "which").write_text(name)
        machine.run_json("pack", "-p", project, "--name", name)
    shutil.rmtree(project)
    for _ in range(2):
        places = {
            each["environment"]: each["prefix"] for each in machine.run_json("restore", "--all")["restored"]
        }
        assert places == {
            "env": str(project),
            "first": str(project.parent / "first"),
            "second": str(project.parent / "second"),
        }
        assert all((Path(place) / "which").read_text() == name for name, place in places.items())


def test_restore_base_and_environments_inside_it(machine: Machine) -> None:
    """The machine has none of them. base is only restored to the prefix that it had."""
    base = make_data(machine.home / "forge")
    (base / "condabin").mkdir()
    inner = make_data(base / "envs" / "a")
    machine.run_json("pack", "-p", base, "--name", "base")
    machine.run_json("pack", "-p", inner)
    shutil.rmtree(base)
    for present in (False, True):
        found = machine.run_json("restore", "--all")["restored"]
        assert {each["environment"]: (each["prefix"], each["present"]) for each in found} == {
            "base": (str(base), present),
            "a": (str(inner), present),
        }
    shutil.rmtree(base)
    make_data(base)
    assert machine.expect_error(11, "restore", "base")["type"] == "TargetOccupied"
    assert not (machine.home / "base").exists()


def test_restore_says_why_it_is_not_where_it_was_packed(
    origin: Path, machine: Machine, new_machine: Callable[[str], Machine]
) -> None:
    """Another user's machine shares the store, but nobody has ever packed there."""
    other = new_machine("two")
    place = other.envs / "data"
    told = f"  not to {origin}, where it was packed: that is not in one of your envs directories\n"
    outcome = other.snapper("restore", "data")
    assert outcome.code == 0
    assert f"Restored data to {place} (" in outcome.out
    assert told in outcome.err
    assert told not in other.snapper("restore", "data").err
    shutil.rmtree(place)
    outcome = other.snapper("restore", "--all", "--quiet")
    assert (outcome.code, outcome.err) == (0, "")
    (document,) = other.run_json("restore", "data")["restored"]
    unused = {"prefix": str(origin), "reason": "that is not in one of your envs directories"}
    assert (document["prefix"], document["unused_location"]) == (str(place), unused)
    assert other.run_json("status", "data")["environments"][0]["prefix"] == str(place)
    (document,) = machine.run_json("restore", "data")["restored"]
    assert (document["prefix"], document["unused_location"]) == (str(origin), None)


def test_restore_with_a_prefix_is_remembered(origin: Path, new_machine: Callable[[str], Machine]) -> None:
    other = new_machine("two")
    assert restored(other, "--prefix", origin) == origin
    shutil.rmtree(origin)
    assert restored(other) == origin


def test_locations_are_remembered_on_the_volume_of_a_notebook_instance(
    machine: Machine, tmp_path: Path
) -> None:
    """The rest of the home directory is lost at each stop."""
    volume = machine.home / "SageMaker"
    volume.mkdir()
    prefix = make_data(tmp_path / "disk" / "data")
    machine.run_json("pack", "-p", prefix)
    shutil.rmtree(prefix)
    for path in machine.home.iterdir():
        if path != volume:
            shutil.rmtree(path)
    assert restored(machine) == prefix


def test_restore_to_the_requested_directory(origin: Path, machine: Machine) -> None:
    variable = {"SNAPPER_ENVS_DIR": "~/by-variable"}
    assert restored(machine, **variable) == machine.home / "by-variable" / "data"
    assert restored(machine, "--envs-dir", "~/by-option", **variable) == machine.home / "by-option" / "data"
    assert restored(machine, "--envs-dir", "relative/../here") == machine.home / "here" / "data"
    assert restored(machine, "--prefix", "~/x/y", **variable) == machine.home / "x" / "y"
    assert not origin.exists()


def test_restore_to_condas_first_writable_directory(origin: Path, machine: Machine) -> None:
    user = unprivileged(machine)
    origin.parent.chmod(0o555)
    closed = machine.home / "closed"
    closed.mkdir(mode=0o555)
    listed = os.pathsep.join([str(machine.home / "missing"), str(closed), str(machine.envs)])
    assert restored(user, CONDA_ENVS_PATH=listed) == machine.envs / "data"


def test_restore_to_condas_default_directory(origin: Path, machine: Machine) -> None:
    no_system_conda()
    origin.parent.rmdir()
    assert restored(machine, CONDA_ENVS_PATH="") == machine.home / ".conda" / "envs" / "data"


def test_restore_without_any_writable_directory_is_refused(origin: Path, machine: Machine) -> None:
    no_system_conda()
    user = unprivileged(machine)
    origin.parent.chmod(0o555)
    machine.home.chmod(0o555)
    error = user.expect_error(10, "restore", "data", PATH=PROGRAMS, CONDA_ENVS_PATH="/does/not/exist")
    assert error["type"] == "NoTargetDirectory"
    assert f"{origin.parent} is not a directory that you can write to" in error["message"]
    for tried in ("/does/not/exist", machine.home / ".conda" / "envs"):
        assert str(tried) in error["message"]
    assert "--envs-dir" in error["hint"]
    machine.home.chmod(0o755)


# --- reserved names ---------------------------------------------------------------------------------------

RESERVED = ("conda-meta", "ENVS", "pkgs", "Root")


def test_reserved_names_are_not_packed(machine: Machine) -> None:
    prefix = make_data(machine.home / "project" / "Root")
    named = [("pack", "-p", prefix, "--name", name) for name in RESERVED]
    for arguments in (("pack", "-p", prefix), ("import", "Root.zip"), *named):
        error = machine.expect_error(2, *arguments)
        assert "cannot be called" in error["message"]
        assert "--name" in error["hint"]
    assert not machine.store.exists()
    assert machine.run_json("pack", "-p", prefix, "--name", "work")["environment"] == "work"


def test_reserved_names_are_only_restored_to_a_given_directory(machine: Machine) -> None:
    """Others may have written such an entry, with a snapper that does not know what the name means."""
    for name in (*RESERVED, "base", "work"):
        publisher.publish(machine.store, name)
    outcome = machine.snapper("restore", "--all", "--json", "--envs-dir", machine.envs)
    assert outcome.code == 11
    assert sorted(path.name for path in machine.envs.iterdir()) == ["work"]
    assert {error["environment"] for error in outcome.json["failed"]} == {*RESERVED, "base"}
    for name in ("Root", "base"):
        assert "--prefix" in machine.expect_error(11, "restore", name, "--replace")["hint"]
    machine.run_json("restore", "base", "--prefix", machine.home / "conda")
    assert "'Root' is not restored" in machine.snapper("doctor").out
    machine.run_json("restore", "Root", "--prefix", machine.home / "elsewhere")
    assert (
        machine.run_json("pack", "-p", machine.home / "elsewhere", "--name", "free")["environment"] == "free"
    )


# --- conda's list of environments -------------------------------------------------------------------------


def test_restored_environments_are_registered_with_conda(origin: Path, machine: Machine) -> None:
    file = register(machine, "")
    for before, after in (
        ("", "{new}\n"),
        ("/a/b\n", "/a/b\n{new}\n"),
        ("/a/b", "/a/b\n{new}\n"),
        ("\n  /a/b  \n\n/gone\n", "\n  /a/b  \n\n/gone\n{new}\n"),
        ("{new}\n/a/b\n", "{new}\n/a/b\n"),
        ("{new}", "{new}"),
        ("{new}er\n", "{new}er\n{new}\n"),
    ):
        file.write_text(before.format(new=origin))
        restored(machine)
        assert file.read_text() == after.format(new=origin)


def test_undecodable_bytes_in_condas_list_are_preserved(origin: Path, machine: Machine) -> None:
    file = register(machine, "")
    file.write_bytes(b"/\xff\xfe/x\r\n/y")
    restored(machine)
    assert file.read_bytes() == b"/\xff\xfe/x\r\n/y\n" + os.fsencode(f"{origin}\n")


def test_restore_succeeds_if_condas_list_is_not_writable(origin: Path, machine: Machine) -> None:
    file = register(machine, "/a/b\n")
    file.unlink()
    file.mkdir()
    outcome = machine.snapper("restore", "data")
    assert outcome.code == 0, outcome
    assert "could not be added to ~/.conda/environments.txt" in outcome.err
    assert tree_of(file) == {}
