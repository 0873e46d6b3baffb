"""Find the packages in the user's own directories that the languages of an environment use.

Where Python and R look for a user's packages: CPython's Lib/site.py, and R's help on `libPaths`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

from snapper.environment.conda import META
from snapper.environment.lookup import Lookup, expand_home
from snapper.environment.managed import managed_environments
from snapper.environment.outside_paths import Surroundings
from snapper.environment.variables import environment_variables
from snapper.fs.small_files import read_own_path
from snapper.settings.directories import home_directory

#: Variables that say where a user's own packages of a language are.
OF_LANGUAGES = ("PYTHONUSERBASE", "R_LIBS_USER", "JULIA_DEPOT_PATH")

#: The variables in which conda and snapper's kernels keep the prefixes of active environments.
_ACTIVE = re.compile(r"CONDA_PREFIX(_\d+)?")

#: The most versions of a language that an environment is taken to have; usually, it has one.
_MOST_VERSIONS = 10

_PYTHON = re.compile(r"python3\.\d{1,3}t?")
_DISTRIBUTION = re.compile(r"([^-]+)-([^-]+)(?:-.*)?\.(?:dist-info|egg-info|egg)")
#: The first part of a path at the beginning of a line.
_TOP_LEVEL = re.compile(r'^(?:\.\./)?"?([^/,"\r\n]+)', re.M)
_R_BASE = re.compile(r"r-base-(\d{1,3}\.\d{1,3})[.\d]*-[^-]*\.json")
_R_LIBS = re.compile(
    r"""^[ \t]*R_LIBS(?:_USER|_SITE)?[ \t]*=[ \t]*(?:\$\{\w+[:-]+)?['"]?([~/][^\s'"}]*)""", re.M
)
_LIB_PATHS = re.compile(r"\.libPaths\(([^\n]*)")
_R_COMMENT = re.compile(r"^[ \t]*#.*", re.M)
_R_HOME = re.compile(r"\$HOME\b|\$\{HOME\}")

#: What is in a directory of Python packages without being one.
_NO_MODULES = ("__pycache__", "README", "README.txt")


class UserPackages(NamedTuple):
    """The names of packages of a language in a directory."""

    language: Literal["python", "r", "julia"]
    path: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class UserSite:
    """A directory of the user's own from which an environment's Python, such as `python3.12`, imports packages.

    `by_user` is whether the user has determined it, and not only variables of the environment, which others may have
    published.
    """

    python: str
    path: Path
    by_user: bool = True


def find_user_packages(around: Surroundings, variables: Mapping[str, str]) -> Iterator[UserPackages]:
    """Yield the packages in this user's own directories that an environment that sets these variables uses."""
    lookup = around.lookup
    for site in user_sites(around, variables):
        yield UserPackages("python", str(site.path), _python_packages(lookup, site.path))
    for library in _r_libraries(around, variables):
        names = lookup.names(Path(library))
        packages = (name for name in names if lookup.exists(f"{library}/{name}/DESCRIPTION"))
        yield UserPackages("r", library, tuple(packages))
    for depot in _julia_depots(around, variables):
        yield UserPackages("julia", depot, tuple(lookup.names(Path(depot), "packages")))


def user_sites(around: Surroundings, variables: Mapping[str, str]) -> list[UserSite]:
    """Return the directories of this user's own that the environment's Python imports packages from.

    PYTHONNOUSERSITE counts if the environment sets it, not if this shell does: Jupyter need not start kernels with it.
    """
    if ignores_user_site(variables):
        return []
    of_user = _user_base_of_user()
    top = _user_base(variables) or of_user
    by_user = top == of_user and not managed_environments(top)
    sites = [UserSite(python, top / "lib" / python / "site-packages", by_user) for python in pythons(around)]
    return [site for site in sites if around.has_directory(str(site.path))]


def ignores_user_site(variables: Mapping[str, str]) -> bool:
    """Return whether Python imports nothing from user sites in an environment that sets these variables."""
    return bool(variables.get("PYTHONNOUSERSITE"))


def _user_base_of_user() -> Path:
    """Return the user base that this user has chosen.

    Others may have published an active environment, and what its variables name.
    """
    chosen = _user_base(os.environ)
    active = [Path(prefix) for name, prefix in os.environ.items() if _ACTIVE.fullmatch(name) and prefix]
    if chosen and chosen not in (_user_base(environment_variables(prefix)) for prefix in active):
        return chosen
    return Path(expand_home("~/.local"))


def _user_base(variables: Mapping[str, str]) -> Path | None:
    """Return the user base that variables name, if they do."""
    named = variables.get("PYTHONUSERBASE")
    return Path(expand_home(named)) if named else None


def pythons(around: Surroundings) -> list[str]:
    """Return the names of the directories in `lib` of the environment's Pythons, such as `python3.12`."""
    names = around.lookup.names(around.environment, "lib")
    return [*islice(filter(_PYTHON.fullmatch, names), _MOST_VERSIONS)]


def _python_packages(lookup: Lookup, directory: Path) -> tuple[str, ...]:
    """Return the distributions in a directory of Python packages, and modules that belong to none, sorted."""
    packages, owned = [], set(_NO_MODULES)
    names = [name for name in lookup.names(directory) if name[0] not in ".~#"]  # of macOS, pip, and editors
    for name in names:
        distribution = _DISTRIBUTION.fullmatch(name)
        if distribution:
            packages.append(" ".join(distribution.groups()))
            owned |= {name, *_top_level_names(lookup, directory, name)}
    return tuple(sorted([*packages, *(name for name in names if name not in owned)], key=str.lower))


def _top_level_names(lookup: Lookup, directory: Path, metadata: str) -> Iterator[str]:
    """Yield the names that a distribution has installed in the directory."""
    for file in ("RECORD", "installed-files.txt", "top_level.txt"):
        for name in set(_TOP_LEVEL.findall(lookup.read(directory, f"{metadata}/{file}"))):
            yield from (name, f"{name}.py")


def _r_libraries(around: Surroundings, variables: Mapping[str, str]) -> Iterator[str]:
    """Yield the user's libraries for the environment's R: R_LIBS_USER, or as R's own Renviron and conda's name them.

    R's startup files may name more.
    """
    records = around.lookup.names(around.environment, META)
    versions = sorted({match[1] for match in map(_R_BASE.fullmatch, records) if match})[:_MOST_VERSIONS]
    if not versions:
        return
    named = variables.get("R_LIBS_USER") or os.environ.get("R_LIBS_USER")
    top = home_directory() / "R"
    defaults = (str(top / name / "%v") for name in around.lookup.names(top) if name.endswith("-library"))
    texts = _r_startup_files(around)
    found = [*(named.split(":") if named else defaults), *(path for text in texts for path in _r_paths(text))]
    for path in dict.fromkeys(found):
        libraries = (expand_home(path.replace("%v", version)) for version in versions)
        yield from filter(around.has_directory, dict.fromkeys(libraries))


def _r_startup_files(around: Surroundings) -> Iterator[str]:
    """Yield the texts of the files in which the environment and the user set R's libraries."""
    for path in ("lib/R/etc/Renviron.site", "lib/R/etc/Rprofile.site"):
        yield around.lookup.read(around.environment, path)
    for variable, name in (("R_ENVIRON_USER", ".Renviron"), ("R_PROFILE_USER", ".Rprofile")):
        with suppress(OSError):
            file = os.environ.get(variable) or home_directory() / name
            yield read_own_path(os.path.expanduser(file)).decode("utf-8", "replace")


def _r_paths(text: str) -> Iterator[str]:
    """Yield the paths in R_LIBS and similar variables, and in calls of `.libPaths`, in a startup file of R."""
    text = _R_HOME.sub("~", _R_COMMENT.sub("", text))
    for value in _R_LIBS.findall(text):
        yield from re.split("[:;]", value)
    for arguments in _LIB_PATHS.findall(text):
        yield from re.findall(r"""["']([~/][^"']*)["']""", arguments)


def _julia_depots(around: Surroundings, variables: Mapping[str, str]) -> Iterator[str]:
    """Yield the user's directories of Julia packages, unless the environment has its own, as with conda-forge."""
    if not around.environment.stat("bin/julia"):
        return
    named = variables.get("JULIA_DEPOT_PATH") or os.environ.get("JULIA_DEPOT_PATH")
    scripts = around.lookup.names(around.environment, "etc/conda/activate.d")
    if named is None and any("julia" in name.lower() for name in scripts):
        return
    depots = (expand_home(path or "~/.julia") for path in dict.fromkeys((named or "~/.julia").split(":")))
    yield from filter(around.has_directory, dict.fromkeys(depots))
