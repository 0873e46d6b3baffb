"""Packages that pip installs from a directory: editable installs in all their forms, and plain ones.

Editable installs are refused with a list, included, or kept as links; plain installs are copies.
"""

from __future__ import annotations

import json
import os
import py_compile
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from scripts.maker import make
from snapper.environment import editable
from snapper.environment.projects import project_names
from snapper.environment.tree import walk
from tests.conftest import Machine
from tests.support.environments import make_data
from tests.support.pip import build_tools, pip, python_of, run

SETUP = "from setuptools import setup; setup(name='{0}', version='1.0', packages=['{0}'], package_dir={{'': 'src'}})"
FLAT = "from setuptools import setup; setup(name='by_finder', packages=['by_finder'])"
COPIED = """\
from setuptools import setup
setup(name='by_copy', version='1.0', packages=['by_copy'], package_dir={'': 'src'},
      data_files=[('share/by_copy', ['notes.txt'])], entry_points={'console_scripts': ['by-copy = by_copy:main']})
"""


def project(top: Path, name: str, setup: str = SETUP) -> Path:
    """Create a source directory with a package that reports where it is."""
    package = top / "src" / name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "import sys\nHERE = __file__\ndef main():\n    print(HERE, *sys.argv[1:])\n    sys.exit(7)\n"
    )
    (top / "setup.py").write_text(setup.format(name) if setup is SETUP else setup)
    return top


def site_of(prefix: Path) -> Path:
    return next(prefix.glob("lib/python3*/site-packages"))


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """An environment with an editable install of each form, whose code is in `tmp_path/code`, and a plain install."""
    prefix = tmp_path / "origin" / "work"
    make("compiled", prefix)
    code, tools = tmp_path / "code", {"PYTHONPATH": str(build_tools(tmp_path / "tools"))}
    install = ("install", "--no-index", "--no-build-isolation", "--use-pep517")

    pip(prefix, *install, "-e", project(code / "by_pth", "by_pth"), **tools)

    flat = project(code / "by_finder", "by_finder", FLAT)
    (flat / "pyproject.toml").write_text(
        "[build-system]\nrequires = ['setuptools']\nbuild-backend = 'setuptools.build_meta'\n"
    )
    shutil.move(flat / "src" / "by_finder", flat / "by_finder")
    pip(prefix, *install, "-e", flat, **tools)

    develop = ["setup.py", "-q", "develop", "--no-deps"]
    run([python_of(prefix), "-W", "ignore"], develop, project(code / "by_egg", "by_egg"), **tools)

    # What `conda develop` writes.
    (site_of(prefix) / "conda.pth").write_text(f"{project(code / 'by_conda', 'by_conda')}/src\n")

    copied = project(code / "by_copy", "by_copy", COPIED)
    (copied / "notes.txt").write_text(f"see {prefix}/share\n")
    pip(prefix, *install, copied, **tools)
    shutil.rmtree(copied)
    return prefix


def locate_packages(prefix: Path, names: tuple[str, ...]) -> dict[str, Path]:
    """Return the file that the environment's Python imports each package from."""
    code = f"import {', '.join(names)}; print({', '.join(f'{name}.HERE' for name in names)}, sep=chr(10))"
    lines = run([python_of(prefix), "-B"], ["-c", code], prefix).splitlines()
    return dict(zip(names, map(Path, lines), strict=True))


def test_missing_source_is_reported(tmp_path: Path, machine: Machine) -> None:
    """It may be on a volume that is not mounted: code that the environment needs would silently be left out."""
    prefix = make_data(machine.envs / "data")
    site = prefix / "lib" / "python3.11" / "site-packages"
    info = site / "api-1.0.dist-info"
    info.mkdir(parents=True)
    url = {"url": f"file://{tmp_path}/gone", "dir_info": {"editable": True}}
    (info / "direct_url.json").write_text(json.dumps(url))
    (site / "left_over.pth").write_text(f"{tmp_path}/also-gone\n")
    assert machine.expect_error(1, "pack", "data")["type"] == "EditableInstallsFound"
    error = machine.expect_error(1, "pack", "data", "--editable=include")
    assert f"{tmp_path}/gone" in error["message"] and "api" in error["message"]
    machine.run_json("pack", "data", "--editable=ignore")
    (info / "direct_url.json").unlink()
    machine.run_json("pack", "data")


