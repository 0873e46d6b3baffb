"""Find what an environment uses that is outside of it: it is not packed, so it may be missing after a restore.

These are packages in the user's own directories, and directories that variables of the environment name. Where Python
and R look for a user's packages: CPython's Lib/site.py, and R's help on `libPaths`.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from snapper.environment.cached_links import FollowedLinks
from snapper.environment.conda import META
from snapper.fs.pinned import PinnedDirectory, Top
from snapper.fs.small_files import list_beneath, read_beneath
from snapper.settings.directories import home_directory

#: What a dependency is: packages of a language, or a directory that a variable names.
DependencyKind = Literal[
    "python", "r", "julia", "variable", "library", "cache", "kernel", "private", "secret"
]

_SUMMARIES: Mapping[DependencyKind, str] = {
    "python": "packages of yours in {path}, which the environment's Python imports",
    "r": "packages of yours in {path}, which the environment's R loads",
    "julia": "packages of yours in {path}, which the environment's Julia loads",
    "variable": "{path}, which variables of the environment name",
    "library": "{path}, which compiled files need",
    "cache": "{path}, to which files of packages are links",
    "kernel": "the kernelspec {path}, which starts the environment",
    "private": "the kernelspec {path}, because these files contain credentials, or only you may read them",
    "secret": "variables of the kernelspec {path} that look like credentials",
}

_INSTALL = "Install them into the environment."
_ADVICE: Mapping[DependencyKind, str] = {
    "python": "Pack them with --user-site=include, or install them into the environment.",
    "r": _INSTALL,
    "julia": _INSTALL,
    "variable": "Have the variable name a directory in the environment, or one that all machines have.",
    "library": "Install the library into the environment, or on all machines.",
    "kernel": "Pack the environment as its owner, so that the kernelspec can be copied into it.",
    "private": "Remove the credentials, or let others read the files (chmod a+r), so that the kernelspec is packed.",
    "secret": "Set them where you start Jupyter, or have your program read them from a file.",
    "cache": "Reinstall these packages, so that their files are in the environment.",
}

#: Variables that list directories with code.
_SEARCH_PATHS = (
    *("PYTHONPATH", "PIP_TARGET", "R_LIBS", "R_LIBS_SITE", "JULIA_LOAD_PATH", "JULIA_PROJECT"),
    *("LD_LIBRARY_PATH", "PERL5LIB", "NODE_PATH", "CLASSPATH"),
)

#: Where an environment has scripts that activate it, and what sets a variable in one.
_ACTIVATE = "etc/conda/activate.d"
_ASSIGNMENT = re.compile(rf"""\b({"|".join(_SEARCH_PATHS)})=("[^"\n]*"|'[^'\n]*'|[^\s;"']*)""")

#: The most names in one directory that are looked at.
_MOST_NAMES = 100_000

_PYTHON = re.compile(r"python3\.\d+t?")
_DISTRIBUTION = re.compile(r"([^-]+)-([^-]+)(?:-.*)?\.(?:dist-info|egg-info|egg)")
_R_BASE = re.compile(r"r-base-(\d+\.\d+)[.\d]*-[^-]*\.json")

#: What is in a directory of Python packages without being one.
_NO_MODULES = ("__pycache__", "README", "README.txt")


@dataclass(frozen=True)
class Dependency:
    """Something at `path`, outside of an environment, that the environment uses, and that is not packed.

    `names` are the packages there, the variables that name it, or the files that need it.
    """

    kind: DependencyKind
    path: str
    names: tuple[str, ...]

    @property
    def summary(self) -> str:
        """What this is, in words that the names complete."""
        return _SUMMARIES[self.kind].format(path=self.path)

    @property
    def advice(self) -> str:
        """What to do, so that the environment works elsewhere."""
        return _ADVICE[self.kind]


@dataclass(frozen=True)
class UserSite:
    """A directory of the user's own from which an environment's Python, such as `python3.12`, imports packages."""

    python: str
    path: Path


def find_dependencies(
    environment: PinnedDirectory, variables: Mapping[str, str], of_kernels: Iterable[Mapping[str, str]] = ()
) -> tuple[Dependency, ...]:
    """Return what an environment that sets these variables, or whose kernelspecs set those, uses outside of it.

    What cannot be read does not count: neither could it be used.
    """
    named: dict[str, list[str]] = defaultdict(list)
    for settings in (variables, *of_kernels, *_set_by_scripts(environment)):
        for variable, path in _named_paths(environment, settings):
            if variable not in named[path]:
                named[path].append(variable)
    found = [
        *_user_packages(environment, variables),
        *(Dependency("variable", path, tuple(names)) for path, names in named.items()),
    ]
    return tuple(dependency for dependency in found if dependency.names)


def unproved_links(links: FollowedLinks) -> tuple[Dependency, ...]:
    """Return the links in place of files of packages that lead to something else than the package's file."""
    by_directory: dict[str, list[str]] = defaultdict(list)
    for file in links.unproved:
        by_directory[os.path.dirname(file.target)].append(file.path)
    return tuple(Dependency("cache", path, tuple(names)) for path, names in sorted(by_directory.items()))


