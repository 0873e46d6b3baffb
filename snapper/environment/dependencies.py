"""Find what an environment uses that is outside of it: it is not packed, so it may be missing after a restore.

These are packages in the user's own directories, and whatever variables of the environment, the scripts that activate
it, and the commands of its kernels name. Where Python and R look for a user's packages: CPython's Lib/site.py, and R's
help on `libPaths`.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from snapper.environment.cached_links import FollowedLinks
from snapper.environment.conda import META
from snapper.environment.managed import managed_environments
from snapper.environment.outside_paths import Surroundings
from snapper.fs.pinned import PinnedDirectory, Top
from snapper.fs.small_files import list_beneath, read_beneath, read_own_path
from snapper.settings.directories import home_directory

#: What a dependency is: packages of a language, or what names or needs it.
DependencyKind = Literal[
    "python",
    "r",
    "julia",
    "variable",
    "script",
    "command",
    "library",
    "cache",
    "kernel",
    "private",
    "secret",
]

_SUMMARIES: Mapping[DependencyKind, str] = {
    "python": "your packages in {path}, which the environment's Python imports",
    "r": "your packages in {path}, which the environment's R loads",
    "julia": "your packages in {path}, which the environment's Julia loads",
    "variable": "{path}, which variables of the environment name",
    "script": "{path}, which scripts use that activate the environment, or that Python runs when it starts",
    "command": "{path}, which commands of the environment's kernels use",
    "library": "{path}, which programs need",
    "cache": "{path}, to which files of packages are links",
    "kernel": "the kernelspec {path}, which starts the environment",
    "private": "the kernelspec {path}, because these files contain credentials, or only you may read them",
    "secret": "variables of the kernelspec {path} that look like credentials",
}

_INSTALL = "Install them into the environment."
_ADVICE: Mapping[DependencyKind, str] = {
    "python": "Install them into the environment, or pack them with --user-site=include. If only a variable of the "
    "environment names the directory, set PYTHONUSERBASE for that, too.",
    "r": _INSTALL,
    "julia": _INSTALL,
    "variable": "Have the variable name something in the environment, or that all machines have.",
    "script": "Use only what is in the environment, or on all machines.",
    "command": "Use only what is in the environment, or on all machines.",
    "library": "Install it into the environment, or on all machines.",
    "kernel": "Pack the environment as its owner, with the kernelspec in your own Jupyter directory, and with the "
    "scripts that it runs beside it.",
    "private": "Remove the credentials, or let others read the files (chmod a+r), so that the kernelspec is packed.",
    "secret": "Set them where you start Jupyter, or have your program read them from a file.",
    "cache": "Reinstall these packages, so that their files are in the environment.",
}

#: Variables that list directories with code: what is there counts, even if all machines have the directory.
_SEARCH_PATHS = (
    *("PYTHONPATH", "PIP_TARGET", "R_LIBS", "R_LIBS_SITE", "JULIA_LOAD_PATH", "JULIA_PROJECT"),
    *("LD_LIBRARY_PATH", "PERL5LIB", "NODE_PATH", "CLASSPATH"),
)

#: Variables that say where a user's own packages of a language are.
_OF_LANGUAGES = ("PYTHONUSERBASE", "R_LIBS_USER", "JULIA_DEPOT_PATH")

#: Where an environment has scripts that activate it, and what sets a variable in one: also in fish, and in csh.
_ACTIVATE = "etc/conda/activate.d"
_ASSIGNMENT = re.compile(
    r"""\b(?:(\w+)=|set(?:env|[ \t]+-\w+)[ \t]+(\w+)[ \t]+)("[^"\n]*"|'[^'\n]*'|[^\s;"']*)"""
)
_COMMENT = re.compile(r"^[ \t]*#.*", re.M)
_HOME = re.compile(r"(?<![^\s=:\"'(])~(?=/)|\$HOME\b|\$\{HOME\}")
_PREFIX = re.compile(r"\$CONDA_PREFIX\b|\$\{CONDA_PREFIX\}")
#: A module that a `.pth` file imports.
_IMPORTED = re.compile(r"^import[ \t]+(\w+)", re.M)
#: A value that is only used if a variable is set, or is not.
_OPTIONAL = re.compile(r"\$\{\w+:?[-+][^{}]*\}")

