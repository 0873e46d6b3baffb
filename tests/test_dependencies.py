"""What an environment uses outside of it is packed, or named by `pack` and `doctor`, with exit code 3."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import struct
import sys
import zipfile
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from scripts.maker import make
from snapper.environment.dependencies import find_dependencies
from snapper.environment.lookup import Lookup
from snapper.environment.outside_paths import Surroundings
from snapper.fs.directories import pin_directory
from tests.conftest import Machine, tree_of
from tests.support.environments import make_data
from tests.support.kernelspecs import add_kernel
from tests.support.pip import make_wheel, pip, python_of, run, wheels


@pytest.fixture
def data(machine: Machine) -> Path:
    return make_data(machine.envs / "work")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A machine with an environment `work` that has Python and pip; tests may change the user's home."""
    home = tmp_path_factory.mktemp("python")
    machine = Machine(home, home / "envs", home / "store")
    machine.envs.mkdir()
    make("compiled", machine.envs / "work")
    return machine


def dependencies(machine: Machine) -> list[tuple[str, str, list[str]]]:
    """Return what `pack` and `doctor` name, with the home as `~`; both exit with 3 if there is something."""
    found = packed_dependencies(machine)
    shown = machine.snapper("pack", "work").err
    checked = machine.snapper("doctor").out
    for dependency in found:
        for text in (dependency["path"], dependency["names"][0]):
            assert text in shown
            assert text in checked
    return with_short_paths(machine, found)


def packed_dependencies(machine: Machine) -> list[dict[str, Any]]:
    """Return what `pack` names; it exits with 3 if there is something."""
    outcome = machine.snapper("pack", "work", "--json")
    found: list[dict[str, Any]] = outcome.json["dependencies"]
    assert outcome.code == (3 if found else 0)
    return found


def with_short_paths(machine: Machine, found: list[dict[str, Any]]) -> list[tuple[str, str, list[str]]]:
    home = str(machine.home)
    return [(each["kind"], each["path"].replace(home, "~"), each["names"]) for each in found]


def write(file: Path, text: str = "") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def set_variables(prefix: Path, **variables: str) -> None:
    """Do what `conda env config vars set` does."""
    write(prefix / "conda-meta/state", json.dumps({"version": 1, "env_vars": variables}))


# --- packages of the user's own ---------------------------------------------------------------------------


def test_packages_in_the_user_site_are_named(python: Machine) -> None:
    prefix = python.envs / "work"
    assert packed_dependencies(python) == []
    wheel = wheels("six==1.16.0")[0]
    pip(prefix, "install", "--user", "--no-deps", "--no-index", wheel, HOME=str(python.home))
    site = next(python.home.glob(".local/lib/python3.*/site-packages"))
    write(site / "mine.py")
    where = str(site).replace(str(python.home), "~")
    assert dependencies(python) == [("python", where, ["mine.py", "six 1.16.0"])]
    found = python.snapper("pack", "work", "--json", PYTHONNOUSERSITE="1").json["dependencies"]
    assert [each["kind"] for each in found] == [
        "python"
    ]  # Jupyter may start the kernel without this variable
    set_variables(prefix, PYTHONNOUSERSITE="1")
    assert packed_dependencies(python) == []
    base = python.home / "volume/python"
    set_variables(prefix, PYTHONUSERBASE=str(base))
    assert packed_dependencies(python) == []
    pip(prefix, "install", "--user", "--no-deps", "--no-index", wheel, PYTHONUSERBASE=str(base))
    where = f"~/volume/python/lib/{site.parent.name}/site-packages"
    assert with_short_paths(python, packed_dependencies(python)) == [("python", where, ["six 1.16.0"])]
    (prefix / "conda-meta/state").unlink()


