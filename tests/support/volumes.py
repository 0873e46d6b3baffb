"""Directories that cannot be renamed: mount points, and parts of container images."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

#: Where a file system of its own is mounted.
MOUNTS = ("tmpfs", "bind", "ext4")

_IMAGE_SIZE = "32M"


@contextmanager
def mounted(kind: str, point: Path, scratch: Path) -> Iterator[None]:
    """Mount an empty file system at a directory; skip the test where that is impossible."""
    scratch.mkdir()
    options = ["-t", kind, "none"]
    if kind == "bind":
        options = ["--bind", str(scratch)]
    elif kind == "ext4":
        image = scratch / "image"
        _run("truncate", "-s", _IMAGE_SIZE, image)
        _run("mkfs.ext4", "-q", image)
        options = ["-o", "loop", str(image)]
    _run("mount", *options, point)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(point)], check=True)


@contextmanager
def in_image(directory: Path, scratch: Path, *, fuse: bool = False) -> Iterator[None]:
    """Make what is in a directory part of a container image: the lower layer of an overlay file system.

    Directories of an image can be renamed where `redirect_dir` is on. With `fuse`, it is that of containers of users
    without privileges. Skip the test where that is impossible.
    """
    layers = {name: scratch / name for name in ("lowerdir", "upperdir", "workdir")}
    scratch.mkdir()
    directory.rename(layers["lowerdir"])
    for path in (directory, layers["upperdir"], layers["workdir"]):
        path.mkdir()
    options = ",".join(f"{name}={path}" for name, path in layers.items())
    if fuse:
        _run("fuse-overlayfs", "-o", options, directory)
    else:
        _run("mount", "-t", "overlay", "overlay", "-o", f"{options},redirect_dir=off", directory)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def _run(*command: object) -> None:
    if not shutil.which(str(command[0])):
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this user or system cannot do this: {' '.join(map(str, command))}: {done.stderr}")
