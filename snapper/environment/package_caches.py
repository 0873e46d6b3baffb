"""Recognize the package caches of conda, mamba, pixi, and uv, wherever the user keeps them.

conda extracts a package to `pkgs/NAME-VERSION-BUILD`, where its `info/index.json` is, and lists its URL in `urls.txt`
in `pkgs`, which can have any name then; pixi has no such list. uv unpacks a wheel to `archive-v0/ID` in a cache with a
`CACHEDIR.TAG`. pip's cache only has archives.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from snapper.environment.managed import managed_environments
from snapper.fs.ownership import is_own

_PACKAGE = "info/index.json"
_PACKAGES = "pkgs"
_URLS = "urls.txt"
_WHEELS = re.compile(r"archive-v\d+")
_TAG = "CACHEDIR.TAG"


class PackageCaches:
    """The package caches of this user or root. What is in an environment that may have come from a store is none.

    Each directory is looked at once.
    """

    def __init__(self) -> None:
        self._packages: dict[str, bool] = {}

    def contain(self, path: str) -> bool:
        """Return whether an absolute path, without links on the way, is inside of a package in a cache."""
        return any(map(self._is_package, _directories_above(path)))

    def _is_package(self, directory: str) -> bool:
        known = self._packages.get(directory)
        if known is None:
            known = self._packages[directory] = _has_signs(directory) and _is_own(os.path.dirname(directory))
        return known


def _directories_above(path: str) -> Iterator[str]:
    while (directory := os.path.dirname(path)) != path:
        yield directory
        path = directory


def _has_signs(package: str) -> bool:
    """Return whether the directory, and what is around it, look like a package in a cache."""
    packages = os.path.dirname(package)
    name = os.path.basename(packages)
    if _WHEELS.fullmatch(name):
        return _is_file(os.path.dirname(packages), _TAG)
    return _is_file(package, _PACKAGE) and (name == _PACKAGES or _is_file(packages, _URLS))


def _is_own(packages: str) -> bool:
    try:
        return is_own(os.stat(packages)) and not managed_environments(Path(packages))
    except OSError:
        return False


def _is_file(directory: str, name: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(os.path.join(directory, name)).st_mode)
    except OSError:
        return False
