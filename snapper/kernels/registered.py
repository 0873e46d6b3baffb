"""The kernels that snapper has registered in the user's Jupyter.

Their `kernel.json` says in `metadata.snapper` which kernel of which environment they are.
"""

from __future__ import annotations

import errno
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snapper.environment import conda
from snapper.format.model import check_name
from snapper.fs.atomic import is_temporary
from snapper.fs.own_directory import OwnDirectory, list_directory, own_directory
from snapper.kernels.jupyter import user_kernels_directory
from snapper.kernels.kernelspecs import ASSETS, KERNEL_JSON, KERNELSPEC_ERRORS
from snapper.kernels.launcher import COMMAND_SCRIPT, LAUNCH_SCRIPT

#: What snapper writes into the directory of a kernel before its kernel.json.
_WRITTEN_FIRST = {LAUNCH_SCRIPT, COMMAND_SCRIPT, *ASSETS}


@dataclass(frozen=True)
class RegisteredKernel:
    """A kernel that snapper has registered; `ready` if its environment is in its place and has the kernel."""

    name: str
    display_name: str
    language: str
    environment: str
    kernel: str
    prefix: str
    path: str
    ready: bool


def registered_kernels() -> tuple[RegisteredKernel, ...]:
    """Return the kernels that snapper has registered, sorted by name; those of other users do not count."""
    parent = user_kernels_directory()
    kernels = (_read_path(parent / name) for name in list_directory(parent))
    return tuple(kernel for kernel in kernels if kernel)


def is_available(path: Path, environment: str, kernel: str) -> bool:
    """Return whether the kernel of the environment can be registered in the directory: nothing else is there."""
    try:
        with own_directory(path) as directory:
            return is_usable(directory, environment, kernel)
    except FileNotFoundError:
        return True
    except OSError:
        return False


def is_usable(directory: OwnDirectory, environment: str, kernel: str) -> bool:
    """Return whether an open directory has nothing but what snapper wrote for this kernel, perhaps incompletely.

    May raise OSError.
    """
    names = [name for name in directory.names() if not is_temporary(name)]
    if KERNEL_JSON not in names:
        return set(names) <= _WRITTEN_FIRST
    registered = read_registered(directory)
    return registered is not None and (registered.environment, registered.kernel) == (environment, kernel)


def with_mark(fields: dict[str, Any], environment: str, kernel: str, prefix: Path) -> dict[str, Any]:
    """Return the fields of a `kernel.json` marked as a kernel that snapper has registered."""
    mark = {"environment": environment, "kernel": kernel, "prefix": str(prefix)}
    return {**fields, "metadata": {**fields.get("metadata", {}), "snapper": mark}}


def read_registered(directory: OwnDirectory) -> RegisteredKernel | None:
    """Return the kernel that snapper has registered in an open directory, if it has."""
    path = directory.path
    try:
        fields = json.loads(directory.read(KERNEL_JSON))
        mark = fields["metadata"]["snapper"]
        prefix = Path(mark["prefix"])
        return RegisteredKernel(
            name=path.name,
            display_name=str(fields["display_name"]),
            language=str(fields.get("language", "")),
            environment=check_name(mark["environment"]),
            kernel=str(mark["kernel"]),
            prefix=str(prefix),
            path=str(path),
            ready=COMMAND_SCRIPT in directory.names() and conda.is_environment(prefix),
        )
    except KERNELSPEC_ERRORS:
        return None


def remove_registered(kernel: RegisteredKernel) -> None:
    """Remove the directory of the kernel, unless something else is there by now. May raise OSError."""
    with own_directory(Path(kernel.path)) as directory:
        found = read_registered(directory)
        if found is None or (found.environment, found.kernel) != (kernel.environment, kernel.kernel):
            raise FileExistsError(errno.EEXIST, "another kernel has been put there", kernel.path)
        directory.remove_all()


def _read_path(path: Path) -> RegisteredKernel | None:
    try:
        with own_directory(path) as directory:
            return read_registered(directory)
    except OSError:
        return None