#: The most names in one directory that are looked at.
_MOST_NAMES = 100_000

_PYTHON = re.compile(r"python3\.\d+t?")
_DISTRIBUTION = re.compile(r"([^-]+)-([^-]+)(?:-.*)?\.(?:dist-info|egg-info|egg)")
_R_BASE = re.compile(r"r-base-(\d+\.\d+)[.\d]*-[^-]*\.json")
_R_LIBS = re.compile(
    r"""^[ \t]*R_LIBS(?:_USER|_SITE)?[ \t]*=[ \t]*(?:\$\{\w+[:-]+)?['"]?([~/][^\s'"}]*)""", re.M
)
_LIB_PATHS = re.compile(r"\.libPaths\(([^\n]*)")

#: What is in a directory of Python packages without being one.
_NO_MODULES = ("__pycache__", "README", "README.txt")


@dataclass(frozen=True)
class Dependency:
    """Something at `path`, outside of an environment, that the environment uses, and that is not packed.

    `names` are the packages there, the variables that name it, or the files or kernels that need it.
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
class KernelCommand:
    """The command of a kernel, and the variables that its kernelspec sets."""

    kernel: str
    command: Sequence[str]
    variables: Mapping[str, str]


@dataclass(frozen=True)
class UserSite:
    """A directory of the user's own from which an environment's Python, such as `python3.12`, imports packages.

    `by_user` is whether the user has determined it, and not only variables of the environment, which others may have
    published.
    """

    python: str
    path: Path
    by_user: bool = True


def find_dependencies(
    around: Surroundings, variables: Mapping[str, str], kernels: Iterable[KernelCommand] = ()
) -> tuple[Dependency, ...]:
    """Return what an environment that sets these variables, and has these kernels, uses of what is `around` it.

    What cannot be read does not count: neither could it be used.
    """
    named, environment = _Named(), around.environment
    kernels, scripts = [*kernels], [*_activation_scripts(environment)]
    rest = {name: value for name, value in variables.items() if name not in _OF_LANGUAGES}
    for settings in (
        rest,
        *(kernel.variables for kernel in kernels),
        *(_set_by(text) for _, text in scripts),
    ):
        for variable, value in settings.items():
            is_search_path = variable in _SEARCH_PATHS
            named.add("variable", variable, around.paths_in(value, anywhere=is_search_path))
    for name, text in (*scripts, *_startup_modules(environment)):
        named.add("script", name, around.paths_in(text))
    for kernel in kernels:
        for word in kernel.command:
            named.add("command", kernel.kernel, around.paths_in(word))
    found = [*_user_packages(environment, variables), *named.dependencies()]
    return tuple(dependency for dependency in found if dependency.names)


class _Named:
    """What the environment names outside of it: a path that variables name counts as theirs."""

    def __init__(self) -> None:
        self._names: dict[str, tuple[DependencyKind, list[str]]] = {}

    def add(self, kind: DependencyKind, name: str, paths: Iterable[str]) -> None:
        for path in paths:
            first, names = self._names.setdefault(path, (kind, []))
            if first == kind and name not in names:
                names.append(name)

    def dependencies(self) -> Iterator[Dependency]:
        for path, (kind, names) in self._names.items():
            yield Dependency(kind, path, tuple(names))


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
    of_user = os.environ.get("PYTHONUSERBASE") or "~/.local"
    base = variables.get("PYTHONUSERBASE") or of_user
    top = Path(os.path.expanduser(base))
    by_user = top == Path(os.path.expanduser(of_user)) and not managed_environments(top)
    pythons = [name for name in _names(environment, "lib") if _PYTHON.fullmatch(name)]
    sites = [UserSite(python, top / "lib" / python / "site-packages", by_user) for python in pythons]
    return [
        site
        for site in sites
        if site.path.is_dir() and not Surroundings(environment).relative(str(site.path))
    ]


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
    """Yield the user's libraries for the environment's R: R_LIBS_USER, or as R's own Renviron and conda's name them.

    R's startup files may name more.
    """
    versions = {match[1] for match in map(_R_BASE.fullmatch, _names(environment, META)) if match}
    named = variables.get("R_LIBS_USER") or os.environ.get("R_LIBS_USER")
    top = home_directory() / "R"
    defaults = (str(top / name / "%v") for name in _names(top) if name.endswith("-library"))
    texts = _r_startup_files(environment) if versions else ()
    found = [*(named.split(":") if named else defaults), *(path for text in texts for path in _r_paths(text))]
    for version in sorted(versions):
        paths = [Path(os.path.expanduser(path.replace("%v", version))) for path in dict.fromkeys(found)]
        yield from (
            path for path in paths if path.is_dir() and not Surroundings(environment).relative(str(path))
        )


def _r_startup_files(environment: PinnedDirectory) -> Iterator[str]:
    """Yield the texts of the files in which the environment and the user set R's libraries."""
    for path in ("lib/R/etc/Renviron.site", "lib/R/etc/Rprofile.site"):
        with suppress(OSError):
            yield read_beneath(environment, path).decode("utf-8", "replace")
    for variable, name in (("R_ENVIRON_USER", ".Renviron"), ("R_PROFILE_USER", ".Rprofile")):
        with suppress(OSError):
            file = os.environ.get(variable) or home_directory() / name
            yield read_own_path(os.path.expanduser(file)).decode("utf-8", "replace")


