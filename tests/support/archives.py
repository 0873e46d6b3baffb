"""Helpers for tests of `snapper export` and `snapper import`: other programs, and environments with unusual files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from scripts.maker import make
from tests.conftest import tree_of

FORMATS = ("tar.gz", "tar.zst", "tar.bz2", "tar", "zip", "squashfs")

#: What conda-pack adds to every archive.
ACTIVATION = {"bin/activate", "bin/activate.fish", "bin/deactivate"}
ADDED = ACTIVATION | {"bin/conda-unpack", "bin/conda_unpack_progress.py"}

Tree = dict[str, tuple[str, int, bytes]]


def need_tools(form: str) -> None:
    """Skip the test if the machine has no program for the format."""
    programs = {"zip": ("unzip",), "squashfs": ("mksquashfs", "unsquashfs"), "tar.zst": ("zstd",)}
    for program in programs.get(form, ()):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed, which the test of the format {form} needs")


def run(*command: object, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def unpack(archive: Path, directory: Path) -> Path:
    """Unpack an archive as a user would, with the system's programs; return the directory."""
    directory.mkdir(parents=True)
    if archive.name.endswith(".zip"):
        run("unzip", "-q", archive, "-d", directory)
    elif archive.name.endswith(".squashfs"):
        run("unsquashfs", "-q", "-n", "-f", "-d", directory, archive)
    else:
        run("tar", "-xpf", archive, "-C", directory)
    return directory


def conda_unpack(prefix: Path) -> None:
    """Run the archive's own `conda-unpack`, which must need nothing except Python."""
    run(sys.executable, "-I", "-B", "-c", _RUN, prefix / "bin" / "conda-unpack")


_RUN = """
import os, runpy, sys
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def conda_pack(prefix: Path, output: Path, **options: Any) -> Path:
    """Pack the environment with conda-pack as its command does; return the archive."""
    from conda_pack import CondaEnv

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options.setdefault("zip_symlinks", True)
        CondaEnv.from_prefix(str(prefix)).pack(output=str(output), **options)
    return output


def archives_of(prefix: Path) -> dict[str, Path]:
    """Pack the environment with conda-pack in every format that this machine has programs for; return the archives."""
    forms = [*FORMATS, "tar.xz"]
    if shutil.which("mksquashfs") is None:
        forms.remove("squashfs")
    return {form: conda_pack(prefix, prefix.parent / f"{prefix.name}.{form}") for form in forms}


def make_odd(prefix: Path) -> Path:
    """Create an environment with files of every kind, from conda packages and of its user; return its prefix."""
    make("no-python", prefix, copy=True)
    (prefix / "bin" / "own-script").write_text(f"#!{prefix}/bin/python\nprint('{prefix}/share')\n")
    (prefix / "bin" / "own-script").chmod(0o755)
    (prefix / "bin" / "python-own-config").write_text(f"#!/bin/sh\necho {prefix}\n")
    share = prefix / "share" / "own"
    (share / "empty").mkdir(parents=True)
    (share / "private").mkdir(mode=0o700)
    (share / "private" / "file").write_text("mine")
    (share / "private" / "file").chmod(0o600)
    (share / "read only.cfg").write_text(f"home = {prefix}\n")
    (share / "read only.cfg").chmod(0o444)
    (share / "ça et là").write_text(f"{prefix}/déjà vu\n", encoding="utf-8")
    (share / ("long" * 30)).mkdir()
    (share / ("long" * 30) / ("name" * 30)).write_text("deep")
    (share / "one.txt").write_text(f"{prefix}\n")
    os.link(share / "one.txt", share / "other.txt")
    (share / "relative").symlink_to("../textdata/original.txt")
    (share / "absolute").symlink_to(prefix / "share" / "textdata")
    (share / "top").symlink_to(prefix)
    (share / "dangling").symlink_to("nowhere")
    (share / "old.txt").write_text("older than zip archives can express")
    os.utime(share / "old.txt", (0, 0))
    return prefix


def without(tree: Tree, paths: set[str]) -> Tree:
    return {path: entry for path, entry in tree.items() if path not in paths}


def records_of(tree: Tree) -> dict[str, Any]:
    """Remove conda's records from the tree and return them, parsed, by path."""
    paths = [path for path in tree if path.startswith("conda-meta/") and path.endswith(".json")]
    return {path: json.loads(tree.pop(path)[2]) for path in paths}


def assert_same(actual: Tree, expected: Tree) -> None:
    assert actual.keys() == expected.keys()
    for path, entry in expected.items():
        assert actual[path] == entry, path


def write_tar(file: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    """Write an archive of a minimal environment and these members; return it."""
    with tarfile.open(file, "w:gz" if file.name.endswith("gz") else "w") as archive:
        for info, data in (member("conda-meta/history"), *members):
            archive.addfile(info, BytesIO(data) if info.isreg() else None)
    return file


def member(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def installed(recipe: str, prefix: Path) -> Tree:
    """Return the files of an environment installed at the prefix, and remove it again."""
    make(recipe, prefix)
    tree = tree_of(prefix)
    shutil.rmtree(prefix)
    return tree