def test_sources_with_the_same_name_get_different_paths(tmp_path: Path) -> None:
    """One distribution can have the name of another one's directory."""
    prefix, code = tmp_path / "env", tmp_path / "code"
    site = prefix / "lib" / "python3.11" / "site-packages"
    info = site / "api-1.0.dist-info"
    info.mkdir(parents=True)
    sources = [code / path for path in ("backend", "api", "other/api", "api-0")]
    for source in sources:
        source.mkdir(parents=True)
    url = {"url": f"file://{code}/backend", "dir_info": {"editable": True}}
    (info / "direct_url.json").write_text(json.dumps(url))
    (site / "paths.pth").write_text(f"{code}/api\n{code}/other/api\n{code}/api-0\n")
    editables = editable.find(prefix, walk(prefix))
    assert sorted(each.source for each in editables) == sorted(map(str, sources))
    assert len({each.included_path for each in editables}) == 4


@pytest.mark.parametrize("source", [".ssh", "letters", ".", "..", "project/.hidden", "src"])
def test_only_python_projects_are_included(tmp_path: Path, machine: Machine, source: str) -> None:
    """Whoever published the environment may have written links to anything, such as to credentials."""
    prefix = make_data(machine.envs / "data")
    site = prefix / "lib/python3.11/site-packages"
    site.mkdir(parents=True)
    (machine.home / "project/.hidden").mkdir(parents=True)
    (machine.home / "project/pyproject.toml").touch()
    (site / "mine.pth").write_text(f"{machine.home}/project\n")
    assert machine.run_json("pack", "data", "--editable=include")["included"] == [f"{machine.home}/project"]
    (machine.home / source).mkdir(exist_ok=True)
    (machine.home / source / "secret").touch()
    (site / "mine.pth").write_text(f"{os.path.normpath(machine.home / source)}\n")
    error = machine.expect_error(1, "pack", "data", "--editable=include")
    assert "lib/python3.11/site-packages/mine.pth in the environment refers to it, but" in error["message"]
    assert "--editable=ignore" in error["hint"]
    (site / "mine.pth").unlink()
    info = site / "..-1.dist-info"
    info.mkdir()
    for url in (f"file://{machine.home}/project", "file:///a%00b", "file:///\ud800", "[" * 100_000):
        direct_url = {"url": url, "dir_info": {"editable": True}}
        text = url if url.startswith("[") else json.dumps(direct_url)
        (info / "direct_url.json").write_text(text)
        (found, *_) = [*editable.find(prefix, walk(prefix)), None]
        assert found is None or found.included_path == f"{editable.INCLUDED}/_."


def test_sources_are_not_included_below_links(machine: Machine) -> None:
    """Whoever published the environment may have made a link where the sources are put. No snapshot can have both."""
    prefix = make_data(machine.envs / "data")
    site, project = prefix / "lib/python3.11/site-packages", machine.home / "project"
    site.mkdir(parents=True)
    project.mkdir()
    (project / "pyproject.toml").touch()
    (site / "mine.pth").write_text(f"{project}\n")
    sources = prefix / editable.INCLUDED
    sources.parent.mkdir(parents=True)
    sources.symlink_to("../../lib")
    error = machine.expect_error(1, "pack", "data", "--editable=include")
    assert error["message"].startswith("share/snapper/editable: the environment has no directory there")
    sources.unlink()
    sources.mkdir()
    (sources / "project").symlink_to("../../../lib")
    machine.run_json("pack", "data", "--editable=include")
    machine.run_json("restore", "data", "--replace")
    assert (sources / "project/pyproject.toml").exists() and not (sources / "project").is_symlink()