def test_packages_in_the_user_site_are_included(python: Machine, tmp_path: Path) -> None:
    """The restored environment imports what the packed one did, with nothing in the user's home."""
    prefix, site = python.envs / "work", next(python.home.glob(".local/lib/python3.*/site-packages"))
    own = prefix / "lib" / site.parent.name / "site-packages"
    write(own / "six.py", "__version__ = 'old'\n")
    write(own / "six-0.1.dist-info/METADATA", "Name: six\nVersion: 0.1\n")
    write(own / "spaces/own.py")
    write(own / "whole/__init__.py")
    write(own / "whole/stale.py")
    write(site / "spaces/mine.py")
    write(site / "whole/__init__.py")
    write(site / "where.txt", f"{site}/six.py")
    (site / "link.py").symlink_to(site / "mine.py")
    pip(prefix, "install", "--user", "--no-deps", "--no-index", wheels("tabulate")[0], HOME=str(python.home))
    assert (python.home / ".local/bin/tabulate").exists()
    result = python.run_json("pack", "work", "--user-site", "include")
    assert (result["included"], result["dependencies"]) == ([str(site)], [])
    assert "included" in python.snapper("pack", "work", "--user-site", "include").err
    home = tmp_path / "other"
    other = Machine(home, home / "envs", python.store)
    other.envs.mkdir(parents=True)
    other.run_json("restore", "work")
    restored = other.envs / "work"
    code = """
import importlib.metadata, importlib.util, six, mine, link, spaces.own, spaces.mine, tabulate
print(six.__version__, importlib.metadata.version("six"), six.__file__, importlib.util.find_spec("whole.stale"))
"""
    shown = run([python_of(restored)], ["-W", "error", "-c", code], home)
    packages = restored / "lib" / site.parent.name / "site-packages"
    assert shown == f"1.16.0 1.16.0 {packages}/six.py None\n"
    assert (packages / "where.txt").read_text() == f"{packages}/six.py"
    assert run([restored / "bin/tabulate"], ["--help"], home).startswith("Usage: tabulate")
    assert [path.name for path in packages.glob("six-*")] == ["six-1.16.0.dist-info"]
    assert python.snapper("pack", "work").code == 3
    write(
        site / "e-1.dist-info/direct_url.json", '{"url": "file:///nowhere", "dir_info": {"editable": true}}'
    )
    error = python.expect_error(1, "pack", "work", "--user-site", "include")
    assert "e (/nowhere)" in error["message"]


_EXTENDS = "__path__ = __import__('pkgutil').extend_path(__path__, __name__)"

#: The files of distributions in the environment, and in the user site.
_INSTALLED = {
    "a-one": ("space/one/__init__.py", "space/one/fast.py", "space/gone.py", "a_one.data/data/share/one/1"),
    "a-two": ("space/two.py",),
    "b-one": ("extended/__init__.py", "extended/one.py"),
    "c-one": ("plain/__init__.py", "plain/one.py"),
    "d-one": ("same/__init__.py", "same/one.py", "same/fast.py"),
    "e-one": ("coded/__init__.py",),
    "f": ("older/__init__.py", "older/one.py"),
    "g": ("newer/__init__.py", "newer/inner/__init__.py"),
}
_INSTALLED_BY_USER = {
    "A.One": ("space/one/__init__.py", "a_one.data/data/share/one/2"),
    "b-two": ("extended/__init__.py", "extended/two.py"),
    "c-two": ("plain/__init__.py", "plain/two.py"),
    "d-two": ("same/__init__.py", "same/one.py"),
    "e-two": ("coded/mine.py",),
    "f": ("older/two.py",),
    "g": ("newer/__init__.py", "newer/inner/two.py"),
}
_TEXTS = {
    "extended/__init__.py": _EXTENDS,
    "plain/__init__.py": "",
    "same/__init__.py": "",
    "newer/__init__.py": "",
}

#: Shows what is imported, from where there is version 1 or 2.
_IMPORT = """
import importlib
names = "space.one space.one.fast space.gone space.two extended.one extended.two plain.two same.one same.fast coded"
names += " coded.mine older.one older.two newer.inner newer.inner.two"
for name in names.split():
    try:
        print(name, getattr(importlib.import_module(name), "version", "has no version"))
    except ModuleNotFoundError:
        print(name, "missing")
"""


