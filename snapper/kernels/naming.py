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
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain
from pathlib import Path

from snapper.environment.locations import installed_environments
from snapper.environment.own_locations import own_kernel_names
from snapper.format.model import Kernel, sha256_hex
from snapper.fs.own_directory import list_directory
from snapper.fs.small_files import list_beneath
from snapper.kernels.jupyter import kernel_names_elsewhere, user_kernels_directory
from snapper.kernels.kernelspecs import CARRIED, KERNEL_JSON, MOST_KERNELS
from snapper.kernels.registered import RegisteredKernel, is_available, registered_kernels
from snapper.process.characters import is_visible
from snapper.settings.resolution import load_settings

#: The kernel that Jupyter itself comes with.
NATIVE = "python3"

#: How the names begin that the extension nb_conda_kernels gives to the kernels of environments.
_RESERVED = ("conda-env-", "conda-base-", "conda-root-")

_LONGEST_STEM = 200
_LONGEST_TEXT = 40

_DIGEST_LENGTH = 16
_ENDS_IN_DIGEST = re.compile(r".*-[0-9a-f]{16}\Z")
_HAS_DIGEST = re.compile(r".*-[0-9a-f]{16}(-[0-9]+)?\Z")

#: What may follow a template's name in the name of a registered kernel; earlier versions only used numbers.
_SUFFIX = re.compile(r"(-[0-9a-f]{16})?(-[0-9]+)?")

#: How many numbers are tried to make a name unique.
_MOST_NUMBERS = 2 * MOST_KERNELS


@dataclass(frozen=True)
class NamedKernel:
    """A kernel of an environment, its name in Jupyter's menu, and the directory of its registered kernelspec.

    `instead_of` is the name that it should have, if that is taken. It `claims` a name that is not of the template.
    """

    kernel: Kernel
    display_name: str
    directory: Path
    instead_of: str = ""
    claims: bool = False

    @property
    def name(self) -> str:
        return self.directory.name