def test_sources_are_not_widened(tmp_path: Path, machine: Machine) -> None:
    """A line in the environment that names a directory above the user's own project is another source."""
    prefix = make_data(machine.envs / "data")
    site, work = prefix / "lib/python3.11/site-packages", machine.home / "work"
    info = site / "mine-1.0.dist-info"
    info.mkdir(parents=True)
    (work / "mine/src/mine").mkdir(parents=True)
    for name in ("setup.py", ".env", ".git", "src/mine/__init__.py", "src/mine/.secret"):
        (work / "mine" / name).touch()
    (work / "mine/setup.py").write_text("setup(name='mine')\n")
    (work / "data.csv").touch()
    url = {"url": f"file://{work}/mine", "dir_info": {"editable": True}}
    (info / "direct_url.json").write_text(json.dumps(url))
    (site / "__editable__.mine.pth").write_text(f"{work}/mine/src\n")
    (site / "numpy-nspkg.pth").write_text(f"{work}\n")
    found = editable.find(prefix, walk(prefix))
    assert [(each.name, each.source) for each in found] == [("work", str(work)), ("mine", f"{work}/mine")]
    assert len(found[1].links) == 2
    error = machine.expect_error(1, "pack", "data", "--editable=include")
    assert f"{work}: lib/python3.11/site-packages/numpy-nspkg.pth" in error["message"]
    (site / "numpy-nspkg.pth").unlink()
    assert machine.run_json("pack", "data", "--editable=include")["included"] == [f"{work}/mine"]
    machine.run_json("restore", "data", "--prefix", tmp_path / "restored")
    included = tmp_path / "restored/share/snapper/editable/mine"
    assert {path.name for path in included.rglob("*")} == {"setup.py", "src", "mine", "__init__.py"}


#: What files of projects say that these are called `My.project`.
_NAMED = {
    "pyproject.toml": '[build-system]\nname = "x"\n[ project ] # PEP 621\nversion = "1"\nname="My.project"\n',
    "setup.cfg": "[metadata]\nname = My.project\n",
    "setup.py": "from setuptools import setup\nsetup(version='1',\n    name = 'My.project')\n",
    "Cargo.toml": '[package]\nname = "my-project"\n[lib]\nname = "x"\n',
    "PKG-INFO": "Metadata-Version: 2.1\nName: My_project\n\nName: x\n",
    "My_project.egg-info/PKG-INFO": "Name: My_project\n",
    "src/My_project.egg-info/PKG-INFO": "Name: My_project\n",
    "pyproject.toml ": "[tool.poetry]\nname = 'my_project'\n[tool.poetry.dependencies]\nname = 'x'\n",
    "pyproject.toml  ": '[tool.flit.metadata]\nmodule = "my_project"\n',
}


@pytest.mark.parametrize("file", _NAMED)
def test_names_of_projects(file: str, tmp_path: Path) -> None:
    """All that installers of editable packages read them from."""
    path = tmp_path / file.rstrip()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_NAMED[file])
    assert project_names([tmp_path]) == {"my-project"}
    assert project_names([tmp_path / "elsewhere"]) == frozenset()


@pytest.mark.parametrize("text", ["", "[project]\nname = 'payroll'\n"])
def test_projects_of_other_packages_are_not_included(text: str, machine: Machine) -> None:
    """Whoever published the environment may have named any project of the user."""
    prefix = make_data(machine.envs / "data")
    project = machine.home / "work/payroll"
    project.mkdir(parents=True)
    (project / "pyproject.toml").write_text(text)
    write_direct_url(prefix / SITE, "numpy", str(project))
    error = machine.expect_error(1, "pack", "data")
    assert f"numpy ({project})" in error["message"]
    error = machine.expect_error(1, "pack", "data", "--editable=include")
    called = "is called payroll" if text else "does not say what it is called"
    assert error["message"].endswith(f"that project {called}, and the installed package is numpy")
    assert "--editable=ignore" in error["hint"]


SITE = "lib/python3.11/site-packages"


def write_source(top: Path, name: str = "mine") -> Path:
    """Create a Python project with one package; return the directory of the project."""
    (top / name).mkdir(parents=True)
    (top / name / "__init__.py").write_text("HERE = __file__\n")
    (top / "pyproject.toml").write_text(f'[project]\nname = "{name.upper()}"\n')
    return top


