"""pip at work in a genuine environment, with wheels that the maker keeps: no index is asked twice."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from scripts.maker.cache import open_cache
from scripts.maker.wheels import fetch_wheels

#: What builds the projects of the tests. Later versions of setuptools have no `setup.py develop`.
BUILD = "setuptools>=70.1,<80"


def wheels(*requirements: str) -> list[Path]:
    """The wheels of these requirements, without what they need."""
    return [wheel.path for wheel in fetch_wheels(requirements, open_cache(None), dependencies=False)]


def build_tools(place: Path) -> Path:
    """Makes a directory for PYTHONPATH to build with, so that nothing need be installed for that."""
    for wheel in wheels(BUILD):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(place)
    return place


def pip(prefix: Path, *arguments: object, **variables: str) -> None:
    """Runs pip on the environment, which need not have it."""
    run(
        [sys.executable, "-W", "ignore", "-m", "pip", "--python", python_of(prefix)],
        ["-q", "--disable-pip-version-check", *arguments],
        prefix.parent,
        **variables,
    )


def python_of(prefix: Path) -> Path:
    return prefix / "bin" / "python"


def run(program: Sequence[object], arguments: Sequence[object], directory: Path, **variables: str) -> str:
    """Runs a program with nothing of the developer's own; what it prints."""
    return subprocess.run(
        [str(word) for word in (*program, *arguments)],
        env={"HOME": str(directory), "PATH": os.environ["PATH"], "PIP_CONFIG_FILE": os.devnull, **variables},
        cwd=directory,
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    ).stdout
