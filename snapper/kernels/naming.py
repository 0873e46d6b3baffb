"""Name registered kernels by the user's templates (settings `kernel_name` and `kernel_display_name`).

Notebooks refer to kernels by name, so no environment of a store may get the name of another one's kernel, in whatever
order they are restored. A name that the template could also give to another kernel ends in a digest.

Languages and display names come from a store, too. They may be long or contain characters that hide the rest of the
name.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from snapper.format.model import Kernel, sha256_hex
from snapper.fs.own_directory import list_directory
from snapper.kernels.jupyter import kernel_names_elsewhere, user_kernels_directory
from snapper.kernels.kernelspecs import KERNEL_JSON, MOST_KERNELS
from snapper.kernels.registered import is_available
from snapper.settings.resolution import load_settings

#: The kernel that Jupyter itself comes with.
_NATIVE = "python3"

_LONGEST_STEM = 200
_LONGEST_TEXT = 40

_DIGEST_LENGTH = 16
_ENDS_IN_DIGEST = re.compile(r".*-[0-9a-f]{16}\Z")

#: What may follow a template's name in the name of a registered kernel; earlier versions only used numbers.
_SUFFIX = r"(-[0-9a-f]{16})?(-[0-9]+)?"

#: How many numbers are tried to make a name unique.
_MOST_NUMBERS = 2 * MOST_KERNELS


@dataclass(frozen=True)
class NamedKernel:
    """A kernel of an environment, its name in Jupyter's menu, and the directory of its registered kernelspec.

    `instead_of` is the name that it should have, if that is taken.
    """

    kernel: Kernel
    display_name: str
    directory: Path
    instead_of: str = ""

    @property
    def name(self) -> str:
        return self.directory.name


def name_kernels(environment: str, kernels: Sequence[Kernel]) -> list[NamedKernel]:
    """Return the kernels of one environment with names that Jupyter accepts and that no other kernel has or can get.

    A registered kernel keeps its name. Other kernels are looked for wherever Jupyter finds them.
    """
    settings = load_settings()
    display_names = _display_names(settings.kernel_display_name, environment, kernels)
    names = _Names(environment)
    named = []
    for kernel, display_name in zip(kernels, display_names, strict=True):
        text = _fill(settings.kernel_name, environment, kernel.language.lower(), kernel.name)
        stem = _normalize(text)[:_LONGEST_STEM]
        is_plain = len(text) <= _LONGEST_STEM and _is_unambiguous(settings.kernel_name, environment, kernel)
        name = names.choose(stem, kernel.name, is_plain=is_plain)
        named.append(NamedKernel(kernel, display_name, names.directory / name.chosen, name.instead_of))
    return named


@dataclass(frozen=True)
class _Name:
    chosen: str
    instead_of: str = ""


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

    def choose(self, stem: str, kernel: str, *, is_plain: bool) -> _Name:
        """Return the name that the kernel has, or else the stem if the name `is_plain`, or else one with a digest.

        If none is free, because the user's directory cannot be used, registering the kernel says why.
        """
        identity = f"{self._environment}/{kernel}".encode("utf-8", "surrogatepass")
        digest = sha256_hex(identity)[:_DIGEST_LENGTH]
        with_digest = f"{stem}-{digest}"
        wanted = stem if is_plain else with_digest
        numbered = (f"{with_digest}-{number}" for number in range(2, _MOST_NUMBERS))
        for name in (*self._registered(stem, kernel), wanted, with_digest, *numbered):
            if self._is_free(name, kernel):
                instead_of = "" if self._is_free(wanted, kernel) else wanted
                self._chosen.add(name)
                return _Name(name, instead_of)
        return _Name(with_digest)

    def _registered(self, stem: str, kernel: str) -> Iterator[str]:
        """Yield the names under which the kernel is registered, as far as the template still gives them."""
        pattern = re.compile(re.escape(stem) + _SUFFIX)
        for name in sorted(self._own):
            is_registered = pattern.fullmatch(name) and os.path.lexists(self.directory / name / KERNEL_JSON)
            if is_registered and is_available(self.directory / name, self._environment, kernel):
                yield name

    def _is_free(self, name: str, kernel: str) -> bool:
        others = (self.directory / other for other in self._own.get(name, ()) if other != name)
        return (
            name not in self._foreign
            and name not in self._chosen
            and not any(os.path.lexists(other / KERNEL_JSON) for other in others)
            and is_available(self.directory / name, self._environment, kernel)
        )


def _is_unambiguous(template: str, environment: str, kernel: Kernel) -> bool:
    """Return whether the template gives the kernel a name that no kernel of another environment can get.

    Nothing in it was replaced, and its fields can be told apart: between two of them, the template has a separator that
    neither the language nor the kernel contains.
    """
    fields = {"language": kernel.language.lower(), "kernel": kernel.name}
    values = "".join(value for field, value in fields.items() if f"{{{field}}}" in template)
    separators = [set(text) & set("-.") for text in re.split(r"\{\w+\}", template)[1:-1]]
    name = _fill(template, environment, kernel.language.lower(), kernel.name)
    return (
        _normalize(environment + values) == environment + values
        and all(separators)
        and not set().union(*separators) & set(values)
        and not _ENDS_IN_DIGEST.match(_normalize(name))
    )


def _normalize(text: str) -> str:
    """Return the text with only what Jupyter accepts in names of kernels."""
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