def test_distributions_in_the_user_site_replace_others_wholly(python: Machine, tmp_path: Path) -> None:
    """Other distributions keep their parts of the packages that both have."""
    prefix, user = python.envs / "work", tmp_path / "user"
    for distributions, options in ((_INSTALLED, ()), (_INSTALLED_BY_USER, ("--user",))):
        version = len(options) + 1
        made = [
            make_wheel(
                tmp_path,
                re.sub("[-.]", "_", name.lower()),
                str(version),
                {file: _TEXTS.get(file, f"version = {version}") for file in files},
            )
            for name, files in distributions.items()
        ]
        pip(prefix, "install", *options, "--no-deps", "--no-index", *made, PYTHONUSERBASE=str(user))
    before = run([python_of(prefix)], ["-c", _IMPORT], tmp_path, PYTHONUSERBASE=str(user))
    outcome = python.snapper("pack", "work", "--user-site=include", "--json", PYTHONUSERBASE=str(user))
    site = next(user.glob("lib/python3.*/site-packages"))
    skipped = {each["path"] for each in outcome.json["skipped"]}
    assert skipped == {str(site / "coded"), str(site / "older")}
    home = tmp_path / "other"
    other = Machine(home, home / "envs", python.store)
    other.envs.mkdir(parents=True)
    other.run_json("restore", "work")
    restored = other.envs / "work"
    assert "space.one 2\nspace.one.fast missing\nspace.gone 1\nspace.two 1\n" in before
    after = before.replace("space.gone 1", "space.gone missing")  # version 2 does not have it
    assert run([python_of(restored)], ["-c", _IMPORT], home) == after
    own = restored / "lib" / site.parent.name / "site-packages"
    assert (own / "plain/one.py").exists()  # not imported, but its libraries may be found by its path
    assert [path.name for path in (restored / "share/one").iterdir()] == ["2"]


def test_only_the_user_determines_what_is_included(data: Path, machine: Machine) -> None:
    """Others can have published the environment, its variables, and lists of files."""
    write(data / "lib/python3.6/os.py")
    base, inner = machine.home / "base", "lib/python3.6/site-packages"
    write(base / inner / "mine.py")
    write(base / "share/secret", "private")
    write(base / "share/data", "data")
    checksum = base64.urlsafe_b64encode(hashlib.sha256(b"data").digest()).decode().rstrip("=")
    (base / "share/link").symlink_to(write(machine.home / "data", "data"))
    record = [f"../../../share/{name},sha256={checksum},4" for name in ("secret", "data", "link")]
    write(base / inner / "mine-1.dist-info/RECORD", "\n".join(record))
    set_variables(data, PYTHONUSERBASE=str(base))
    outcome = machine.snapper("pack", "work", "--user-site=include", "--json")
    assert (outcome.code, outcome.json["included"]) == (3, [])
    assert [each["path"] for each in outcome.json["dependencies"]] == [str(base / inner)]
    chosen = {"PYTHONUSERBASE": f"{base}/"}
    include = ("pack", "work", "--user-site=include", "--json")
    for variable in ("CONDA_PREFIX", "CONDA_PREFIX_1"):  # the environment is active, and has set it
        assert machine.snapper(*include, **chosen, **{variable: str(data)}).json["included"] == []
    outcome = machine.snapper(*include, **chosen, CONDA_PREFIX=str(make_data(machine.envs / "other")))
    assert outcome.json["included"] == [str(base / inner)]
    assert [each["path"] for each in outcome.json["skipped"]] == [f"{base}/share/secret"]
    shutil.rmtree(data)
    machine.run_json("restore", "work")
    assert sorted(
        path.name for path in (data / "share").iterdir() if path.name in ("secret", "data", "link")
    ) == ["data"]


def test_options_without_effect_are_named(data: Path, machine: Machine) -> None:
    write(data / "lib/python3.6/os.py")
    pack = ("pack", "work", "--user-site=include", "--editable=include", "-m", "first", "--json")
    editable = "no editable install was included: there is none"
    assert machine.snapper(*pack).json["without_effect"] == [
        editable,
        "nothing of a user site was included: its Python uses none that you have chosen",
    ]
    write(machine.home / ".local/lib/python3.6/site-packages/mine.py")
    set_variables(data, PYTHONNOUSERSITE="1")
    machine.run_json("pack", "work")
    outcome = machine.snapper(*pack[:-1])
    assert outcome.code == 0
    for text in (editable, "the environment sets PYTHONNOUSERSITE", "the message was not recorded"):
        assert text in outcome.err
    assert machine.run_json("pack", "work")["without_effect"] == []


def test_own_files_in_whose_place_others_were_packed_do_not_count_as_packed(
    data: Path, machine: Machine, tmp_path: Path
) -> None:
    """Neither are they lost, nor restored in place of the others."""
    path = "lib/python3.6/site-packages/foo.py"
    write(data / "lib/python3.6/os.py")
    write(data / path, "own")
    machine.run_json("pack", "work")
    write(machine.home / ".local" / path, "included")
    include = ("pack", "work", "--user-site=include")
    machine.run_json(*include, PYTHONNOUSERSITE="1")
    other = Machine(tmp_path / "other", tmp_path / "other/envs", machine.store)
    other.envs.mkdir(parents=True)
    other.run_json("restore", "work")
    write(other.envs / "work/new")
    other.run_json("pack", "work")
    machine.run_json("restore", "work")
    assert (data / path).read_text() == "included"
    assert machine.run_json("status", "work")["environments"][0]["condition"] == "unchanged"
    write(data / path, "own again")
    machine.run_json(*include)
    assert machine.run_json("status", "work")["environments"][0]["drift"]["added"] == [path]


