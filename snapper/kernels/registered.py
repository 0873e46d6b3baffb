"""The kernels that snapper has registered in the user's Jupyter.

Their `kernel.json` says in `metadata.snapper` which kernel of which environment they are.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snapper.kernels import launcher
from snapper.kernels.jupyter import user_kernels_directory
from snapper.kernels.kernelspecs import KERNEL_JSON, KERNELSPEC_ERRORS


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
    """Return the kernels that snapper has registered, sorted by name."""
    directories = sorted(file.parent for file in user_kernels_directory().glob(f"*/{KERNEL_JSON}"))
    kernels = (_read_registered(directory) for directory in directories)
    return tuple(kernel for kernel in kernels if kernel)


def is_registered_as(directory: Path, environment: str, kernel: str) -> bool:
    """Return whether snapper has registered the kernel of the environment in the directory."""
    try:
        mark = json.loads((directory / KERNEL_JSON).read_bytes())["metadata"]["snapper"]
        return bool(mark["environment"] == environment and mark["kernel"] == kernel)
    except KERNELSPEC_ERRORS:
        return False


def with_mark(fields: dict[str, Any], environment: str, kernel: str, prefix: Path) -> dict[str, Any]:
    """Return the fields of a `kernel.json` marked as a kernel that snapper has registered."""
    mark = {"environment": environment, "kernel": kernel, "prefix": str(prefix)}
    return {**fields, "metadata": {**fields.get("metadata", {}), "snapper": mark}}


def _read_registered(directory: Path) -> RegisteredKernel | None:
    try:
        fields = json.loads((directory / KERNEL_JSON).read_bytes())
        mark = fields["metadata"]["snapper"]
        return RegisteredKernel(
            name=directory.name,
            display_name=str(fields["display_name"]),
            language=str(fields.get("language", "")),
            environment=str(mark["environment"]),
            kernel=str(mark["kernel"]),
            prefix=str(mark["prefix"]),
            path=str(directory),
            ready=(directory / launcher.COMMAND_SCRIPT).exists()
            and os.path.isdir(Path(mark["prefix"], "conda-meta")),
        )
    except KERNELSPEC_ERRORS:
        return None
