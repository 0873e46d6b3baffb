"""A conda environment on disk."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from snapper.environment import conda
from snapper.environment.tree import Tree, walk
from snapper.errors import NotAnEnvironment
from snapper.format.model import STATE_DIRECTORY, check_path

_MACHINES = {"x86_64": "64", "amd64": "64", "aarch64": "aarch64", "arm64": "arm64", "ppc64le": "ppc64le"}

#: Shorter paths, in characters, are not too deep for a snapshot, whatever they are.
_MAY_BE_DEEP = 500

_STAGING = re.compile(r"(.*/)?\.[^/]+\.snapper\Z", re.S)


@dataclass(frozen=True)
class ForeignPrefix:
    """An environment that is for a while elsewhere than its files know: `prefix` is what they have for its directory.

    `placeholders` are those that files had for the prefix before, by path.
    """

    prefix: str
    placeholders: Mapping[str, str]


def this_platform() -> str:
    """conda's name for this kind of machine, such as linux-64 or osx-arm64."""
    system = "osx" if sys.platform == "darwin" else "linux"
    machine = platform.machine().lower()
    known = "aarch64" if (system, machine) == ("linux", "arm64") else _MACHINES.get(machine, machine)
    return f"{system}-{known}"


def platform_of(records: list[conda.Record]) -> str:
    """The kind of machine that the packages are for; this one's where all are noarch."""
    subdirs = Counter(
        record.package.subdir for record in records if record.package.subdir not in ("", "noarch")
    )
    return subdirs.most_common(1)[0][0] if subdirs else this_platform()


def scan(prefix: Path) -> Tree:
    """The environment's own files: without other environments, package caches, trash, and snapper's state.

    Raises NotAnEnvironment, PermissionDenied, FileOperationFailed.
    """
    if not conda.is_environment(prefix):
        raise NotAnEnvironment(str(prefix))
    return walk(prefix, _foreign(prefix))


def foreign_paths(prefix: Path) -> list[str]:
    """What stands in the environment's directory, is not part of it, and must not be lost with it, by path: other
    environments, what is staged for them, and the package cache. May raise OSError.
    """
    envs = prefix / "envs"
    names = sorted(os.listdir(envs)) if envs.is_dir() and not envs.is_symlink() else []
    reason = _foreign(prefix)
    return [path for path in ("pkgs", *(f"envs/{name}" for name in names)) if reason(path) is not None]


def _foreign(prefix: Path) -> Callable[[str], str | None]:
    """Says of a path why it is not part of the environment."""
    is_root = (prefix / "pkgs" / "urls.txt").is_file() or (prefix / "pkgs" / "urls").is_file()

    def reason(path: str) -> str | None:
        if path in (STATE_DIRECTORY, ".condatmp"):
            return ""
        if "/" not in path or len(path) > _MAY_BE_DEEP:
            try:
                check_path(path)
            except ValueError as error:
                return str(error)
        if path == "pkgs" and is_root:
            return "it is the package cache"
        if path.startswith("envs/") and path.count("/") == 1:
            if _STAGING.match(path):
                return ""
            if (prefix / path / conda.META).is_dir():
                return "it is another environment"
        return None

    return reason


def embedded_prefix(prefix: Path, records: list[conda.Record]) -> str:
    """The directory that the environment's files know themselves by.

    That is how the directory was written when packages were installed, which a symlink on the way to it can
    make different from `prefix`.
    """
    given = os.path.abspath(prefix)
    candidates = list(dict.fromkeys((given, os.path.realpath(prefix))))
    if len(candidates) > 1:
        for record in records:
            for entry in record.entries:
                if entry.placeholder and entry.mode == "text":
                    for candidate in candidates:
                        if _mentions(prefix / entry.path, candidate):
                            return candidate
    return given


def _mentions(file: Path, text: str) -> bool:
    try:
        return os.fsencode(text) in file.read_bytes()
    except OSError:
        return False