def test_what_would_be_below_a_link_is_not_included(data: Path, machine: Machine) -> None:
    """Otherwise, no restore could write it. What is replaced, or left out, is named."""
    inner = "lib/python3.6/site-packages"
    own, site, beside = data / inner, machine.home / ".local" / inner, machine.home / ".local/share"
    write(data / "lib/python3.6/os.py")
    write(own / "spaces/replaced/a.py")
    (data / "share/jupyter").symlink_to("../lib")
    (own / "linked").symlink_to("spaces")
    write(site / "spaces/replaced", "included")
    write(site / "linked/mine.py")
    write(site / "spaces/.snapper/x")
    checksum = base64.urlsafe_b64encode(hashlib.sha256(b"").digest()).decode().rstrip("=")
    names = ("jupyter/a", "mine/.snapper/a", "mine/b")
    write(
        site / "mine-1.dist-info/RECORD", "".join(f"../../../share/{n},sha256={checksum},0\n" for n in names)
    )
    for name in names:
        write(beside / name)
    packed = machine.run_json("pack", "work", "--user-site=include")
    assert sorted(each["path"] for each in packed["skipped"]) == sorted(
        [
            *(f"{inner}/{name}" for name in ("linked", "spaces/replaced")),
            f"{site}/spaces/.snapper",
            *(f"{beside}/{name}" for name in names[:2]),
        ]
    )
    shutil.rmtree(data)
    machine.run_json("restore", "work")
    assert (own / "spaces/replaced").read_text() == "included"
    assert (own / "linked/mine.py").exists() and (data / "share/mine/b").exists()
    own.rename(data / "elsewhere")
    own.symlink_to("../../elsewhere")
    error = machine.expect_error(1, "pack", "work", "--user-site=include")
    assert error["message"].startswith(f"{inner}: the environment has no directory there")


def test_packages_of_other_pythons_are_not_named(data: Path, machine: Machine) -> None:
    write(machine.home / ".local/lib/python3.6/site-packages/six.py")
    assert dependencies(machine) == []


def test_what_variables_scripts_and_commands_name_is_named(data: Path, machine: Machine) -> None:
    home = machine.home
    for name in (
        "one",
        "two",
        "target",
        "of-kernel",
        "of-script",
        "my data",
        "of-csh",
        "of-fish",
        "optional",
        "tools",
    ):
        (home / name).mkdir()
    write(home / "setup.sh")
    add_kernel(
        data,
        "text",
        argv=["sh", f"{home}/setup.sh", "--data", f"{home}/tools"],
        display_name="x",
        env={"PYTHONPATH": f"{home}/of-kernel:${{PYTHONPATH}}"},
    )
    scripts = data / "etc/conda/activate.d"
    write(
        scripts / "path.sh",
        f'export A=1 PYTHONPATH="{home}/of-script:$CONDA_PREFIX/x" B=/usr/bin\n. ~/setup.sh',
    )
    write(scripts / "x.csh", "setenv PKG $HOME/of-csh # ${HOME}/not\n")
    write(scripts / "x.fish", "set -gx PATH ${HOME}/of-fish $PATH\n")
    site = data / "lib/python3.12/site-packages"
    write(site / "start.pth", "import start_up; start_up.run()\nimport os\n")
    write(site / "start_up.py", "sys.path.append(os.path.expanduser('~/of-module')) # /tmp\n")
    write(site / "other.py", f"'{home}/two'\n")
    (home / "of-module").mkdir()
    write(scripts / "y.sh", f"PERL5LIB={home}/optional${{PERL5LIB:+:$PERL5LIB}}; # {home}/two")
    paths = [home / "one", data / "lib", "/nowhere", "relative", home / "two"]
    set_variables(data, PYTHONPATH=":".join(map(str, paths)), OTHER=str(home), DATA=f"{home}/my data")
    write(data / "etc/conda/env_vars.d/x.json", json.dumps({"PIP_TARGET": str(home / "target")}))
    assert sorted(dependencies(machine)) == [
        ("command", "~/tools", ["text"]),
        ("script", "~/of-module", ["lib/python3.12/site-packages/start_up.py"]),
        ("script", "~/setup.sh", ["etc/conda/activate.d/path.sh"]),
        ("variable", "~/my data", ["DATA"]),
        ("variable", "~/of-csh", ["PKG"]),
        ("variable", "~/of-fish", ["PATH"]),
        ("variable", "~/of-kernel", ["PYTHONPATH"]),
        ("variable", "~/of-script", ["PYTHONPATH"]),
        ("variable", "~/one", ["PYTHONPATH"]),
        ("variable", "~/optional", ["PERL5LIB"]),
        ("variable", "~/target", ["PIP_TARGET"]),
        ("variable", "~/two", ["PYTHONPATH"]),
    ]


