"""Editable installs by the real build backends: included, they work without their sources, or are refused by name."""

from __future__ import annotations

import os
import pwd
import shutil
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.maker import make
from tests.conftest import Machine
from tests.support.pip import BUILD, pip, python_of, run, wheels

CODE = """\
from pathlib import Path
DATA = (Path(__file__).parent / "data.txt").read_text()
def main():
    print(DATA.strip(), __file__)
"""
PROJECT = """\
[build-system]
requires = []
build-backend = "{backend}"
[project]
name = "{name}"
version = "1.0"
description = "A test."
[project.scripts]
run-{name} = "{name}:main"
"""
C_MODULE = """\
#include <Python.h>
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_c", 0, -1, 0};
PyMODINIT_FUNC PyInit__c(void) { return PyModule_Create(&module); }
"""
SETUP = """\
from setuptools import Extension, setup
setup(ext_modules=[Extension('{name}._c', ['c.c'])], package_data={'': ['*.txt']})
"""
CMAKE = """\
cmake_minimum_required(VERSION 3.15...3.27)
project({name} LANGUAGES C)
find_package(Python COMPONENTS Interpreter Development.Module REQUIRED)
Python_add_library(_c MODULE c.c WITH_SOABI)
install(TARGETS _c DESTINATION {name})
"""
MESON = """\
project('{name}', version: '1.0')
python = import('python').find_installation(pure: true)
python.install_sources('src/{name}/__init__.py', 'src/{name}/data.txt', subdir: '{name}')
"""
CARGO = """\
[package]
name = "{name}"
version = "0.1.0"
edition = "2021"
[lib]
crate-type = ["cdylib"]
path = "rust.rs"
"""
MATURIN = '[tool.maturin]\npython-source = "src"\nmodule-name = "{name}._rust"\nbindings = "cffi"\n'


@dataclass(frozen=True)
class Form:
    """A project: its backend, further text of pyproject.toml, and files; in these, `{name}` stands for its name.

    `flat` has the package at the top instead of in `src`.
    """

    backend: str
    options: str = ""
    files: tuple[tuple[str, str], ...] = ()
    flat: bool = False


C_FILES = (("c.c", C_MODULE), ("setup.py", SETUP))
FORMS = {
    "strict": Form(
        "setuptools.build_meta", files=(*C_FILES, ("setup.cfg", "[editable_wheel]\nmode = strict\n"))
    ),
    "finder": Form(
        "setuptools.build_meta", "[tool.setuptools]\npackages = ['{name}']\n", (C_FILES[0],), flat=True
    ),
    "exact": Form("hatchling.build", "[tool.hatch.build]\ndev-mode-exact = true\n"),
    "flit_path": Form("flit_core.buildapi"),
}
REFUSED = {"meson": Form("mesonpy", files=(("meson.build", MESON),))}
SLOW = {
    "compat": Form(
        "setuptools.build_meta", files=(*C_FILES, ("setup.cfg", "[editable_wheel]\nmode = compat\n"))
    ),
    "hatchling_path": Form("hatchling.build"),
    "poetry_path": Form("poetry.core.masonry.api"),
    "pdm_path": Form("pdm.backend"),
    "pdm_exact": Form("pdm.backend", '[tool.pdm.build]\neditable-backend = "editables"\n'),
    "uv": Form("uv_build"),
    "redirect": Form("scikit_build_core.build", files=(("c.c", C_MODULE), ("CMakeLists.txt", CMAKE))),
    "inplace": Form(
        "scikit_build_core.build",
        '[tool.scikit-build]\neditable.mode = "inplace"\n',
        (("c.c", C_MODULE), ("CMakeLists.txt", CMAKE)),
    ),
    "maturin_path": Form(
        "maturin", MATURIN, (("Cargo.toml", CARGO), ("rust.rs", '#[no_mangle] pub extern "C" fn one() {}\n'))
    ),
}
SLOW_REFUSED = {
    "rebuild": Form(
        "scikit_build_core.build",
        '[tool.scikit-build]\neditable.rebuild = true\nbuild-dir = "build"\n',
        (("c.c", C_MODULE), ("CMakeLists.txt", CMAKE)),
    )
}
EDITABLES = ("editables", "pathspec", "pluggy", "packaging", "trove-classifiers")
MESON_TOOLS = ("meson-python", "meson", "ninja", "pyproject-metadata")
TOOLS = (BUILD, "hatchling", *EDITABLES, "flit-core", *MESON_TOOLS)
SLOW_TOOLS = (
    *("poetry-core", "pdm-backend", "uv-build", "scikit-build-core", "cmake", "maturin", "cffi", "pycparser"),
    *("flit", "docutils", "tomli-w"),
)


def write_project(top: Path, name: str, form: Form) -> Path:
    package = top / name if form.flat else top / "src" / name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(CODE)
    (package / "data.txt").write_text(f"data of {name}\n")
    for path, text in (("pyproject.toml", PROJECT + form.options), *form.files):
        (top / path).write_text(text.replace("{name}", name).replace("{backend}", form.backend))
    return top