def write_direct_url(site: Path, name: str, source: str) -> None:
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    url = {"url": f"file://{quote(source)}", "dir_info": {"editable": True}}
    (info / "direct_url.json").write_text(json.dumps(url))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (f"{SITE}/relative.pth", "\ufeff# a comment\n../../../../../home/mine\n"),
        (f"{SITE}/code.pth", 'import sys; sys.path.append("{source}")\n'),
        (f"{SITE}/quoted.pth", "import site; site.addsitedir('{source}')\n"),
        (f"{SITE}/mine.egg-link", "../../../../../home/mine\n../\n"),
        (f"{SITE}/_editable_impl_mine.py", "F.map_module('mine', '{source}/mine/__init__.py')\n"),
        (f"venv/{SITE}/mine.pth", "{source}\n"),
        ("venv/lib64/python3.12t/site-packages/mine.pth", "{source}/\n"),
        (f"{SITE}/mine", ""),
        (f"{SITE}/egg.pth", "{source}/dist/mine.egg\n"),
    ],
)
def test_unusual_links_are_found(tmp_path: Path, path: str, text: str) -> None:
    prefix, source = tmp_path / "envs" / "work", write_source(tmp_path / "home" / "mine")
    (source / "dist").mkdir()
    (source / "dist" / "mine.egg").touch()
    link = prefix / path
    link.parent.mkdir(parents=True)
    if text:
        link.write_text(text.replace("{source}", str(source)))
    else:
        link.symlink_to(source / "mine")
        (prefix / "conda-meta").mkdir()
    (found,) = editable.find(prefix, walk(prefix))
    assert found.links == (path,)
    assert found.source in (str(source), str(source / "mine"), str(source / "dist" / "mine.egg"))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (f"{SITE}/inside.pth", "../../../src/mine\n"),
        (f"{SITE}/gone.pth", "/nowhere/at/all\n"),
        (f"{SITE}/code.pth", "import os; os.environ.get('/'); x = '/usr/bin/env'\n"),
        (
            f"{SITE}/_editable_x.py",
            "if path[0] == '/': ninja = '/usr/bin/env'; bad = '/\\x00'; '/\\N{{x}}'\n",
        ),
        (f"{SITE}/_hook.py", "cache = '/tmp'\n"),
    ],
)
def test_other_paths_are_no_links(tmp_path: Path, path: str, text: str) -> None:
    prefix = tmp_path / "env"
    (prefix / "src/mine").mkdir(parents=True)
    (prefix / path).parent.mkdir(parents=True)
    (prefix / path).write_text(text)
    assert editable.find(prefix, walk(prefix)) == ()


def test_links_of_conda_to_its_cache_are_no_editable_installs(tmp_path: Path) -> None:
    prefix = make_data(tmp_path / "env")
    site = prefix / SITE
    site.mkdir(parents=True)
    (tmp_path / "pkgs").mkdir()
    (tmp_path / "pkgs" / "six.py").touch()
    (site / "six.py").symlink_to(tmp_path / "pkgs" / "six.py")
    record = next(prefix.glob("conda-meta/*.json"))
    fields = json.loads(record.read_text())
    assert [each.links for each in editable.find(prefix, walk(prefix))] == [(f"{SITE}/six.py",)]
    fields["paths_data"]["paths"].append({"_path": f"{SITE}/six.py", "path_type": "softlink"})
    fields["files"].append(f"{SITE}/six.py")
    record.write_text(json.dumps(fields))
    assert editable.find(prefix, walk(prefix)) == ()


