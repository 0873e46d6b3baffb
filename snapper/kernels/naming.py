"""Name registered kernels by the user's templates (settings `kernel_name` and `kernel_display_name`).

Languages and display names come from a store. They may be long or contain characters that hide the rest of the name.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from snapper.format.model import Kernel
from snapper.fs.own_directory import list_directory
from snapper.kernels.claims import claim_name
from snapper.kernels.jupyter import kernel_names_elsewhere, user_kernels_directory
from snapper.kernels.kernelspecs import KERNEL_JSON, MOST_KERNELS
from snapper.kernels.registered import is_available
from snapper.settings.resolution import load_settings

#: The kernel that Jupyter itself comes with.
_NATIVE = "python3"

_LONGEST_STEM = 200
_LONGEST_TEXT = 40

#: How many numbers are tried to make a name unique.
_MOST_NUMBERS = 2 * MOST_KERNELS


@dataclass(frozen=True)
class NamedKernel:
    """A kernel of an environment, its name in Jupyter's menu, and the directory of its registered kernelspec.

    `instead_of` is the name that the template gives, if that is taken.
    """

    kernel: Kernel
    display_name: str
    directory: Path
    instead_of: str = ""

    @property
    def name(self) -> str:
        return self.directory.name


def name_kernels(
    environment: str, kernels: Sequence[Kernel], others: Collection[str] = ()
) -> list[NamedKernel]:
    """Return the kernels of one environment with unique names that Jupyter accepts.

    A name that another kernel has is not used, wherever Jupyter finds it, nor one that belongs to another environment
    or would fit better for one of the `others`, whose kernels may be named later.
    """
    settings = load_settings()
    display_names = _display_names(settings.kernel_display_name, environment, kernels)
    names = _Names(environment)
    named = []
    for kernel, display_name in zip(kernels, display_names, strict=True):
        text = _fill(settings.kernel_name, environment, kernel.language.lower(), kernel.name)
        stem = _normalize(text)[:_LONGEST_STEM]
        fits_better = (
            _is_of(other, settings.kernel_name, stem) and _precedence(other) > _precedence(environment)
            for other in others
        )
        name = names.choose(stem, kernel.name, may_be_new=not any(fits_better))
        directory = names.directory / name
        named.append(NamedKernel(kernel, display_name, directory, "" if name == stem else stem))
    return named


class _Names:
    """Chooses names for the kernels of one environment. Jupyter does not distinguish upper and lower case."""

    def __init__(self, environment: str) -> None:
        self.directory = user_kernels_directory()
        self._environment = environment
        self._foreign = {_NATIVE, *kernel_names_elsewhere(self.directory)}
        self._own: dict[str, list[str]] = {}
        for name in list_directory(self.directory):
            self._own.setdefault(name.lower(), []).append(name)
        self._chosen: set[str] = set()
        self._numbers: Counter[str] = Counter()

    def choose(self, stem: str, kernel: str, *, may_be_new: bool) -> str:
        """Return the stem, or the stem with a number if that is taken; the name belongs to the kernel from now on.

        The kernel gets the stem itself only if it `may_be_new` or already belongs to the kernel.
        If no number is free, because the user's directory cannot be used, registering the kernel says why.
        """
        name = stem
        for _ in range(_MOST_NUMBERS):
            self._numbers[stem] += 1
            name = stem if self._numbers[stem] == 1 else f"{stem}-{self._numbers[stem]}"
            is_allowed = may_be_new or name != stem
            if name not in self._chosen and self._is_free(name, kernel, may_be_new=is_allowed):
                self._chosen.add(name)
                return name
        return name if stem in self._foreign else stem

    def _is_free(self, name: str, kernel: str, *, may_be_new: bool) -> bool:
        """Return whether this kernel has the name, or can have it: then it belongs to this kernel."""
        others = (self.directory / other for other in self._own.get(name, ()) if other != name)
        if name in self._foreign or any(os.path.lexists(other / KERNEL_JSON) for other in others):
            return False
        if not is_available(self.directory / name, self._environment, kernel):
            return False
        is_registered = os.path.lexists(self.directory / name / KERNEL_JSON)
        return claim_name(name, self._environment, kernel, may_be_new=may_be_new or is_registered)


def _is_of(environment: str, template: str, name: str) -> bool:
    """Return whether the template could give this name to a kernel of the environment."""
    normalized = _normalize(environment)
    if normalized not in name:
        return False
    parts = re.split(r"\{(\w+)\}", template)  # text and fields alternate
    texts = [re.escape(_normalize(part)) for part in parts]
    fields = [re.escape(normalized) if part == "env" else ".*" for part in parts]
    pattern = (fields[number] if number % 2 else texts[number] for number in range(len(parts)))
    return re.fullmatch("".join(pattern), name) is not None


def _precedence(environment: str) -> tuple[int, bool, str]:
    """Return a key that is higher for an environment that a name fits better.

    That is the longer one of `team` and `team-gpu`, and `team-gpu` rather than `Team+gpu`.
    """
    normalized = _normalize(environment)
    return len(normalized), normalized == environment, environment


def _normalize(text: str) -> str:
    """Return the text with what Jupyter accepts in names of kernels."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower())


def _display_names(template: str, environment: str, kernels: Sequence[Kernel]) -> list[str]:
    """Return names such as `Python (myenv)`.

    Where several kernels would have the same, their own display names replace the language, and if these are the same
    too, their names are appended.
    """
    own = [_clean(kernel.display_name) for kernel in kernels]
    by_language = [
        _fill(template, environment, _capitalize(_clean(kernel.language)) or display_name, display_name)
        for kernel, display_name in zip(kernels, own, strict=True)
    ]
    counts = Counter(by_language)
    by_display_name = [
        name if counts[name] == 1 else _fill(template, environment, display_name, display_name)
        for name, display_name in zip(by_language, own, strict=True)
    ]
    counts = Counter(by_display_name)
    return [
        name if counts[name] == 1 else f"{name} {_clean(kernel.name)}"
        for name, kernel in zip(by_display_name, kernels, strict=True)
    ]


def _fill(template: str, environment: str, language: str, kernel: str) -> str:
    """Replace `{env}`, `{language}` and `{kernel}` in the template."""
    values = {"env": environment, "language": language, "kernel": kernel}
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), template)


def _clean(text: str) -> str:
    """Return the beginning of the text, in one line and without characters that cannot be seen."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(printable.split())[:_LONGEST_TEXT].rstrip()


def _capitalize(language: str) -> str:
    """Return the language with an upper-case first letter; the rest stays as it is, unlike with `str.capitalize`."""
    return language[:1].upper() + language[1:]
