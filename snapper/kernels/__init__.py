"""Jupyter kernels: which an environment carries, and how they come to stand in the user's menu.

A registered kernel is a kernelspec in Jupyter's data directory whose argv runs the launcher beside it
(`snapper.kernels.launcher`). It can be there before its environment is, and waits for that then.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snapper.environment.locations import condabin
from snapper.format.model import Kernel
from snapper.fs.atomic import atomic_write
from snapper.kernels import launcher, runs
from snapper.settings.resolution import load_settings

_CARRIED = "share/jupyter/kernels"
_SPEC = "kernel.json"

#: What files of an environment can cause, whoever made them: JSON too deep, text that is none in UTF-8, odd types.
_ODD = (OSError, ValueError, KeyError, TypeError, RecursionError)

_ASSETS = ("logo-32x32.png", "logo-64x64.png", "logo-svg.svg", "kernel.js", "kernel.css")


@dataclass(frozen=True)
class RegisteredKernel:
    """A kernel in the user's menu. `problem` says why it could not be put there, if so."""

    name: str
    display_name: str
    path: str
    problem: str = ""


@dataclass(frozen=True)
class KernelEntry:
    """A kernel that snapper has put into the menu; `ready` unless its environment is not there (yet)."""

    name: str
    display_name: str
    language: str
    environment: str
    kernel: str
    prefix: str
    path: str
    ready: bool


@dataclass(frozen=True)
class _Spec:
    """A kernelspec as the environment carries it."""

    kernel: Kernel
    directory: Path
    fields: dict[str, Any]


@dataclass(frozen=True)
class _Naming:
    """What a kernel is called in the menu, and where it stands."""

    kernel: Kernel
    display_name: str
    directory: Path

    def registered(self, problem: str = "") -> RegisteredKernel:
        return RegisteredKernel(self.directory.name, self.display_name, str(self.directory), problem)


def shipped_kernels(prefix: Path) -> tuple[Kernel, ...]:
    """The kernels of the environment at `prefix`, by name."""
    return tuple(spec.kernel for spec in _specs(prefix))


def register_pending(
    prefix: Path, environment: str, kernels: Sequence[Kernel]
) -> tuple[RegisteredKernel, ...]:
    """Puts kernels into the user's Jupyter whose environment is still to come. Those that run already stay, also those
    of the environment where it is elsewhere: they change over to the new one when it is there.
    """
    ready = {each.name for each in registered_kernels() if each.ready and each.prefix != str(prefix)}
    announced = []
    for naming in _named(environment, kernels):
        if naming.directory.name in ready:
            announced.append(naming.registered())
            continue
        fields = {
            "argv": _argv(naming.directory, []),
            "display_name": naming.display_name,
            "language": naming.kernel.language,
        }
        try:
            if not os.path.isdir(prefix / "conda-meta"):
                (naming.directory / launcher.COMMAND).unlink(missing_ok=True)
            _write_launcher(naming.directory, prefix, environment)
            if not (naming.directory / _SPEC).exists():
                _write_spec(naming, fields, prefix, environment)
            announced.append(naming.registered())
        except _ODD as error:
            announced.append(naming.registered(_reason(error)))
    return tuple(announced)


def register(prefix: Path, environment: str) -> tuple[RegisteredKernel, ...]:
    """Puts the environment's kernels into the user's Jupyter; writes only what is not there already, and removes
    those that it no longer has. A kernelspec that is not this environment's is left alone.
    """
    specs = list(_specs(prefix))
    named = _named(environment, [spec.kernel for spec in specs])
    kept = {naming.directory.name for naming in named}
    for each in registered_kernels():
        if each.environment == environment and each.name not in kept:
            with suppress(OSError):
                _remove(each)
    return tuple(
        _register(naming, prefix, environment, spec) for naming, spec in zip(named, specs, strict=True)
    )


