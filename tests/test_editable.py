"""Editable installs in their three forms: refused with a list, taken along, or left as links."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.maker import make
from tests.conftest import Machine

SETUP = "from setuptools import setup; setup(name='{0}', version='1.0', packages=['{0}'], package_dir={{'': 'src'}})"


def project(top: Path, name: str) -> Path:
    """A source directory with one package that says where it is."""
    package = top / "src" / name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("HERE = __file__\n")
    (top / "setup.py").write_text(SETUP.format(name))
    return top


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pip needs to build with, so that it asks nobody."""
    place = tmp_path_factory.mktemp("wheels")
    download = ["-m", "pip", "download", "-q", "-d", str(place), "setuptools<80", "wheel"]
    subprocess.run([sys.executable, "-W", "ignore", *download], check=True, timeout=300)
    return place


@pytest.fixture
def environment(tmp_path: Path, wheels: Path) -> Path:
    """A genuine environment with an editable install of each form, whose code is in `tmp_path/code`."""
    prefix = tmp_path / "origin" / "work"
    make("science", prefix)
    code = tmp_path / "code"

    def pip(*arguments: str) -> None:
        command = [
            str(prefix / "bin" / "python"),
            "-m",
            "pip",
            "-q",
            "--disable-pip-version-check",
            *arguments,
        ]
        variables = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "PIP_CONFIG_FILE": os.devnull}
        subprocess.run(command, env=variables, check=True, timeout=300)

    build = ["--no-index", f"--find-links={wheels}"]
    pip("install", *build, "setuptools", "wheel")
    pip("install", *build, "--no-build-isolation", "-e", str(project(code / "by_pth", "by_pth")))
    flat = project(code / "by_finder", "by_finder")
    (flat / "pyproject.toml").write_text(
        "[build-system]\nrequires = ['setuptools']\nbuild-backend = 'setuptools.build_meta'\n"
    )
    shutil.move(flat / "src" / "by_finder", flat / "by_finder")
    (flat / "setup.py").write_text(
        "from setuptools import setup; setup(name='by_finder', packages=['by_finder'])"
    )
    pip("install", *build, "--no-build-isolation", "-e", str(flat))
    legacy = project(code / "by_egg", "by_egg")
    develop = [str(prefix / "bin" / "python"), "-W", "ignore", "setup.py", "-q", "develop", "--no-deps"]
    subprocess.run(develop, cwd=legacy, check=True, capture_output=True, timeout=300)
    return prefix


def where(prefix: Path, name: str) -> Path:
    code = f"import {name}; print({name}.HERE)"
    command = [str(prefix / "bin" / "python"), "-B", "-c", code]
    return Path(
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    )


NAMES = ("by_egg", "by_finder", "by_pth")


def test_editable_installs(environment: Path, new_machine: Callable[[str], Machine], tmp_path: Path) -> None:
    one, two = new_machine("one"), new_machine("two")
    code = tmp_path / "code"
    site = next(environment.glob("lib/python3*/site-packages"))
    forms = {path.name for path in site.iterdir()}
    assert {"by-egg.egg-link", "by_egg.egg-link"} & forms
    assert any(name.startswith("__editable__.by_pth") and name.endswith(".pth") for name in forms)
    assert any(
        name.startswith("__editable__") and name.endswith(".pth") and "finder" in name for name in forms
    )

    error = one.refused(1, "pack", "-p", environment)
    for name in NAMES:
        assert f"({code / name})" in error["message"] or f"({code / name}/src)" in error["message"]
    assert "--editable=include" in error["hint"]
    assert not list(one.store.glob("environments/*"))

    one.done("pack", "-p", environment, "--editable=ignore", "--name", "linked")
    two.done("restore", "linked", "--envs-dir", two.envs)
    for name in NAMES:
        assert where(two.envs / "linked", name).is_relative_to(code)

    one.done("pack", "-p", environment, "--editable=include", "--name", "whole")
    shutil.rmtree(code)
    two.done("restore", "whole", "--envs-dir", two.envs)
    whole = two.envs / "whole"
    for name in NAMES:
        assert where(whole, name).is_relative_to(whole)
    two.done("pack", "whole")