@pytest.mark.parametrize(
    ("where", "file", "text"),
    [
        ("R/x86_64-conda-linux-gnu-library/4.3", "{home}/.Rprofile", ""),
        ("R/4.3", "{prefix}/conda-meta/state", '{"env_vars": {"R_LIBS_USER": "~/R/%v"}}'),
        ("R/4.3", "{prefix}/lib/R/etc/Renviron.site", "R_LIBS_USER=~/R/%v"),
        ("other", "{home}/.Renviron", "R_LIBS=${R_LIBS:-'~/other'}"),
        ("called", "{prefix}/lib/R/etc/Rprofile.site", ".libPaths(c('{home}/called', .libPaths()))"),
    ],
    ids=["default", "variable", "Renviron.site", "Renviron", "Rprofile.site"],
)
def test_packages_in_the_library_of_r_are_named(
    where: str, file: str, text: str, data: Path, machine: Machine
) -> None:
    record: dict[str, Any] = json.loads(next(data.glob("conda-meta/textdata-*.json")).read_text())
    record |= {"name": "r-base", "version": "4.3.1", "files": [], "paths_data": {"paths": []}}
    write(data / "conda-meta/r-base-4.3.1-h1_0.json", json.dumps(record))
    places = {"{home}": str(machine.home), "{prefix}": str(data)}
    for name, path in places.items():
        file, text = file.replace(name, path), text.replace(name, path)
    write(Path(file), text)
    write(machine.home / "R/x86_64-pc-linux-gnu-library/4.2/old/DESCRIPTION")
    write(machine.home / where / "ggplot2/DESCRIPTION")
    (machine.home / where / "00LOCK").mkdir()
    assert with_short_paths(machine, packed_dependencies(machine)) == [("r", f"~/{where}", ["ggplot2"])]


def test_packages_in_the_depot_of_julia_are_named(data: Path, machine: Machine) -> None:
    write(machine.home / ".julia/packages/IJulia/abcde/src/kernel.jl")
    assert dependencies(machine) == []
    write(data / "bin/julia").chmod(0o755)
    assert dependencies(machine) == [("julia", "~/.julia", ["IJulia"])]
    write(
        data / "etc/conda/activate.d/julia_activate.sh",
        'export JULIA_DEPOT_PATH="$CONDA_PREFIX/share/julia:"',
    )
    assert dependencies(machine) == []


# --- links into a package cache ---------------------------------------------------------------------------


def link_into_cache(prefix: Path, cache: Path) -> int:
    """Do what conda does with `always_softlink`, and return the number of links."""
    count = 0
    for record in prefix.glob("conda-meta/*.json"):
        fields = json.loads(record.read_text())
        write(cache / record.stem / "info/index.json", "{}")
        for entry in fields["paths_data"]["paths"]:
            file, cached = prefix / entry["_path"], cache / record.stem / entry["_path"]
            if entry["path_type"] == "hardlink" and "prefix_placeholder" not in entry and file.exists():
                cached.parent.mkdir(parents=True, exist_ok=True)
                file.rename(cached)
                file.symlink_to(cached)
                count += 1
    return count