def registered_kernels() -> tuple[KernelEntry, ...]:
    """The kernels in the user's menu that snapper has put there, by name."""
    found = []
    for file in sorted(_top().glob(f"*/{_SPEC}")):
        try:
            fields = json.loads(file.read_bytes())
            mark = fields["metadata"]["snapper"]
            entry = KernelEntry(
                name=file.parent.name,
                display_name=str(fields["display_name"]),
                language=str(fields.get("language", "")),
                environment=str(mark["environment"]),
                kernel=str(mark["kernel"]),
                prefix=str(mark["prefix"]),
                path=str(file.parent),
                ready=(file.parent / launcher.COMMAND).exists()
                and os.path.isdir(Path(mark["prefix"], "conda-meta")),
            )
        except _ODD:
            continue
        found.append(entry)
    return tuple(found)


def remove(environment: str) -> tuple[KernelEntry, ...]:
    """Removes the environment's kernels from the menu; gives those that were there. May raise OSError."""
    found = tuple(each for each in registered_kernels() if each.environment == environment)
    for each in found:
        _remove(each)
    with suppress(OSError):
        runs.waiting_file(environment).unlink()
    return found


def remove_orphaned(environments: Iterable[str]) -> tuple[KernelEntry, ...]:
    """Removes the kernels of environments that are neither on this machine nor among those; gives them."""
    known = set(environments)
    gone = []
    for each in registered_kernels():
        if each.environment not in known and not os.path.lexists(each.prefix):
            with suppress(OSError):
                _remove(each)
                gone.append(each)
    return tuple(gone)


def kernel_directories() -> list[str]:
    """Where Jupyter looks for kernelspecs, of those that there are."""
    from jupyter_core.paths import jupyter_path  # noqa: PLC0415

    return [each for each in jupyter_path("kernels") if os.path.isdir(each)]


def install_hint(prefix: Path) -> str:
    """The command that adds a kernel to an environment that has none."""
    packages = {name.rpartition("-")[0].rpartition("-")[0] for name in _records(prefix)}
    package = "r-irkernel" if "r-base" in packages and "python" not in packages else "ipykernel"
    where = f"-n {prefix.name}" if prefix.parent.name == "envs" else f"-p {shlex.quote(str(prefix))}"
    return f"conda install {where} {package}"


# --- names ------------------------------------------------------------------------------------------------


def _named(environment: str, kernels: Sequence[Kernel]) -> list[_Naming]:
    """Names by the user's templates: valid by Jupyter's rules, and no other's."""
    settings = load_settings()
    top = _top()
    taken: set[str] = set()
    named = []
    for kernel, display_name in zip(
        kernels, _display_names(settings.kernel_display_name, environment, kernels), strict=True
    ):
        wish = _filled(settings.kernel_name, environment, kernel.language.lower(), kernel.name)
        stem = re.sub(r"[^a-z0-9._-]+", "-", wish.lower())
        count = 1
        while True:
            name = stem if count == 1 else f"{stem}-{count}"
            if name not in taken and _is_ours(top / name, environment, kernel):
                break
            count += 1
        taken.add(name)
        named.append(_Naming(kernel, display_name, top / name))
    return named


def _display_names(template: str, environment: str, kernels: Sequence[Kernel]) -> list[str]:
    """`Python (myenv)`; the kernel's own display name for the language where that would not tell them apart."""
    first = [
        _filled(
            template, environment, _capitalised(kernel.language) or kernel.display_name, kernel.display_name
        )
        for kernel in kernels
    ]
    second = [
        name
        if first.count(name) == 1
        else _filled(template, environment, kernel.display_name, kernel.display_name)
        for name, kernel in zip(first, kernels, strict=True)
    ]
    return [
        name if second.count(name) == 1 else f"{name} {kernel.name}"
        for name, kernel in zip(second, kernels, strict=True)
    ]


def _filled(template: str, environment: str, language: str, kernel: str) -> str:
    values = {"env": environment, "language": language, "kernel": kernel}
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), template)


def _capitalised(language: str) -> str:
    return language[:1].upper() + language[1:]


def _is_ours(directory: Path, environment: str, kernel: Kernel) -> bool:
    """Whether the kernelspec's place is free, or taken by an earlier registration of this kernel."""
    if not os.path.lexists(directory / _SPEC):
        return True
    try:
        mark = json.loads((directory / _SPEC).read_bytes())["metadata"]["snapper"]
        return bool(mark["environment"] == environment and mark["kernel"] == kernel.name)
    except _ODD:
        return False


