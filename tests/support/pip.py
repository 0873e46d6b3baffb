"""Run pip in real environments, with wheels from the maker's cache, which downloads each only once."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from scripts.maker.cache import open_cache
from scripts.maker.wheels import fetch_wheels

#: Builds the projects of the tests. Later versions of setuptools have no `setup.py develop`.
BUILD = "setuptools>=70.1,<80"


def wheels(*requirements: str) -> list[Path]:
    """Return the wheels of these requirements, without their dependencies."""
    return [wheel.path for wheel in fetch_wheels(requirements, open_cache(None), dependencies=False)]


def make_wheel(place: Path, name: str, version: str, files: dict[str, str]) -> Path:
    """Write a wheel with files of Python packages; what is in `NAME.data/data/` is installed beside them."""
    info = f"{name}-{version}.dist-info"
    metadata = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    path = place / f"{name}-{version}-py3-none-any.whl"
    record = ""
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in {**files, **metadata}.items():
            member = file.replace(f"{name}.data/", f"{name}-{version}.data/")
            wheel.writestr(member, text)
            checksum = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
            record += f"{member},sha256={checksum},{len(text)}\n"
        wheel.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
    return path


def build_tools(place: Path) -> Path:
    """Unpack the build tools into a directory for PYTHONPATH, so that they need not be installed; return it."""
    for wheel in wheels(BUILD):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(place)
    return place


def pip(prefix: Path, *arguments: object, **variables: str) -> None:
    """Run pip on the environment, which need not contain pip."""
    run(
        [sys.executable, "-W", "ignore", "-m", "pip", "--python", python_of(prefix)],
        ["-q", "--disable-pip-version-check", *arguments],
        prefix.parent,
        **variables,
    )


def python_of(prefix: Path) -> Path:
    return prefix / "bin" / "python"


def run(program: Sequence[object], arguments: Sequence[object], directory: Path, **variables: str) -> str:
    """Run a program without the developer's settings; return its output."""
    return subprocess.run(
        [str(word) for word in (*program, *arguments)],
        env={"HOME": str(directory), "PATH": os.environ["PATH"], "PIP_CONFIG_FILE": os.devnull, **variables},
        cwd=directory,
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    ).stdout