def _r_paths(text: str) -> Iterator[str]:
    """Yield the paths in R_LIBS and similar variables, and in calls of `.libPaths`, in a startup file of R."""
    text = _HOME.sub("~", _COMMENT.sub("", text))
    for value in _R_LIBS.findall(text):
        yield from re.split("[:;]", value)
    for arguments in _LIB_PATHS.findall(text):
        yield from re.findall(r"""["']([~/][^"']*)["']""", arguments)


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
        if depot.is_absolute() and not Surroundings(environment).relative(str(depot)):
            yield depot


def _activation_scripts(environment: PinnedDirectory) -> Iterator[tuple[str, str]]:
    """Yield the paths and texts of the scripts that activate the environment, without comments.

    Its own path and that of the home directory are filled in.
    """
    prefix = str(environment.path)
    for name in _names(environment, _ACTIVATE):
        with suppress(OSError):
            text = _PREFIX.sub(lambda _: prefix, _read_script(environment, f"{_ACTIVATE}/{name}"))
            yield f"{_ACTIVATE}/{name}", _OPTIONAL.sub("", text)


def _startup_modules(environment: PinnedDirectory) -> Iterator[tuple[str, str]]:
    """Yield the paths and texts of modules that Python imports when it starts: they may extend its search path.

    Those of editable installs do not count.
    """
    for python in filter(_PYTHON.fullmatch, _names(environment, "lib")):
        site = f"lib/{python}/site-packages"
        names = _names(environment, site)
        imported = {"sitecustomize", "usercustomize"}
        for name in names:
            if name.endswith(".pth"):
                with suppress(OSError):
                    imported |= {*_IMPORTED.findall(_read_script(environment, f"{site}/{name}"))}
        for module in sorted(imported):
            if f"{module}.py" in names and "editable" not in module:
                with suppress(OSError):
                    yield f"{site}/{module}.py", _read_script(environment, f"{site}/{module}.py")


def _read_script(environment: PinnedDirectory, path: str) -> str:
    """Return the text of a script without comments, with the path of the home directory. May raise OSError."""
    home = str(home_directory())
    return _HOME.sub(
        lambda _: home, _COMMENT.sub("", read_beneath(environment, path).decode("utf-8", "replace"))
    )


def _set_by(script: str) -> dict[str, str]:
    """Return the variables that a script sets, with all values of one as a list of paths."""
    values: dict[str, str] = {}
    for name, other, value in _ASSIGNMENT.findall(script):
        variable = name or other
        values[variable] = ":".join(filter(None, (values.get(variable), value.strip("\"'"))))
    return values


def _names(directory: Top, path: str = "") -> list[str]:
    """Return the sorted names in a directory; none if it cannot be read."""
    try:
        return list_beneath(directory, path, _MOST_NAMES)
    except OSError:
        return []
