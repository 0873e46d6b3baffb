"""Register kernels of environments with the user's Jupyter, and remove them."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snapper.environment.conda_directories import condabin
from snapper.format.model import Kernel
from snapper.fs.atomic import atomic_write
from snapper.kernels import launcher
from snapper.kernels.kernelspecs import KERNEL_JSON, KERNELSPEC_ERRORS, Kernelspec, find_kernelspecs
from snapper.kernels.naming import NamedKernel, name_kernels
from snapper.kernels.registered import RegisteredKernel, registered_kernels, with_mark
from snapper.kernels.usage import used_file
from snapper.kernels.waiting import remove_notice, waiting_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class KernelRegistration:
    """The outcome of registering a kernel: empty `problem`, or the reason why it failed."""

    name: str
    display_name: str
    path: str
    problem: str = ""


def register(prefix: Path, environment: str) -> tuple[KernelRegistration, ...]:
    """Register the kernels that the environment ships, and remove those that it no longer ships.

    Files that are up to date are not written. Kernelspecs that are not of this environment stay as they are.
    """
    specs = list(find_kernelspecs(prefix))
    named = name_kernels(environment, [spec.kernel for spec in specs])
    current = {kernel.name for kernel in named}
    for registered in registered_kernels():
        if registered.environment == environment and registered.name not in current:
            with suppress(OSError):
                _remove(registered)
    outcomes = tuple(_register(kernel, environment, spec) for kernel, spec in zip(named, specs, strict=True))
    for outcome in outcomes:
        logger.debug("kernel %s of %s: %s", outcome.name, environment, outcome.problem or "registered")
    return outcomes


def register_pending(
    prefix: Path, environment: str, kernels: Sequence[Kernel]
) -> tuple[KernelRegistration, ...]:
    """Register kernels of an environment that is about to be restored at `prefix`; they wait for it when started.

    Kernels that are ready at another prefix stay as they are: `register` switches them once the environment is there.
    """
    ready_elsewhere = {
        registered.name
        for registered in registered_kernels()
        if registered.ready and registered.prefix != str(prefix)
    }
    return tuple(
        _registration(kernel)
        if kernel.name in ready_elsewhere
        else _register_pending(kernel, prefix, environment)
        for kernel in name_kernels(environment, kernels)
    )


def remove(environment: str) -> tuple[RegisteredKernel, ...]:
    """Remove the kernels of the environment from the user's Jupyter and return them; may raise OSError."""
    removed = tuple(kernel for kernel in registered_kernels() if kernel.environment == environment)
    for kernel in removed:
        _remove(kernel)
    remove_notice(environment)
    return removed


def remove_orphaned(environments: Iterable[str]) -> tuple[RegisteredKernel, ...]:
    """Remove the kernels of environments that are not on this machine and not among `environments`; return them."""
    known = set(environments)
    removed = []
    for kernel in registered_kernels():
        if kernel.environment not in known and not os.path.lexists(kernel.prefix):
            with suppress(OSError):
                _remove(kernel)
                removed.append(kernel)
    return tuple(removed)


def _register(named: NamedKernel, environment: str, spec: Kernelspec) -> KernelRegistration:
    prefix, directory = spec.prefix, named.directory
    try:
        _write_launch_script(directory, prefix, environment)
        for asset in spec.assets():
            _write(directory / asset.name, asset.read_bytes())
        argv = spec.argv()
        _write_kernelspec(named, {**spec.fields, "argv": _launch_argv(directory, argv)}, prefix, environment)
        # The command script comes last: it makes the kernel ready.
        script = launcher.render_command_script(prefix, argv, spec.variables())
        _write(directory / launcher.COMMAND_SCRIPT, _encode(script))
    except KERNELSPEC_ERRORS as error:
        return _registration(named, error)
    return _registration(named)


def _register_pending(named: NamedKernel, prefix: Path, environment: str) -> KernelRegistration:
    directory = named.directory
    fields = {"argv": _launch_argv(directory, []), "language": named.kernel.language}
    try:
        if not os.path.isdir(prefix / "conda-meta"):
            (directory / launcher.COMMAND_SCRIPT).unlink(missing_ok=True)
        _write_launch_script(directory, prefix, environment)
        if not (directory / KERNEL_JSON).exists():
            _write_kernelspec(named, fields, prefix, environment)
    except KERNELSPEC_ERRORS as error:
        return _registration(named, error)
    return _registration(named)


def _registration(named: NamedKernel, error: Exception | None = None) -> KernelRegistration:
    problem = (isinstance(error, OSError) and error.strerror) or str(error or "")
    return KernelRegistration(named.name, named.display_name, str(named.directory), problem)


def _launch_argv(directory: Path, argv: Sequence[str]) -> list[str]:
    """Return the command that runs the launcher, with the fields that Jupyter fills in the kernel's own command."""
    fields = (f"{{{name}}}" for name in launcher.argv_fields(argv))
    return ["/bin/sh", str(directory / launcher.LAUNCH_SCRIPT), *fields]


def _write_launch_script(directory: Path, prefix: Path, environment: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    used = used_file(environment)
    with suppress(OSError):
        used.parent.mkdir(parents=True, exist_ok=True)
    target = launcher.LaunchTarget(environment, prefix, condabin(), waiting_file(environment), used)
    _write(directory / launcher.LAUNCH_SCRIPT, _encode(launcher.render_launch_script(target)))


def _write_kernelspec(named: NamedKernel, fields: dict[str, Any], prefix: Path, environment: str) -> None:
    fields = with_mark({**fields, "display_name": named.display_name}, environment, named.kernel.name, prefix)
    _write(named.directory / KERNEL_JSON, json.dumps(fields, indent=1).encode("ascii"))


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _write(file: Path, data: bytes) -> None:
    """Replace the file atomically, unless it already has these contents."""
    with suppress(OSError):
        if file.read_bytes() == data:
            return
    atomic_write(file, data, durable=False)


def _remove(kernel: RegisteredKernel) -> None:
    if os.path.islink(kernel.path):
        os.unlink(kernel.path)
    else:
        shutil.rmtree(kernel.path)
