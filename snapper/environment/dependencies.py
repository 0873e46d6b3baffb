"""Find what an environment uses that is outside of it: it is not packed, so it may be missing after a restore.

These are packages in the user's own directories, and whatever variables of the environment, the scripts that activate
it, and the commands of its kernels name.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from snapper.environment.dependency import Dependency, DependencyKind, KernelCommand, OutsideLibrary
from snapper.environment.outside_links import FollowedLinks
from snapper.environment.outside_paths import Surroundings
from snapper.environment.user_packages import OF_LANGUAGES, find_user_packages, pythons
from snapper.settings.directories import home_directory

#: Variables that list directories with code: what is there counts, even if all machines have the directory.
_SEARCH_PATHS = (
    *("PYTHONPATH", "PIP_TARGET", "R_LIBS", "R_LIBS_SITE", "JULIA_LOAD_PATH", "JULIA_PROJECT"),
    *("LD_LIBRARY_PATH", "PERL5LIB", "NODE_PATH", "CLASSPATH"),
)

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

#: What cannot be searched if the user's own packages are too many.
_PACKAGES = "packages of Python, R, and Julia"


def find_dependencies(
    around: Surroundings, variables: Mapping[str, str], kernels: Iterable[KernelCommand] = ()
) -> tuple[Dependency, ...]:
    """Return what an environment that sets these variables, and has these kernels, uses of what is `around` it.

    What cannot be read does not count: neither could it be used. If it is too much to look at, the last one says so.
    """
    of_user = find_user_packages(around, variables)
    packages = [Dependency(each.language, each.path, each.names) for each in of_user]
    named: dict[str, tuple[DependencyKind, dict[str, None]]] = {}
    last = _PACKAGES
    for kind, last, paths in _uses(around, variables, [*kernels]):
        for path in paths:
            first, names = named.setdefault(path, (kind, {}))  # what variables name counts as theirs
            if first == kind:
                names[last] = None
        if around.lookup.is_exhausted:
            break
    found = [*packages, *(Dependency(kind, path, tuple(names)) for path, (kind, names) in named.items())]
    if around.lookup.is_exhausted:
        found.append(_unsearched(around, [last]))
    return tuple(dependency for dependency in found if dependency.names)


def _uses(
    around: Surroundings, variables: Mapping[str, str], kernels: Sequence[KernelCommand]
) -> Iterator[tuple[DependencyKind, str, Iterable[str]]]:
    """Yield what names paths outside of the environment, how, and these paths."""
    scripts = [*_activation_scripts(around)]
    rest = {name: value for name, value in variables.items() if name not in OF_LANGUAGES}
    for settings in (
        rest,
        *(kernel.variables for kernel in kernels),
        *(_set_by(text) for _, text in scripts),
    ):
        for variable, value in settings.items():
            yield "variable", variable, around.paths_in(value, anywhere=variable in _SEARCH_PATHS)
    for name, text in (*scripts, *_startup_modules(around)):
        yield "script", name, around.paths_in(text)
    for kernel in kernels:
        program = kernel.command[0] if kernel.command else ""
        if around.has(program):  # it can be missing, if it is in an environment of another machine
            yield "command", kernel.kernel, [program]
        for word in kernel.command:
            yield "command", kernel.kernel, around.paths_in(word)


def needed_libraries(around: Surroundings, libraries: Iterable[OutsideLibrary]) -> tuple[Dependency, ...]:
    """Return what programs and libraries of the environment need of what is `around` it."""
    return tuple(
        Dependency("library", each.library, each.files) if each.library else _unsearched(around, each.files)
        for each in libraries
    )


def _unsearched(around: Surroundings, names: Iterable[str]) -> Dependency:
    return Dependency("unsearched", str(around.environment.path), tuple(names))


def unproved_links(links: FollowedLinks) -> tuple[Dependency, ...]:
    """Return the links in place of files of packages that lead to something else than the package's file."""
    by_directory: dict[str, list[str]] = defaultdict(list)
    for file in links.unproved:
        by_directory[os.path.dirname(file.target)].append(file.path)
    return tuple(Dependency("cache", path, tuple(names)) for path, names in sorted(by_directory.items()))


def _activation_scripts(around: Surroundings) -> Iterator[tuple[str, str]]:
    """Yield the paths and texts of the scripts that activate the environment, without comments.

    Its own path and that of the home directory are filled in.
    """
    prefix = str(around.environment.path)
    for name in around.lookup.names(around.environment, _ACTIVATE):
        text = _PREFIX.sub(lambda _: prefix, _read_script(around, f"{_ACTIVATE}/{name}"))
        yield f"{_ACTIVATE}/{name}", _OPTIONAL.sub("", text)


def _startup_modules(around: Surroundings) -> Iterator[tuple[str, str]]:
    """Yield the paths and texts of modules that Python imports when it starts: they may extend its search path.

    Those of editable installs do not count.
    """
    for python in pythons(around):
        site = f"lib/{python}/site-packages"
        names = around.lookup.names(around.environment, site)
        modules = {name.removesuffix(".py") for name in names if name.endswith(".py")}
        imported = {"sitecustomize", "usercustomize"}
        for name in names:
            if name.endswith(".pth"):
                imported |= {*_IMPORTED.findall(_read_script(around, f"{site}/{name}"))}
        for module in sorted(imported & modules):
            if "editable" not in module:
                yield f"{site}/{module}.py", _read_script(around, f"{site}/{module}.py")


def _read_script(around: Surroundings, path: str) -> str:
    """Return the text of a script without comments, with the path of the home directory; "" if it cannot be read."""
    home = str(home_directory())
    return _HOME.sub(lambda _: home, _COMMENT.sub("", around.lookup.read(around.environment, path)))


def _set_by(script: str) -> dict[str, str]:
    """Return the variables that a script sets, with all values of one as a list of paths."""
    values: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for name, other, value in _ASSIGNMENT.findall(script):
        values[name or other][value.strip("\"'")] = None
    return {variable: ":".join(filter(None, of_variable)) for variable, of_variable in values.items()}