def test_links_into_a_package_cache_are_followed(machine: Machine) -> None:
    prefix = machine.envs / "work"
    make("compiled", prefix, copy=True)
    before = tree_of(prefix)
    cache = machine.home / "pkgs"
    assert link_into_cache(prefix, cache) > 1000
    result = machine.run_json("pack", "work")
    assert (result["outside"], result["dependencies"]) == ([], [])
    assert machine.run_json("pack", "work")["unchanged"]
    assert machine.snapper("doctor").out.count("work has editable") == 0
    shutil.rmtree(prefix)
    shutil.rmtree(cache)
    machine.run_json("restore", "work")
    after = tree_of(prefix)
    assert {path: entry[::2] for path, entry in after.items()} == {
        path: entry[::2] for path, entry in before.items()
    }
    run([python_of(prefix)], ["-c", "import json"], machine.home)


def test_links_of_distributions_are_followed(data: Path, machine: Machine) -> None:
    """uv makes such links with `--link-mode=symlink`, except for RECORD."""
    site = data / "lib/python3.12/site-packages"
    with zipfile.ZipFile(wheels("six==1.16.0")[0]) as wheel:
        wheel.extractall(site)
    write(machine.home / ".cache/uv/CACHEDIR.TAG")
    cached = machine.home / ".cache/uv/archive-v0/Wwbx2A4Yp3-DmvWz/six.py"
    cached.parent.mkdir(parents=True)
    (site / "six.py").rename(cached)
    (site / "six.py").symlink_to(cached)
    contents = cached.read_bytes()
    assert dependencies(machine) == []
    machine.run_json("verify", "-p", data)
    cached.rename(cached.with_name("removed"))
    (environment,) = machine.run_json("status")["environments"]
    assert environment["drift"]["changed"] == [str((site / "six.py").relative_to(data))]
    assert machine.snapper("restore", "work").code == 11
    assert machine.snapper("verify", "-p", data).code == 12
    cached.with_name("removed").rename(cached)
    (environment,) = machine.run_json("status")["environments"]
    assert not any(environment["drift"].values())
    (data / "new").touch()
    machine.run_json("pack", "work")
    machine.run_json("restore", "work@~1")  # files of the present environment are used
    assert not (site / "six.py").is_symlink()
    machine.run_json("verify", "-p", data)
    cached.unlink()
    shutil.rmtree(data)
    machine.run_json("restore", "work")
    assert (site / "six.py").read_bytes() == contents


def list_in_record(prefix: Path, **contents: str) -> None:
    """Have a package's record list files with these contents in `share`."""
    record = next(prefix.glob("conda-meta/textdata-*.json"))
    fields = json.loads(record.read_text())
    for name, text in contents.items():
        digest = hashlib.sha256(text.encode()).hexdigest()
        entry = {
            "_path": f"share/{name}",
            "path_type": "hardlink",
            "sha256": digest,
            "size_in_bytes": len(text),
        }
        fields["paths_data"]["paths"].append(entry)
    record.write_text(json.dumps(fields))


def test_links_to_something_else_are_not_followed(data: Path, machine: Machine) -> None:
    """A publisher, or another user, may have made the link and the record, and guess what a secret is."""
    secret = write(machine.home / "secret", "s3cret")
    list_in_record(data, planted="s3cret", endless="")
    (data / "share/planted").symlink_to(secret)
    (data / "share/endless").symlink_to("/proc/self/pagemap")
    (data / "own").symlink_to(secret)
    found = {path: (kind, names) for kind, path, names in dependencies(machine)}
    assert found == {
        "/proc/self": ("cache", ["share/endless"]),
        "~": ("cache", ["share/planted"]),
    }
    secret.unlink()
    shutil.rmtree(data)
    machine.run_json("restore", "work")
    assert (data / "share/planted").readlink() == (data / "own").readlink() == secret