@dataclass(frozen=True)
class Workshop:
    """An environment, a directory of sources, and what builds them."""

    prefix: Path
    code: Path
    variables: dict[str, str]

    def install(self, forms: dict[str, Form]) -> None:
        """Make a project of each form, and install it from its source directory."""
        arguments: list[object] = []
        for name, form in forms.items():
            arguments += ["-e", write_project(self.code / name, name, form)]
        command = ("install", "--no-index", "--no-build-isolation", "--no-deps", "--use-pep517")
        pip(self.prefix, *command, *arguments, **self.variables)

    def uninstall(self, name: str) -> None:
        """Remove the package's link and metadata; pip would take longer."""
        (site,) = self.prefix.glob("lib/python3*/site-packages")
        for path in (*site.glob(f"*{name}*"), *site.glob(f"__pycache__/*{name}*")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def unpack(requirements: Sequence[str], directory: Path) -> None:
    """Unpack wheels, and make their programs executable."""
    for wheel in wheels(*requirements):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(directory)
    for scripts in directory.glob("*.data/scripts"):
        shutil.copytree(scripts, directory / "bin", dirs_exist_ok=True)
    for program in (directory / "bin").glob("*"):
        program.chmod(0o755)


def unpack_tools(requirements: Sequence[str], tools: Path) -> dict[str, str]:
    """Unpack build backends, and return variables that make Python and the shell find what is in them."""
    unpack(requirements, tools)
    meson = tools / "bin" / "meson"
    meson.parent.mkdir(exist_ok=True)
    meson.write_text(f"#!{sys.executable}\nfrom mesonbuild.mesonmain import main\nraise SystemExit(main())\n")
    meson.chmod(0o755)
    rustup = Path(pwd.getpwuid(os.getuid()).pw_dir, ".rustup")
    variables = {"PYTHONPATH": str(tools), "PATH": f"{tools}/bin:{os.environ['PATH']}"}
    return variables | ({"RUSTUP_HOME": str(rustup)} if rustup.is_dir() else {})


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    prefix = tmp_path / "the_origin_of_the_environment" / "work"
    make("compiled", prefix, copy=True)
    unpack(["editables"], next(prefix.glob("lib/python3*/site-packages")))
    return Workshop(prefix, tmp_path / "code with space", unpack_tools(TOOLS, tmp_path / "tools"))


def assert_works(prefix: Path, names: Sequence[str], code: Path) -> None:
    """Assert that nothing refers to the sources, not even for debuggers, and that commands work without them."""
    for name in names:
        text, path = run([prefix / "bin" / f"run-{name}"], [], prefix).strip().rsplit(" /", 1)
        assert text == f"data of {name}"
        assert f"/{path}".startswith(f"{prefix}/")
    needle = os.fsencode(code)
    assert [
        file
        for file in prefix.rglob("*")
        if needle
        in (bytes(file.readlink()) if file.is_symlink() else file.read_bytes() if file.is_file() else b"")
    ] == []


def check_included(workshop: Workshop, machine: Machine, names: Sequence[str]) -> Path:
    """Pack with the sources, remove them and the environment, and restore it elsewhere; return where."""
    packed = machine.snapper("pack", "-p", workshop.prefix, "--editable=include", "--json")
    assert packed.json["included"] == sorted(str(workshop.code / name) for name in names)
    shutil.move(workshop.code, workshop.code.with_name("away"))
    shutil.rmtree(workshop.prefix)
    machine.run_json("restore", "work", "--envs-dir", machine.envs)
    restored = machine.envs / "work"
    again = machine.run_json("pack", "work", "--editable=include")
    assert (again["included"], again["unchanged"]) == ([], True)
    assert_works(restored, names, workshop.code)
    return restored


def test_sources_of_common_backends_are_included(workshop: Workshop, machine: Machine) -> None:
    workshop.install({**FORMS, **REFUSED})
    error = machine.expect_error(1, "pack", "-p", workshop.prefix)
    for name in (*FORMS, *REFUSED):
        assert f"{name} ({workshop.code / name})" in error["message"]

    error = machine.expect_error(1, "pack", "-p", workshop.prefix, "--editable=include")
    assert f"{workshop.code}/meson: " in error["message"]
    assert "meson-python" in error["message"]
    assert "without -e" in error["hint"]
    workshop.uninstall("meson")

    restored = check_included(workshop, machine, [*FORMS])
    run([python_of(restored), "-c", "import strict._c"], [], restored)


def test_sources_of_other_backends_are_included(
    workshop: Workshop, machine: Machine, request: pytest.FixtureRequest
) -> None:
    if not request.config.getoption("--long"):
        pytest.skip("installing these backends takes a minute: use --long")
    tools = unpack_tools(SLOW_TOOLS, workshop.code.with_name("tools"))
    forms = (
        SLOW
        if shutil.which("cargo")
        else {name: form for name, form in SLOW.items() if name != "maturin_path"}
    )
    workshop.install({**forms, **SLOW_REFUSED})
    flit = write_project(workshop.code / "linked", "linked", FORMS["flit_path"])
    command = [sys.executable, "-m", "flit", "install", "--symlink", "--deps", "none", "--python"]
    run(command, [python_of(workshop.prefix)], flit, FLIT_ROOT_INSTALL="1", **tools)
    assert any(path.is_symlink() for path in workshop.prefix.glob("lib/python3*/site-packages/linked"))

    error = machine.expect_error(1, "pack", "-p", workshop.prefix, "--editable=include")
    assert f"{workshop.code}/rebuild: " in error["message"]
    assert "scikit-build-core" in error["message"]
    workshop.uninstall("rebuild")

    restored = check_included(workshop, machine, [*forms, "linked"])
    run([python_of(restored), "-c", "import compat._c, redirect._c"], [], restored)
