"""What an environment uses that is outside of it: the types, and how each kind is described."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

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
    "edited",
    "private",
    "secret",
    "environment",
    "unsearched",
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
    "edited": "the kernelspec {path}, because these files of its copy in the environment have been edited",
    "private": "the kernelspec {path}, because these files contain credentials, or only you may read them",
    "secret": "variables of the kernelspec {path} that look like credentials",
    "environment": "the environment {path}, which these files name",
    "unsearched": "perhaps more: not all that {path} needs was looked up, because these need too much",
}

_INSTALL = "Install them into the environment."
_ADVICE: Mapping[DependencyKind, str] = {
    "python": "Install them into the environment, or pack them with --user-site=include. If only a variable of the "
    "environment names the directory, set PYTHONUSERBASE for that, too. If it is not to use them, set "
    "PYTHONNOUSERSITE=1 in it with: conda env config vars set.",
    "r": _INSTALL,
    "julia": _INSTALL,
    "variable": "Have the variable name something in the environment, or that all machines have.",
    "script": "Use only what is in the environment, or on all machines.",
    "command": "Use only what is in the environment, or on all machines.",
    "library": "Install it into the environment, or on all machines.",
    "kernel": "Pack the environment as its owner, with the kernelspec in your own Jupyter directory, and with the "
    "scripts that it runs beside it.",
    "edited": "Change the kernelspec as its copy, or remove the copy, so that the kernelspec is packed.",
    "private": "Remove the credentials, or let others read the files (chmod a+r), so that the kernelspec is packed.",
    "secret": "Set them where you start Jupyter, or have your program read them from a file.",
    "cache": "Reinstall these packages, so that their files are in the environment.",
    "environment": "This environment was copied from there, or was there earlier. Files that have been written since "
    "keep the path. If they are to use this environment, write its own path into them.",
    "unsearched": "Remove files of unknown origin that name many paths, then pack again.",
}


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
class OutsideLibrary:
    """A library or interpreter outside of an environment, by its name or path, and the files that need it.

    The name is empty for a file that the search did not get beyond, because these files need too many.
    """

    library: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class OtherEnvironment:
    """An environment at a former prefix of another one, and the files there that mean it by that path."""

    prefix: str
    files: tuple[str, ...]