def test_package_caches_are_recognized(data: Path, machine: Machine) -> None:
    """Nothing is one that only has the name, or that is in a restored environment."""
    other = make_data(machine.envs / "other")
    machine.run_json("pack", "other")
    tops = {
        "conda": write(machine.home / "any/urls.txt").parent,
        "pixi": machine.home / ".cache/rattler/cache/pkgs",
        "published": other / "share/pkgs",
        "unknown": machine.home / "project",
        "wheels": machine.home / "data/archive-v0",
        "without": machine.home / "pkgs",
    }
    list_in_record(data, **dict.fromkeys([*tops, "again", "longer"], "secret"))
    for name, top in tops.items():
        if name not in ("without", "wheels"):
            write(top / "x-1-0/info/index.json")
        (data / "share" / name).symlink_to(write(top / "x-1-0/lib/x", "secret"))
    (data / "share/again").symlink_to(tops["pixi"] / "x-1-0/lib/x")
    (data / "share/longer").symlink_to(write(tops["pixi"] / "x-1-0/lib/y", "secrets"))
    found = packed_dependencies(machine)
    assert {name for each in found for name in each["names"]} == {
        f"share/{name}" for name in ("again", "longer", "published", "unknown", "wheels", "without")
    }
    shutil.rmtree(data)
    machine.run_json("restore", "work")
    assert [(data / "share" / name).is_symlink() for name in ("conda", "pixi")] == [False, False]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_package_caches_of_others_are_not_used(data: Path, machine: Machine) -> None:
    cached = write(machine.home / "pkgs/x-1-0/lib/x", "secret")
    write(machine.home / "pkgs/x-1-0/info/index.json")
    list_in_record(data, planted="secret")
    (data / "share/planted").symlink_to(cached)
    assert packed_dependencies(machine) == []
    os.chown(machine.home / "pkgs", 12345, 12345)
    assert dependencies(machine) == [("cache", "~/pkgs/x-1-0/lib", ["share/planted"])]


# --- libraries --------------------------------------------------------------------------------------------


def compile_c(output: Path, *options: object, text: str = "int main(void) { return 0; }") -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    source = output.with_suffix(".c")
    source.write_text(text)
    run(["cc"], [source, "-o", output, "-Wl,--no-as-needed", *options], output.parent)
    source.unlink()


@pytest.mark.skipif(sys.platform != "linux", reason="the programs are in ELF format")
def test_libraries_and_interpreters_outside_are_named(data: Path, machine: Machine) -> None:
    function = "int one(void) { return 1; }"
    shared = ("-shared", "-fPIC")
    outside = machine.home / "libs"
    for place in (data / "lib", data / "lib/private", outside):
        name = f"lib{place.name}.so"
        compile_c(place / name, *shared, f"-Wl,-soname,{name}", text=function)
    compile_c(data / "bin/plain", "-lm")
    compile_c(data / "bin/origin", f"-L{data}/lib", "-llib", "-Wl,-rpath,$ORIGIN/../lib")
    compile_c(data / "bin/prefix", f"-L{data}/lib/private", "-lprivate", f"-Wl,-rpath,{data}/lib/private")
    compile_c(data / "bin/by-variable", f"-L{data}/lib/private", "-lprivate")
    set_variables(data, LD_LIBRARY_PATH=f"{data}/lib/private")
    write(data / "bin/script", f"#!{data}/bin/prefix\n").chmod(0o755)
    write(data / "bin/system", "#!/usr/bin/env -S python3 -I\n").chmod(0o755)
    assert dependencies(machine) == []
    copied = shutil.copytree(data, machine.home / "copied", symlinks=True)
    packed = machine.run_json("pack", "-p", copied)
    assert (packed["found_prefixes"], packed["dependencies"]) == ([str(data)], [])
    shutil.copy("/bin/sh", outside / "shell")
    write(data / "bin/script", f"#!{outside}/shell -e\n")
    write(data / "bin/trampoline", f'#!/bin/sh\n\'exec\' "{outside}/shell" "$0" "$@"\n').chmod(0o755)
    compile_c(data / "bin/loaded", f"-Wl,--dynamic-linker,{outside}/shell")
    compile_c(data / "lib/module.so", *shared, f"-L{data}/lib", "-llib", f"-L{outside}", "-llibs")
    compile_c(data / "bin/pinned", f"-L{outside}", "-llibs", f"-Wl,-rpath,{outside}")
    compile_c(data / "bin/found", f"-L{data}/lib", "-llib")
    (data / "bin/broken").write_bytes((data / "bin/plain").read_bytes()[:200])
    (data / "bin/broken").chmod(0o755)
    assert dependencies(machine) == [
        ("library", "~/libs/liblibs.so", ["bin/pinned"]),
        ("library", "~/libs/shell", ["bin/loaded", "bin/script", "bin/trampoline"]),
        ("library", "liblib.so", ["bin/found"]),
        ("library", "liblibs.so", ["lib/module.so"]),
    ]
    assert machine.snapper("pack", "work").out.startswith("work is unchanged")


# --- variables --------------------------------------------------------------------------------------------