def test_all_spellings_of_a_source_are_replaced_everywhere(machine: Machine, tmp_path: Path) -> None:
    """The home directory is a link, and the path has characters that are quoted in URLs."""
    source = write_source(tmp_path / "disk" / "my code")
    (tmp_path / "home").symlink_to("disk")
    logical = f"{tmp_path}/home/my code"
    prefix = make_data(machine.envs / "data")
    site = prefix / SITE
    write_direct_url(site, "mine", logical)
    (site / "__editable__.mine-1.0.pth").write_text(f"{source}\n")
    (site / "__editable___mine_finder.py").write_text(f"MAPPING = {{'mine': {str(source / 'mine')!r}}}\n")
    (site / "__pycache__").mkdir()
    (site / "__pycache__" / "__editable___mine_finder.cpython-311.pyc").write_bytes(b"stale" + bytes(source))
    (site / "left_over.py").write_text(f"WHERE = {logical + '/mine'!r}\n")
    py_compile.compile(str(site / "left_over.py"), str(site / "__pycache__" / "left_over.cpython-311.pyc"))
    (site / "left_over.py").unlink()
    (prefix / "bin").mkdir(exist_ok=True)
    (prefix / "bin" / "develop").write_text(f"__file__ = {logical + '/scripts/develop'!r}\n")
    (prefix / "share" / "mine").symlink_to(f"{logical}/mine")
    (source / "absolute").symlink_to(source / "mine" / "__init__.py")
    (source / "relative").symlink_to("mine/__init__.py")
    (source / "other").symlink_to("../other")
    (source / "notes.txt").write_text(f"cd {logical}\ncd {source}-other\n")
    (source / "cache").mkdir()
    (source / "cache" / "CACHEDIR.TAG").touch()
    (source / "odd.bin").write_bytes(b"\0" + bytes(source) + b"\0")

    packed = machine.snapper("pack", "data", "--editable=include", "--json").json
    included = "share/snapper/editable/mine"
    assert packed["included"] == [logical]
    assert packed["skipped"] == [{"path": f"{logical}/cache", "reason": "it is a cache"}]
    assert packed["unrelocated"] == [f"{included}/odd.bin"]
    assert packed["outside"] == [f"{included}/other"]
    shutil.rmtree(tmp_path / "disk")
    restored = tmp_path / "restored"
    machine.run_json("restore", "data", "--prefix", restored)
    new = restored / included
    assert (
        json.loads((restored / SITE / "mine-1.0.dist-info/direct_url.json").read_text())["url"]
        == f"file://{new}"
    )
    assert (restored / SITE / "__editable__.mine-1.0.pth").read_text() == f"{new}\n"
    assert f"'{new}/mine'" in (restored / SITE / "__editable___mine_finder.py").read_text()
    (module,) = (restored / SITE / "__pycache__").iterdir()
    assert f"{new}/mine".encode() in module.read_bytes()
    assert logical.encode() not in module.read_bytes()
    assert f"'{new}/scripts/develop'" in (restored / "bin/develop").read_text()
    links = ("share/mine", f"{included}/absolute", f"{included}/relative", f"{included}/other")
    assert [os.readlink(restored / link) for link in links] == [
        f"{new}/mine",
        f"{new}/mine/__init__.py",
        "mine/__init__.py",
        f"{tmp_path}/home/other",
    ]
    assert (new / "notes.txt").read_text() == f"cd {new}\ncd {source}-other\n"


def test_programs_of_sources_find_their_libraries(machine: Machine, tmp_path: Path) -> None:
    """The linker has written the path of the source into the program, and the compiler what only debuggers read."""
    source = write_source(tmp_path / "the directory of the project" / "mine")
    (source / "lib").mkdir()
    (source / "help.c").write_text("int help(void) { return 42; }\n")
    (source / "main.c").write_text("int help(void); int main(void) { return help(); }\n")
    compile_ = ["cc", "-g", "-o"]
    run(compile_, ["lib/libhelp.so", "-shared", "-fPIC", "help.c"], source)
    linked = ["-L", "lib", "-lhelp", f"-Wl,-rpath,{source}/lib"]
    run(compile_, ["mine/main", "main.c", *linked], source)
    prefix = make_data(machine.envs / "data")
    write_direct_url(prefix / SITE, "mine", str(source))
    packed = machine.run_json("pack", "data", "--editable=include")
    shutil.rmtree(source)
    machine.run_json("restore", "data", "--prefix", tmp_path / "restored")
    restored = tmp_path / "restored/share/snapper/editable/mine"
    assert subprocess.run([restored / "mine/main"], check=False).returncode == 42
    assert packed["unrelocated"] == []
    for file in restored.rglob("*"):
        assert file.is_dir() or bytes(source) not in file.read_bytes(), file


def test_source_named_by_the_home_directory_is_included(machine: Machine, tmp_path: Path) -> None:
    source = write_source(machine.home / "code/mine")
    site = make_data(machine.envs / "data") / SITE
    site.mkdir(parents=True)
    (site / "x.pth").write_text("import os, sys; sys.path.append(os.path.expanduser('~/code/mine'))\n")
    for path in (".env", ".gitignore", "mine/.hidden", "mine/.gitignore"):
        (source / path).touch()
    packed = machine.run_json("pack", "data", "--editable=include")
    assert packed["included"] == [str(source)]
    hidden = [f"{source}/.env", f"{source}/mine/.hidden"]
    assert packed["skipped"] == [{"path": path, "reason": "it is hidden"} for path in hidden]
    machine.run_json("restore", "data", "--prefix", tmp_path / "restored")
    path = (tmp_path / "restored" / SITE / "x.pth").read_text().split("'")[1]
    assert path == f"{tmp_path}/restored/share/snapper/editable/mine"
    assert Path(path, "mine/__init__.py").is_file()
    (source / "mine/__init__.py").rename(source / "mine/renamed.py")
    shutil.copy(machine.envs / "data" / SITE / "x.pth", tmp_path / "restored" / SITE)
    machine.run_json("pack", "-p", tmp_path / "restored", "--editable=include", "--name", "again")
    machine.run_json("restore", "again", "--prefix", tmp_path / "again")
    assert os.listdir(tmp_path / "again/share/snapper/editable/mine/mine") == ["renamed.py"]


