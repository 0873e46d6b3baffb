"""Register kernels of environments with the user's Jupyter, and remove them."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from snapper.environment.conda_directories import conda_commands
from snapper.environment.staging_lock import staging_path
from snapper.format.model import Kernel
from snapper.fs.directories import pin_directory
from snapper.fs.own_directory import OwnDirectory, own_directory
from snapper.fs.pinned import PinnedDirectory
from snapper.kernels import launcher
from snapper.kernels.access import Access, access_to, access_to_new
from snapper.kernels.assets import replace_assets
from snapper.kernels.kernelspecs import (
    KERNEL_JSON,
    LAUNCH_SCRIPT,
    SHIPPED,
    Kernelspec,
    check_words,
    find_kernelspecs,
    possible_kernels,
    read_assets,
)
from snapper.kernels.naming import NATIVE, KernelNames, NamedKernel
from snapper.kernels.registered import (
    FORMER_SCRIPT,
    KernelOrigin,
    RegisteredKernel,
    is_usable,
    read_registered,
    registered_kernels,
    remove_registered,
    with_mark,
)
from snapper.kernels.usage import used_file
from snapper.kernels.waiting import remove_notice, waiting_file

logger = logging.getLogger(__name__)

#: Errors that mean that Jupyter's data directory cannot be written to.
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)

#: The mode of files without secrets.
_PUBLIC = 0o644


@dataclass(frozen=True)
class KernelRegistration:
    """The outcome of registering a kernel: empty `problem`, or the reason why it failed, and perhaps a `hint`.

    `instead_of` is the name that it should have, if that is taken. If it is `edited`, the user has changed its
    `kernel.json`, which is kept.
    """

    name: str
    display_name: str
    path: str
    problem: str = ""
    instead_of: str = ""
    edited: bool = False
    hint: str = ""


def register(prefix: Path | PinnedDirectory, environment: str) -> tuple[KernelRegistration, ...]:
    """Do what `Registrar.register` does for one environment; may raise OSError."""
    return Registrar().register(pin_directory(prefix), environment)


class Registrar:
    """Registers kernels of several environments. What Jupyter and conda have is read once, when this is made.

    Others may change it meanwhile: the directory of a kernel is checked again when it is written to. Raise what
    `load_settings` raises.
    """

    def __init__(self) -> None:
        self._names = KernelNames()
        self._conda = conda_commands()
        self._is_anothers = cache(_is_anothers)

    def register(self, directory: PinnedDirectory, environment: str) -> tuple[KernelRegistration, ...]:
        """Register the kernels that the environment in the directory ships, and remove those that it no longer ships.

        Files that are up to date are not written. Kernelspecs that are not of this environment stay as they are, and so
        do those of kernels that it has, but that cannot be read now.
        """
        shipped = list(find_kernelspecs(directory))
        specs = self._own_specs(directory, shipped)
        carried = [number for number, spec in enumerate(specs) if spec.is_carried]
        named = self._names.choose(environment, [spec.kernel for spec in specs], carried, directory.path)
        current = {kernel.name for kernel in named}
        valid = {spec.directory for spec in shipped}
        for registered in self._names.registered(environment):
            is_unknown = registered.kernelspec not in valid and _may_exist(directory, registered.kernelspec)
            if registered.name not in current and not registered.edited and not is_unknown:
                with suppress(OSError):
                    remove_registered(registered)
        outcomes = tuple(
            self._register(kernel, environment, spec, assets)
            for kernel, spec, assets in zip(named, specs, read_assets(specs), strict=True)
        )
        for outcome in outcomes:
            logger.debug("kernel %s of %s: %s", outcome.name, environment, outcome.problem or "registered")
        return outcomes

    def register_pending(
        self, prefix: Path, environment: str, kernels: Sequence[Kernel]
    ) -> tuple[KernelRegistration, ...]:
        """Register kernels of an environment that is about to be restored; they wait for it when started.

        Kernels that are ready, here or at another prefix, stay as they are: `register` changes them once the
        environment is at `prefix`.
        """
        ready = {registered.name for registered in self._names.registered(environment) if registered.ready}
        return tuple(
            _registration(kernel)
            if kernel.name in ready
            else self._register_pending(kernel, prefix, environment)
            for kernel in self._names.choose(environment, possible_kernels(kernels))
        )

    @staticmethod
    def _own_specs(directory: PinnedDirectory, specs: list[Kernelspec]) -> list[Kernelspec]:
        """Return these kernelspecs of the environment, except for those it carries that need not be registered.

        They are still where they were, or are called as Jupyter's own kernel, and the environment ships such a kernel.
        """
        if not any(spec.is_carried for spec in specs):
            return specs
        # Slow to import, and seldom needed.
        from snapper.kernels.outside import find_outside_kernels  # noqa: PLC0415

        others = {kernel.name for kernel in find_outside_kernels(directory)}
        others |= {NATIVE} & {spec.kernel.name for spec in specs if not spec.is_carried}
        return [spec for spec in specs if not (spec.is_carried and spec.kernel.name in others)]

    def _register(
        self, named: NamedKernel, environment: str, spec: Kernelspec, shipped: Mapping[str, bytes]
    ) -> KernelRegistration:
        origin = KernelOrigin(environment, named.kernel.name, spec.prefix, spec.directory)

        def write(directory: OwnDirectory, known: RegisteredKernel | None) -> None:
            check_words(spec.command)
            fields = launcher.argv_fields(spec.command)
            self._write_launch_script(directory, origin, access_to(spec.environment), fields)
            if not (known and known.edited):
                assets = replace_assets(directory, known.assets if known else {}, shipped)
                # The launcher sets the variables: they may be others by then.
                kept = {name: value for name, value in spec.fields.items() if name != "env"}
                kept["argv"] = _launch_argv(directory, spec.command)
                _write_kernelspec(directory, named, kept, origin, assets)
            directory.remove(FORMER_SCRIPT)

        return self._attempt(named, environment, write)

    def _register_pending(self, named: NamedKernel, prefix: Path, environment: str) -> KernelRegistration:
        origin = KernelOrigin(environment, named.kernel.name, prefix, f"{SHIPPED}/{named.kernel.name}")

        def write(directory: OwnDirectory, _: RegisteredKernel | None) -> None:
            self._write_launch_script(directory, origin, access_to_new(prefix), launcher.argv_fields(()))
            if KERNEL_JSON not in directory.names():
                fields = {"argv": _launch_argv(directory, []), "language": named.kernel.language}
                _write_kernelspec(directory, named, fields, origin, {})
            directory.remove(FORMER_SCRIPT)

        return self._attempt(named, environment, write)

    def _attempt(
        self,
        named: NamedKernel,
        environment: str,
        write: Callable[[OwnDirectory, RegisteredKernel | None], None],
    ) -> KernelRegistration:
        """Write into the kernel's directory, and return the outcome. Whatever fails must not stop other kernels.

        `write` gets the kernel as it is registered there, if it is.
        """
        self._names.add(named.name)
        try:
            with own_directory(named.directory, make=True, mode=0o755) as directory:
                known = read_registered(directory)
                if not is_usable(directory, known, environment, named.kernel.name):
                    raise FileExistsError(errno.EEXIST, "there is another kernel of this name")
                write(directory, known)
        except Exception as error:
            logger.debug("traceback", exc_info=error)
            return _registration(named, error)
        return replace(_registration(named), edited=known is not None and known.edited)

    def _write_launch_script(
        self, directory: OwnDirectory, origin: KernelOrigin, access: Access, fields: tuple[str, ...]
    ) -> None:
        files = (waiting_file(origin.environment), used_file(origin.environment))
        waiting, used = (None if self._is_anothers(file.parent) else file for file in files)
        target = launcher.LaunchTarget(
            origin.environment, origin.prefix, origin.kernelspec, access, self._conda, waiting, used, fields
        )
        directory.write(LAUNCH_SCRIPT, _encode(launcher.render_launch_script(target)), _PUBLIC)


def remove(environment: str) -> tuple[RegisteredKernel, ...]:
    """Remove the kernels of the environment from the user's Jupyter and return them; may raise OSError."""
    removed = tuple(kernel for kernel in registered_kernels() if kernel.environment == environment)
    for kernel in removed:
        remove_registered(kernel)
    remove_notice(environment)
    return removed