def test_variables_of_conda_are_restored(data: Path, machine: Machine) -> None:
    set_variables(data, MODE="fast", DATA=f"{data}/share")
    machine.run_json("pack", "work")
    data.rename(machine.home / "old")
    target = machine.home / "elsewhere"
    machine.run_json("restore", "work", "--prefix", target)
    state = json.loads((target / "conda-meta/state").read_text())
    assert state["env_vars"] == {"MODE": "fast", "DATA": f"{target}/share"}


# --- what others wrote ------------------------------------------------------------------------------------


def add_program(file: Path, libraries: int) -> None:
    """Write a shared library in ELF format that needs others with short names."""
    names = [f"l{number}.so".encode() for number in range(libraries)]
    strings = b"\0".join([b"", *names, b""])
    places = accumulate((len(name) + 1 for name in names[:-1]), initial=1)
    table, size = 64 + 2 * 56, 16 * (libraries + 2)
    dynamic = b"".join(struct.pack("<QQ", 1, place) for place in places)
    dynamic += struct.pack("<QQQQ", 5, table + size, 0, 0)
    end = table + size + len(strings)
    header = b"\x7fELF\2\1\1" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 64, 0, 0)
    header += struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, end, end, 4096)
    header += struct.pack("<IIQQQQQQ", 2, 6, table, table, table, size, size, 8)
    write(file).write_bytes(header + dynamic + strings)
    file.chmod(0o755)


IMPOSSIBLE = {
    "PYTHONUSERBASE": "~\0",
    "R_LIBS_USER": "~\ud800",
    "JULIA_DEPOT_PATH": "/x\0",
    "PYTHONPATH": "/x\ud800",
}


def test_paths_that_no_file_can_have_stop_nothing(data: Path, machine: Machine) -> None:
    """They may be in variables, and in code; and there may be more links on a path than any program follows."""
    site = data / "lib/python3.12/site-packages"
    write(site / "x.pth", "import a; '~\\x00', '~\\ud800/x', '~nobody\\x00'\n../../../l0/x.py\n")
    write(
        site / "x-1.dist-info/direct_url.json",
        json.dumps({"url": f"file://{data}/l0", "dir_info": {"editable": True}}),
    )
    write(data / "bin/julia").chmod(0o755)
    add_program(data / "lib/x.so", 1)
    write(data / "lib/odd.so").write_bytes(b"\x7fELF\2\1" + b"\xff" * 200)
    for number in range(1500):
        (data / f"l{number}").symlink_to(f"l{number + 1}")
    for value in (IMPOSSIBLE, dict.fromkeys(IMPOSSIBLE, f"{data}/l0")):
        set_variables(data, **value, LD_LIBRARY_PATH=f"{data}/l0")
        for command in (("doctor",), ("pack", "work", "--editable=ignore")):
            outcome = machine.snapper(*command)
            assert (outcome.code, "unexpected" in outcome.err) == (3, False), outcome
            assert "l0.so" in outcome.out + outcome.err


def test_searches_end_and_say_so(data: Path, machine: Machine) -> None:
    """A publisher can choose millions of paths, and what is to be looked for in each of them."""
    set_variables(data, LD_LIBRARY_PATH=":".join(f"/{number}" for number in range(400)))
    add_program(data / "lib/x.so", 3000)
    write(data / "etc/conda/activate.d/x.sh", "A=b;" * 500_000)
    found = packed_dependencies(machine)
    assert {"kind": "unsearched", "path": str(data), "names": ["lib/x.so"]} in found
    assert "not all that" in machine.snapper("doctor").out


def test_work_of_a_search_is_limited(data: Path, machine: Machine) -> None:
    scripts = data / "etc/conda/activate.d"
    write(scripts / "a.sh", f"A={machine.home}/one")
    write(scripts / "b.sh", " ".join(f"/{number}" for number in range(1000)))
    write(scripts / "c.sh", f"B={machine.home}/one")
    (machine.home / "one").mkdir()
    found = find_dependencies(Surroundings(pin_directory(data), (), Lookup(5000)), {})
    assert [(each.kind, each.names) for each in found] == [
        ("variable", ("A", "B")),
        ("unsearched", ("etc/conda/activate.d/b.sh",)),
    ]


def test_links_of_too_many_editable_installs_are_refused(data: Path, machine: Machine) -> None:
    write(data / "lib/python3.12/site-packages/x.pth", "\n".join(map(str, range(100_000))))
    error = machine.expect_error(1, "pack", "work")
    assert "x.pth" in error["message"]
    assert "more directories" in machine.snapper("doctor").out
    machine.run_json("pack", "work", "--editable=ignore")