class KernelNames:
    """The names of kernels that Jupyter has, and what the user's settings say about new ones, read when this is made.

    Jupyter does not distinguish upper and lower case. Raise what `load_settings` raises.
    """

    def __init__(self) -> None:
        self._settings = load_settings()
        self._directory = user_kernels_directory()
        self._foreign = frozenset({NATIVE, *kernel_names_elsewhere(self._directory)})
        self._own: dict[str, list[str]] = {}
        for name in list_directory(self._directory):
            self._own.setdefault(name.lower(), []).append(name)
        self._registered = {kernel.name: kernel for kernel in registered_kernels()}
        self._carried_names = cache(_carried_names)

    def registered(self, environment: str) -> list[RegisteredKernel]:
        """Return the kernels of the environment that snapper has registered."""
        return [kernel for kernel in self._registered.values() if kernel.environment == environment]

    def choose(
        self,
        environment: str,
        kernels: Sequence[Kernel],
        carried: Collection[int] = (),
        prefix: Path | None = None,
    ) -> list[NamedKernel]:
        """Return the kernels of one environment with names that no other kernel has or can get.

        A registered kernel keeps its name. Other kernels are looked for wherever Jupyter finds them. Kernels at the
        positions in `carried`, of an environment at `prefix`, keep their own names, unless these could be those of
        other environments' kernels.
        """
        template = self._settings.kernel_name
        display_names = _display_names(self._settings.kernel_display_name, environment, kernels)
        chosen: set[str] = set()
        named = []
        for position, (kernel, display_name) in enumerate(zip(kernels, display_names, strict=True)):
            own = kernel.name.lower()
            is_kept = position in carried and self._may_keep(own, environment, kernel.name, prefix)
            if is_kept and own not in chosen:
                chosen.add(own)
                named.append(NamedKernel(kernel, display_name, self._directory / own, claims=True))
                continue
            text = _fill(template, environment, kernel.language.lower(), kernel.name)
            stem = _normalize(text)[:_LONGEST_STEM]
            is_plain = len(text) <= _LONGEST_STEM and _is_unambiguous(template, environment, kernel)
            name, instead_of = self._choose(stem, environment, kernel.name, chosen, is_plain=is_plain)
            chosen.add(name)
            instead_of = own if position in carried else instead_of
            named.append(NamedKernel(kernel, display_name, self._directory / name, instead_of))
        return named

    def _may_keep(self, name: str, environment: str, kernel: str, prefix: Path | None) -> bool:
        """Return whether a kernel that the environment carries may be registered by its own name, in lower case.

        A publisher can choose any name. So it must not be one that the template could give to another environment,
        unless this user has packed a kernelspec of that name with this one, nor that of another environment, nor one
        that another environment carries. One that is registered keeps its name.
        """
        known = self._registered.get(name)
        if known and (known.environment, known.kernel, known.claims) == (environment, kernel, True):
            return not any(self._is_named_like(name, other) for other in self._others(environment, prefix))
        return (
            _normalize(name)[:_LONGEST_STEM] == name
            and not name.startswith((*_RESERVED, ".", "-"))
            and not _HAS_DIGEST.match(name)
            and self._is_free(name, environment, kernel)
            and (
                name in own_kernel_names(environment)
                or self._is_only_for(name, environment)
                or not self._is_of_template(name)
            )
            and not any(self._is_named_like(name, other) for other in self._others(environment, prefix))
            and not self._is_carried(name, environment)
        )

    def _is_carried(self, name: str, environment: str) -> bool:
        """Return whether another environment whose kernels are registered carries a kernel of this name."""
        kernels = self._registered.values()
        own = {kernel.prefix for kernel in kernels if kernel.environment == environment}
        others = {kernel.prefix for kernel in kernels} - own
        return any(name in self._carried_names(prefix) for prefix in others)

    def _is_of_template(self, name: str) -> bool:
        """Return whether the template could give the name to a kernel of any environment."""
        return re.fullmatch("[a-z0-9._-]+".join(self._literals()) + _SUFFIX.pattern, name) is not None

    def _is_only_for(self, name: str, environment: str) -> bool:
        """Return whether the template could give the name to a kernel of this environment, and of no other one."""
        return (
            _is_unambiguous(self._settings.kernel_name, environment, Kernel("x", "x", "x"))
            and re.fullmatch("[a-z0-9_]+".join(self._literals(environment)), name) is not None
        )

    def _is_named_like(self, name: str, other: str) -> bool:
        """Return whether the name is that of another environment, or one that its kernels could get."""
        pattern = "[a-z0-9._-]*".join(self._literals(other)) + _SUFFIX.pattern
        return name == _normalize(other) or re.fullmatch(pattern, name) is not None

    def _literals(self, environment: str = "\0") -> list[str]:
        """Return patterns for what the template has around its fields, in names of kernels.

        If an environment is given, its field is replaced.
        """
        text = _fill(self._settings.kernel_name, environment, "\0", "\0")
        return [re.escape(_normalize(literal)) for literal in text.split("\0")]

    def _others(self, environment: str, prefix: Path | None) -> set[str]:
        """Return the names of environments on this machine other than the one at `prefix`."""
        known = {kernel.environment for kernel in self._registered.values()}
        installed = {other.name for other in self._installed if other != prefix}
        return (known - {environment}) | installed

    @cached_property
    def _installed(self) -> list[Path]:
        return installed_environments()

    def add(self, name: str) -> None:
        """Note that a kernel may have been registered by this name."""
        names = self._own.setdefault(name, [])
        if name not in names:
            names.append(name)

    def _choose(
        self, stem: str, environment: str, kernel: str, chosen: Collection[str], *, is_plain: bool
    ) -> tuple[str, str]:
        """Return the name that the kernel has, or else the stem if the name `is_plain`, or else one with a digest.

        The second value is the name that it should have, if that is taken. If none is free, because the user's
        directory cannot be used, registering the kernel says why.
        """
        identity = f"{environment}/{kernel}".encode("utf-8", "surrogatepass")
        with_digest = f"{stem}-{sha256_hex(identity)[:_DIGEST_LENGTH]}"
        wanted = stem if is_plain else with_digest
        numbered = (f"{with_digest}-{number}" for number in range(2, _MOST_NUMBERS))
        new = (
            name
            for name in chain((wanted, with_digest), numbered)
            if self._is_free(name, environment, kernel)
        )
        for name in chain(self._kept(stem, environment, kernel), new):
            if name not in chosen:
                is_wanted = name == wanted or (
                    wanted not in chosen and self._is_free(wanted, environment, kernel)
                )
                return name, "" if is_wanted else wanted
        return with_digest, ""

    def _kept(self, stem: str, environment: str, kernel: str) -> Iterator[str]:
        """Yield the names under which the kernel is registered, as far as the template still gives them.

        It keeps them when other kernels of these names appear elsewhere, which the user's own directory precedes.
        """
        for known in self.registered(environment):
            is_this = known.kernel == kernel and known.name != NATIVE
            if (
                is_this
                and known.name.startswith(stem)
                and _SUFFIX.fullmatch(known.name, len(stem))
                and self._is_unused(known.name, environment, kernel)
            ):
                yield known.name

    def _is_free(self, name: str, environment: str, kernel: str) -> bool:
        """Return whether the kernel can be registered by the name, which is in lower case."""
        return name not in self._foreign and self._is_unused(name, environment, kernel)

    def _is_unused(self, name: str, environment: str, kernel: str) -> bool:
        """Return whether nothing else has the name in the user's own directory."""
        return all(
            self._is_available(own, environment, kernel)
            if own == name
            else not os.path.lexists(self._directory / own / KERNEL_JSON)
            for own in self._own.get(name, ())
        )

    def _is_available(self, name: str, environment: str, kernel: str) -> bool:
        known = self._registered.get(name)
        if known is None:
            return is_available(self._directory / name, environment, kernel)
        return (known.environment, known.kernel) == (environment, kernel)


def _carried_names(prefix: str) -> frozenset[str]:
    """Return the names, in lower case, of the kernels that an environment carries."""
    try:
        return frozenset(map(str.lower, list_beneath(prefix, CARRIED, MOST_KERNELS)))
    except OSError:
        return frozenset()


def _is_unambiguous(template: str, environment: str, kernel: Kernel) -> bool:
    """Return whether the template gives the kernel a name that no kernel of another environment can get.

    Nothing in it was replaced, and its fields can be told apart: none is empty, and between two of them, the template
    has a separator that neither the language nor the kernel contains.
    """
    fields = {"language": kernel.language.lower(), "kernel": kernel.name}
    used = [value for field, value in fields.items() if f"{{{field}}}" in template]
    values = "".join(used)
    separators = [set(text) & set("-.") for text in re.split(r"\{\w+\}", template)[1:-1]]
    name = _fill(template, environment, kernel.language.lower(), kernel.name)
    return (
        _normalize(environment + values) == environment + values
        and all(used)
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
    visible = "".join(character if is_visible(character) else " " for character in text)
    return " ".join(visible.split())[:_LONGEST_TEXT].rstrip()


def _capitalize(language: str) -> str:
    """Return the language with an upper-case first letter; the rest stays as it is, unlike with `str.capitalize`."""
    return language[:1].upper() + language[1:]