def user_sites(environment: PinnedDirectory, variables: Mapping[str, str]) -> list[UserSite]:
    """Return the directories of this user's own that the environment's Python imports packages from."""
    if variables.get("PYTHONNOUSERSITE") or os.environ.get("PYTHONNOUSERSITE"):
        return []
    base = variables.get("PYTHONUSERBASE") or os.environ.get("PYTHONUSERBASE") or "~/.local"
    top = Path(os.path.expanduser(base))
    pythons = [name for name in _names(environment, "lib") if _PYTHON.fullmatch(name)]
    sites = [UserSite(python, top / "lib" / python / "site-packages") for python in pythons]
    return [site for site in sites if site.path.is_dir() and not _is_inside(site.path, environment)]


def python_packages(directory: Path) -> tuple[str, ...]:
    """Return the distributions in a directory of Python packages, and modules that belong to none, sorted."""
    packages, owned = [], set(_NO_MODULES)
    names = [name for name in _names(directory) if name[0] not in ".~#"]  # what macOS, pip, and editors leave
    for name in names:
        distribution = _DISTRIBUTION.fullmatch(name)
        if distribution:
            packages.append(" ".join(distribution.groups()))
            owned |= {name, *_top_level_names(directory, name)}
    return tuple(sorted([*packages, *(name for name in names if name not in owned)], key=str.lower))


def _top_level_names(directory: Path, metadata: str) -> Iterator[str]:
    """Yield the names that a distribution has installed in the directory."""
    for file in ("RECORD", "installed-files.txt", "top_level.txt"):
        with suppress(OSError):
            for line in read_beneath(directory, f"{metadata}/{file}").decode("utf-8", "replace").splitlines():
                name = re.split(r"[/,]", line.removeprefix("../").strip('"'))[0]
                yield from (name, f"{name}.py")


def _user_packages(environment: PinnedDirectory, variables: Mapping[str, str]) -> Iterator[Dependency]:
    """Yield the packages in this user's own directories that languages of the environment use."""
    for site in user_sites(environment, variables):
        yield Dependency("python", str(site.path), python_packages(site.path))
    for library in _r_libraries(environment, variables):
        packages = (name for name in _names(library) if (library / name / "DESCRIPTION").is_file())
        yield Dependency("r", str(library), tuple(packages))
    for depot in _julia_depots(environment, variables):
        yield Dependency("julia", str(depot), tuple(_names(depot, "packages")))


def _r_libraries(environment: PinnedDirectory, variables: Mapping[str, str]) -> Iterator[Path]:
    """Yield the user's libraries for the environment's R: R_LIBS_USER, or as R's own Renviron and conda's name them."""
    versions = {match[1] for match in map(_R_BASE.fullmatch, _names(environment, META)) if match}
    named = variables.get("R_LIBS_USER") or os.environ.get("R_LIBS_USER")
    for version in sorted(versions):
        if named:
            paths = [Path(os.path.expanduser(path)) for path in named.replace("%v", version).split(":")]
        else:
            top = home_directory() / "R"
            paths = [top / name / version for name in _names(top) if name.endswith("-library")]
        yield from (path for path in paths if path.is_dir() and not _is_inside(path, environment))


def _julia_depots(environment: PinnedDirectory, variables: Mapping[str, str]) -> Iterator[Path]:
    """Yield the user's directories of Julia packages, unless the environment has its own, as with conda-forge."""
    if not environment.stat("bin/julia"):
        return
    named = variables.get("JULIA_DEPOT_PATH") or os.environ.get("JULIA_DEPOT_PATH")
    scripts = (name for name in _names(environment, _ACTIVATE) if "julia" in name.lower())
    if named is None and any(scripts):
        return
    for path in (named or "~/.julia").split(":"):
        depot = Path(os.path.expanduser(path or "~/.julia"))
        if depot.is_absolute() and not _is_inside(depot, environment):
            yield depot


def _named_paths(environment: PinnedDirectory, variables: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield variables that list directories with code, each with a path outside of the environment that it names."""
    for variable in _SEARCH_PATHS:
        for path in dict.fromkeys(variables.get(variable, "").split(":")):
            if path.startswith("/") and os.path.exists(path) and not _is_inside(Path(path), environment):
                yield variable, path


def _set_by_scripts(environment: PinnedDirectory) -> Iterator[dict[str, str]]:
    """Yield the variables that list directories with code, as scripts that activate the environment set them."""
    for name in _names(environment, _ACTIVATE):
        with suppress(OSError):
            text = read_beneath(environment, f"{_ACTIVATE}/{name}").decode("utf-8", "replace")
            yield {variable: value.strip("\"'") for variable, value in _ASSIGNMENT.findall(text)}


def _is_inside(path: Path, environment: PinnedDirectory) -> bool:
    """Return whether a path leads into the environment."""
    prefix = environment.path
    return any(
        os.path.abspath(path) == top or os.path.abspath(path).startswith(f"{top}/")
        for top in (os.path.abspath(prefix), os.path.realpath(prefix))
    ) or os.path.realpath(path).startswith(f"{os.path.realpath(prefix)}/")


def _names(directory: Top, path: str = "") -> list[str]:
    """Return the sorted names in a directory; none if it cannot be read."""
    try:
        return list_beneath(directory, path, _MOST_NAMES)
    except OSError:
        return []