# --- kernelspecs ------------------------------------------------------------------------------------------


def _top() -> Path:
    from jupyter_core.paths import jupyter_data_dir  # noqa: PLC0415 - a slow import for what is seldom needed

    return Path(jupyter_data_dir()) / "kernels"


def _specs(prefix: Path) -> Iterator[_Spec]:
    for file in sorted((prefix / _CARRIED).glob(f"*/{_SPEC}")):
        try:
            if not _is_own(prefix, file):
                continue
            fields = json.loads(file.read_bytes())
            argv = fields["argv"]
            if not argv or not isinstance(argv, list) or not all(isinstance(word, str) for word in argv):
                continue
            if not isinstance(fields.get("metadata"), dict):
                fields["metadata"] = {}
            display_name, language = str(fields["display_name"]), str(fields.get("language", ""))
            f"{display_name}{language}".encode()  # what is no text would be nothing in a menu
        except _ODD:
            continue
        yield _Spec(Kernel(file.parent.name, display_name, language), file.parent, fields)


def _records(prefix: Path) -> list[str]:
    try:
        return [name.removesuffix(".json") for name in os.listdir(prefix / "conda-meta")]
    except OSError:
        return []


def _is_own(prefix: Path, file: Path) -> bool:
    """Whether it is a file of the environment, and no link to one of the user's."""
    return file.is_file() and file.resolve().is_relative_to(prefix.resolve())


def _register(naming: _Naming, prefix: Path, environment: str, spec: _Spec) -> RegisteredKernel:
    directory = naming.directory
    try:
        _write_launcher(directory, prefix, environment)
        for asset in _ASSETS:
            if _is_own(prefix, spec.directory / asset):
                _write(directory / asset, (spec.directory / asset).read_bytes())
        argv = _own_argv(prefix, spec)
        _write_spec(naming, {**spec.fields, "argv": _argv(directory, argv)}, prefix, environment)
        own = spec.fields.get("env")
        text = launcher.command(prefix, argv, own if isinstance(own, dict) else {})
        _write(directory / launcher.COMMAND, _bytes(text))
    except _ODD as error:
        return naming.registered(_reason(error))
    return naming.registered()


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _own_argv(prefix: Path, spec: _Spec) -> list[str]:
    """The kernel's command with the environment's own absolute program and resources."""
    argv = [word.replace("{resource_dir}", str(spec.directory)) for word in spec.fields["argv"]]
    program = prefix / "bin" / argv[0]
    if not os.path.isabs(argv[0]) and program.exists():
        argv[0] = str(program)
    return argv


def _argv(directory: Path, own: Sequence[str]) -> list[str]:
    """The launcher's command, with what Jupyter is to put into the kernel's own."""
    return ["/bin/sh", str(directory / launcher.LAUNCH), *(f"{{{name}}}" for name in launcher.fields(own))]


def _write_launcher(directory: Path, prefix: Path, environment: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    used = runs.used_file(environment)
    with suppress(OSError):
        used.parent.mkdir(parents=True, exist_ok=True)
    place = launcher.Place(environment, prefix, condabin(), runs.waiting_file(environment), used)
    _write(directory / launcher.LAUNCH, _bytes(launcher.launch(place)))


def _write_spec(naming: _Naming, fields: dict[str, Any], prefix: Path, environment: str) -> None:
    mark = {"environment": environment, "kernel": naming.kernel.name, "prefix": str(prefix)}
    marked = {
        **fields,
        "display_name": naming.display_name,
        "metadata": {**fields.get("metadata", {}), "snapper": mark},
    }
    _write(naming.directory / _SPEC, json.dumps(marked, indent=1).encode("ascii"))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _remove(entry: KernelEntry) -> None:
    if os.path.islink(entry.path):
        os.unlink(entry.path)
    else:
        shutil.rmtree(entry.path)


def _write(file: Path, data: bytes) -> None:
    """Replaces the file in one step, unless it is so already."""
    try:
        if file.read_bytes() == data:
            return
    except OSError:
        pass
    atomic_write(file, data, durable=False)