def remove_orphaned(environments: Iterable[str]) -> tuple[RegisteredKernel, ...]:
    """Remove the kernels of environments that are not on this machine and not among `environments`; return them."""
    known = set(environments)
    removed = []
    for kernel in registered_kernels():
        if kernel.environment not in known and not kernel.edited and _is_gone(Path(kernel.prefix)):
            with suppress(OSError):
                remove_registered(kernel)
                removed.append(kernel)
    return tuple(removed)


def _may_exist(environment: PinnedDirectory, kernelspec: str) -> bool:
    """Return whether the environment has a kernelspec there, also if that cannot be known."""
    try:
        os.stat(f"{kernelspec}/{KERNEL_JSON}", dir_fd=environment.descriptor)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _is_gone(prefix: Path) -> bool:
    """Return whether nothing is at the prefix, also if an environment around it is just being replaced."""
    if os.path.lexists(prefix) or any(os.path.lexists(staging_path(above)) for above in prefix.parents[:-1]):
        return False
    return not os.path.lexists(prefix)  # a swap may have ended between the two checks


def _registration(named: NamedKernel, error: Exception | None = None) -> KernelRegistration:
    problem = hint = ""
    if error is not None:
        problem = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    if isinstance(error, OSError) and error.errno in _NOT_WRITABLE:
        hint = "Set JUPYTER_DATA_DIR, also for Jupyter, to a directory of yours that can be written to."
    return KernelRegistration(
        named.name, named.display_name, str(named.directory), problem, named.instead_of, hint=hint
    )


def _launch_argv(directory: OwnDirectory, command: Sequence[str]) -> list[str]:
    """Return the command that runs the launcher, with the fields that Jupyter fills in the kernel's own command."""
    script = str(directory.path / LAUNCH_SCRIPT)
    return ["/bin/sh", script, *launcher.launch_arguments(command)]


def _is_anothers(directory: Path) -> bool:
    """Return whether the directory, which is created if necessary, belongs to another user."""
    try:
        with own_directory(directory, make=True, mode=0o755):
            return False
    except OSError as error:
        return error.errno == errno.EPERM


def _write_kernelspec(
    directory: OwnDirectory,
    named: NamedKernel,
    fields: dict[str, Any],
    origin: KernelOrigin,
    assets: Mapping[str, str],
) -> None:
    fields = {**fields, "display_name": named.display_name}
    fields = with_mark(fields, origin, assets, claims=named.claims)
    directory.write(KERNEL_JSON, json.dumps(fields).encode("ascii"))


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
