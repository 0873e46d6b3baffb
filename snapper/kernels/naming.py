"""Name registered kernels by the user's templates (settings `kernel_name` and `kernel_display_name`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from snapper.format.model import Kernel
from snapper.kernels.jupyter import user_kernels_directory
from snapper.kernels.kernelspecs import MOST_KERNELS
from snapper.kernels.registered import is_available
from snapper.settings.resolution import load_settings

#: How many numbers are tried to make a name unique.
_MOST_NUMBERS = 2 * MOST_KERNELS


@dataclass(frozen=True)
class NamedKernel:
    """A kernel of an environment, its name in Jupyter's menu, and the directory of its registered kernelspec."""

    kernel: Kernel
    display_name: str
    directory: Path

    @property
    def name(self) -> str:
        return self.directory.name


def name_kernels(environment: str, kernels: Sequence[Kernel]) -> list[NamedKernel]:
    """Return the kernels of one environment with unique names that Jupyter accepts.

    A name that other kernelspecs of the user have is not used, unless no number makes it unique.
    """
    settings = load_settings()
    parent = user_kernels_directory()
    display_names = _display_names(settings.kernel_display_name, environment, kernels)
    taken: set[str] = set()
    named = []
    for kernel, display_name in zip(kernels, display_names, strict=True):
        template_name = _fill(settings.kernel_name, environment, kernel.language.lower(), kernel.name)
        stem = re.sub(r"[^a-z0-9._-]+", "-", template_name.lower())
        names = (stem, *(f"{stem}-{count}" for count in range(2, _MOST_NUMBERS)))
        free = (name for name in names if name not in taken)
        name = next((name for name in free if is_available(parent / name, environment, kernel.name)), stem)
        taken.add(name)
        named.append(NamedKernel(kernel, display_name, parent / name))
    return named


def _display_names(template: str, environment: str, kernels: Sequence[Kernel]) -> list[str]:
    """Return names such as `Python (myenv)`.

    Where several kernels would have the same, their own display names replace the language, and if these are the same
    too, their names are appended.
    """
    by_language = [
        _fill(template, environment, _capitalize(kernel.language) or kernel.display_name, kernel.display_name)
        for kernel in kernels
    ]
    by_display_name = [
        name
        if by_language.count(name) == 1
        else _fill(template, environment, kernel.display_name, kernel.display_name)
        for name, kernel in zip(by_language, kernels, strict=True)
    ]
    return [
        name if by_display_name.count(name) == 1 else f"{name} {kernel.name}"
        for name, kernel in zip(by_display_name, kernels, strict=True)
    ]


def _fill(template: str, environment: str, language: str, kernel: str) -> str:
    """Replace `{env}`, `{language}` and `{kernel}` in the template."""
    values = {"env": environment, "language": language, "kernel": kernel}
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), template)


def _capitalize(language: str) -> str:
    """Return the language with an upper-case first letter; the rest stays as it is, unlike with `str.capitalize`."""
    return language[:1].upper() + language[1:]