def test_large_files_that_refer_to_sources_are_reported(machine: Machine, tmp_path: Path) -> None:
    """Files larger than a layer are packed in pieces, as they are."""
    source = write_source(tmp_path / "mine")
    prefix = make_data(machine.envs / "data")
    write_direct_url(prefix / SITE, "mine", str(source))
    (source / "log.txt").write_text("." * (32 * 2**20 - 10) + f"\nsee {source}/mine\n" + "." * 100)
    (source / "plain.txt").write_text("." * (33 * 2**20))
    packed = machine.snapper("pack", "data", "--editable=include", "--json")
    assert (packed.code, packed.json["unrelocated"]) == (3, ["share/snapper/editable/mine/log.txt"])


def test_sources_inside_of_others_are_told_apart(machine: Machine, tmp_path: Path) -> None:
    """A workspace and one of its members are both installed."""
    workspace = write_source(tmp_path / "workspace", "outer")
    member = write_source(workspace / "packages" / "inner", "inner")
    prefix = make_data(machine.envs / "data")
    for name, source in (("outer", workspace), ("inner", member)):
        write_direct_url(prefix / SITE, name, str(source))
        (prefix / SITE / f"{name}.pth").write_text(f"{source}\n")
    machine.run_json("pack", "data", "--editable=include")
    machine.run_json("restore", "data", "--prefix", tmp_path / "restored")
    for name in ("outer", "inner"):
        path = Path((tmp_path / "restored" / SITE / f"{name}.pth").read_text().strip())
        assert path == tmp_path / "restored/share/snapper/editable" / name
        assert (path / name / "__init__.py").is_file()


NAMES = ("by_conda", "by_egg", "by_finder", "by_pth")


def test_editable_installs_are_refused_linked_or_included(
    environment: Path, new_machine: Callable[[str], Machine], tmp_path: Path
) -> None:
    one, two = new_machine("one"), new_machine("two")
    code = tmp_path / "code"
    forms = {path.name for path in site_of(environment).iterdir()}
    assert {"by-egg.egg-link", "by_egg.egg-link"} & forms
    assert any(name.startswith("__editable__.by_pth") and name.endswith(".pth") for name in forms)
    assert any(
        name.startswith("__editable__") and name.endswith(".pth") and "finder" in name for name in forms
    )

    error = one.expect_error(1, "pack", "-p", environment)
    for name in NAMES:
        assert f"({code / name})" in error["message"] or f"({code / name}/src)" in error["message"]
    assert "by_copy" not in error["message"]
    assert "--editable=include" in error["hint"]
    assert not list(one.store.glob("environments/*"))

    one.run_json("pack", "-p", environment, "--editable=ignore", "--name", "linked")
    two.run_json("restore", "linked", "--envs-dir", two.envs)
    assert all(file.is_relative_to(code) for file in locate_packages(two.envs / "linked", NAMES).values())
    assert_plain_install_relocated(two.envs / "linked")

    one.run_json("pack", "-p", environment, "--editable=include", "--name", "whole")
    shutil.rmtree(code)
    two.run_json("restore", "whole", "--envs-dir", two.envs)
    whole = two.envs / "whole"
    assert all(file.is_relative_to(whole) for file in locate_packages(whole, NAMES).values())
    two.run_json("pack", "whole")


def assert_plain_install_relocated(prefix: Path) -> None:
    """Check script, data and metadata of the plain install: they exist, and contain the prefix."""
    script = prefix / "bin" / "by-copy"
    done = subprocess.run([script, "-E", "a b"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (7, f"{site_of(prefix)}/by_copy/__init__.py -E a b\n")
    assert (prefix / "share" / "by_copy" / "notes.txt").read_text() == f"see {prefix}/share\n"
    (metadata,) = site_of(prefix).glob("by_copy*.dist-info")
    assert json.loads((metadata / "direct_url.json").read_text())["dir_info"] == {}
    assert "by-copy = by_copy:main" in (metadata / "entry_points.txt").read_text()
