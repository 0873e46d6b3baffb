"""The kernels that snapper has registered in the user's Jupyter.

Their `kernel.json` says in `metadata.snapper` which kernel of which environment they are, and has digests of what was
written. A copy of such a directory under another name is the user's own kernel. So is what a user has changed: it keeps
its `kernel.json`.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from snapper.environment import conda
from snapper.format.constraints import check_name
from snapper.format.model import sha256_hex
from snapper.fs.atomic import is_temporary
from snapper.fs.own_directory import OwnDirectory, list_directory, own_directory
from snapper.kernels.assets import Digests, written_assets
from snapper.kernels.jupyter import user_kernels_directory
from snapper.kernels.kernelspecs import (
    ASSETS,
    CARRIED,
    KERNEL_JSON,
    KERNELSPEC_ERRORS,
    LAUNCH_SCRIPT,
    SHIPPED,
)

#: A script that earlier versions wrote, with the command and the variables of the day.
FORMER_SCRIPT = "command.sh"

#: What snapper always writes into the directory of a kernel, and what it may write before that is complete.
_WRITTEN = {KERNEL_JSON, LAUNCH_SCRIPT, FORMER_SCRIPT}
_WRITTEN_FIRST = {LAUNCH_SCRIPT, FORMER_SCRIPT, *ASSETS}


class KernelOrigin(NamedTuple):
    """The environment and the name of a registered kernel, and the directory of its kernelspec below the prefix."""

    environment: str
    kernel: str
    prefix: Path
    kernelspec: str


@dataclass(frozen=True)
class RegisteredKernel:
    """A kernel that snapper has registered; `ready` if its environment is in its place and has the kernel.

    `kernelspec` is the directory below the prefix that has the environment's kernelspec.
    If `edited`, its `kernel.json` is not as snapper wrote it. It `claims` its name if the environment carried it by
    that name, rather than by one of the template's. `assets` are the files beside it that snapper has written.
    """

    name: str
    display_name: str
    language: str
    environment: str
    kernel: str
    prefix: str
    kernelspec: str
    path: str
    ready: bool
    edited: bool = False
    claims: bool = False
    assets: Digests = None


def registered_kernels() -> tuple[RegisteredKernel, ...]:
    """Return the kernels that snapper has registered, sorted by name; those of other users do not count."""
    parent = user_kernels_directory()
    kernels = (_read_path(parent / name) for name in list_directory(parent))
    return tuple(kernel for kernel in kernels if kernel)


def is_available(path: Path, environment: str, kernel: str) -> bool:
    """Return whether the kernel of the environment can be registered in the directory: nothing else is there."""
    try:
        with own_directory(path) as directory:
            return is_usable(directory, read_registered(directory), environment, kernel)
    except FileNotFoundError:
        return True
    except OSError:
        return False


def is_usable(
    directory: OwnDirectory, registered: RegisteredKernel | None, environment: str, kernel: str
) -> bool:
    """Return whether an open directory has nothing but what snapper wrote for this kernel, perhaps incompletely.

    `registered` is the kernel that is registered there. May raise OSError.
    """
    names = [name for name in directory.names() if not is_temporary(name)]
    if KERNEL_JSON not in names:
        return set(names) <= _WRITTEN_FIRST
    return registered is not None and (registered.environment, registered.kernel) == (environment, kernel)


def with_mark(
    fields: dict[str, Any], origin: KernelOrigin, assets: Mapping[str, str], *, claims: bool = False
) -> dict[str, Any]:
    """Return the fields of a `kernel.json` marked as a kernel that snapper has registered with these assets."""
    mark: dict[str, object] = {**origin._asdict(), "prefix": str(origin.prefix), "assets": dict(assets)}
    if claims:
        mark["claims"] = True
    fields = {**fields, "metadata": {**fields.get("metadata", {}), "snapper": mark}}
    mark["digest"] = _digest(fields)
    return fields


def _digest(fields: dict[str, Any]) -> str:
    """Return the digest of the fields of a `kernel.json`, except for the digest that is in them."""
    metadata = fields["metadata"]
    mark = {name: value for name, value in metadata["snapper"].items() if name != "digest"}
    text = json.dumps({**fields, "metadata": {**metadata, "snapper": mark}}, sort_keys=True)
    return sha256_hex(text.encode("ascii"))


def read_registered(directory: OwnDirectory) -> RegisteredKernel | None:
    """Return the kernel that snapper has registered in an open directory, if it has."""
    path = directory.path
    try:
        fields = json.loads(directory.read(KERNEL_JSON))
        mark = fields["metadata"]["snapper"]
        kernel, prefix, claims = str(mark["kernel"]), Path(mark["prefix"]), mark.get("claims") is True
        former = f"{CARRIED if claims else SHIPPED}/{kernel}"  # earlier versions did not record it
        kernelspec = str(mark.get("kernelspec", former))
        if _written_for(fields) != path.name:
            return None  # a copy
        return RegisteredKernel(
            name=path.name,
            display_name=str(fields["display_name"]),
            language=str(fields.get("language", "")),
            environment=check_name(mark["environment"]),
            kernel=kernel,
            prefix=str(prefix),
            kernelspec=kernelspec,
            path=str(path),
            ready=conda.is_environment(prefix) and os.path.isfile(prefix / kernelspec / KERNEL_JSON),
            edited="digest" in mark and mark["digest"] != _digest(fields),  # 0.1.0 wrote none
            claims=claims,
            assets=dict(mark["assets"]) if "assets" in mark else None,
        )
    except KERNELSPEC_ERRORS:
        return None


def remove_registered(kernel: RegisteredKernel) -> None:
    """Remove the files of the kernel, and its directory if it has no others. May raise OSError.

    Files that the user has put there or changed are kept, and nothing is removed if something else is there by now. Of
    a link, only the link itself is removed.
    """
    path = Path(kernel.path)
    if path.is_symlink():
        with own_directory(path.parent) as parent:
            parent.remove(path.name)
        return
    with own_directory(path) as directory:
        found = read_registered(directory)
        if found is None or (found.environment, found.kernel) != (kernel.environment, kernel.kernel):
            raise FileExistsError(errno.EEXIST, "another kernel has been put there", kernel.path)
        written = _WRITTEN | written_assets(directory, found.assets)
        for name in directory.names():
            if name in written or is_temporary(name):
                directory.remove(name)
        directory.remove_if_empty()


def registered_kernel_of(fields: Any) -> tuple[str, str, str] | None:
    """Return which registered kernel a `kernel.json` is, or was copied from: its name, and its kernel and prefix.

    Return None if it is neither. May raise KERNELSPEC_ERRORS.
    """
    mark = fields.get("metadata", {}).get("snapper")
    return (_written_for(fields), str(mark["kernel"]), str(mark["prefix"])) if mark else None


def _written_for(fields: dict[str, Any]) -> str:
    """Return the name of the registered kernel that a `kernel.json` was written for."""
    words = fields["argv"]
    return Path(words[1]).parent.name if len(words) > 1 else ""


def _read_path(path: Path) -> RegisteredKernel | None:
    try:
        with own_directory(path) as directory:
            return read_registered(directory)
    except OSError:
        return None
