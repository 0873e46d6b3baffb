"""Carry kernelspecs that start an environment from outside of it: copy them into the environment when it is packed."""

from __future__ import annotations

import logging
import os
import posixpath
from collections.abc import Collection, Iterator, Set
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from snapper.environment.dependency import Dependency
from snapper.environment.state import open_environment
from snapper.fs.atomic import write_entry
from snapper.fs.directories import DirectoryTree
from snapper.fs.moves import Entry
from snapper.fs.pinned import PinnedDirectory
from snapper.fs.removal import remove_tree
from snapper.fs.small_files import read_beneath
from snapper.kernels import withheld
from snapper.kernels.carried_before import Original, carried_before, remember_carried
from snapper.kernels.kernelspecs import ASSETS, CARRIED, KERNEL_JSON
from snapper.kernels.outside import (
    OutsideKernel,
    find_kernels_of_environments,
    find_outside_kernels,
    search_path,
)
from snapper.kernels.registered import registered_kernels

logger = logging.getLogger(__name__)

#: The modes of kernelspecs, and of scripts: whoever may use the environment can start its kernels.
_READABLE, _EXECUTABLE = 0o644, 0o755


@dataclass(frozen=True)
class CarriedKernel:
    """A kernelspec in the directory `path` that starts an environment.

    `problem` says why it could not be copied into the environment; it is empty if it was. `secret_variables` of it were
    not, because they look like credentials. It was not either if some of its files are `private`: they contain
    credentials, or only this user may read them.
    """

    name: str
    path: Path
    problem: str = ""
    secret_variables: tuple[str, ...] = ()
    private: tuple[str, ...] = ()

    @property
    def is_carried(self) -> bool:
        """Whether the environment has it now."""
        return not self.problem and not self.private

    def dependencies(self) -> Iterator[Dependency]:
        """Yield what the environment does not have of it."""
        if self.problem:
            yield Dependency("kernel", str(self.path), (self.problem,))
        else:
            yield from withheld.dependencies(self.path, self.private, self.secret_variables)


def carry_kernels(environment: PinnedDirectory) -> tuple[CarriedKernel, ...]:
    """Copy kernelspecs that start the environment from outside into it; return them, and those in other environments.

    Nothing is written that is there already, is private, or looks like a credential, or into an environment of another
    user. Copies of kernelspecs that this user has removed or changed so that they are no longer carried, are removed.
    """
    carried = tuple(_carry(environment, kernel) for kernel in outside_kernels(environment))
    paths = {kernel.name: kernel.path for kernel in carried if kernel.is_carried}
    before = carried_before(environment.path)
    missing = [original for original in before if original.name not in paths]
    searched = {os.path.realpath(directory) for directory in search_path()} if missing else set()
    gone = {original.name for original in missing if original.is_gone(searched)}
    _remove_copies(environment, gone)
    with suppress(OSError):
        originals = [Original.at(path) for path in paths.values()]
        originals += [original for original in missing if original.name not in gone]
        if before != tuple(originals):
            remember_carried(environment.path, originals)
    return carried


def _remove_copies(environment: PinnedDirectory, gone: Set[str]) -> None:
    """Remove copies of kernelspecs, except for those that snapper has registered in place of the lost original."""
    prefixes = (str(environment.path), os.path.realpath(environment.path))
    registered = (
        {kernel.kernel for kernel in registered_kernels() if kernel.prefix in prefixes} if gone else set()
    )
    for name in sorted(gone - registered):
        with suppress(OSError), open_environment(environment), closing(DirectoryTree(environment)) as tree:
            remove_tree(name, tree[CARRIED])
            logger.warning(
                "%s/%s/%s was removed: there is no such kernelspec any more", environment, CARRIED, name
            )


def outside_kernels(environment: PinnedDirectory) -> list[OutsideKernel]:
    """Return the kernelspecs that start the environment from outside, those in other environments last."""
    return [*find_outside_kernels(environment), *find_kernels_of_environments(environment)]


def _carry(environment: PinnedDirectory, kernel: OutsideKernel) -> CarriedKernel:
    carried = CarriedKernel(kernel.name, kernel.path, kernel.problem, kernel.secret_variables, kernel.private)
    if not carried.is_carried:
        return carried
    try:
        with open_environment(environment):
            files = {KERNEL_JSON: kernel.kernel_json(), **kernel.files}
            directory = posixpath.join(CARRIED, kernel.name)
            _remove_others(environment, directory, files)
            for name, data in files.items():
                _write(environment, posixpath.join(directory, name), data)
    except OSError as error:
        logger.info("%s was not copied into %s: %s", kernel.path, environment, error.strerror)
        return replace(carried, problem=error.strerror or str(error))
    return carried


def _remove_others(environment: PinnedDirectory, directory: str, names: Collection[str]) -> None:
    """Remove what the kernelspec no longer has beside it from its copy. May raise OSError."""
    known = {name.partition("/")[0] for name in names}
    with closing(DirectoryTree(environment)) as tree:
        for name in os.listdir(tree[directory]):
            if name not in known:
                with suppress(IsADirectoryError):
                    os.unlink(name, dir_fd=tree[directory])


def _write(environment: PinnedDirectory, path: str, data: bytes) -> None:
    """Write a file in the environment, unless it has these contents. Links are not followed. May raise OSError."""
    with suppress(OSError):
        if read_beneath(environment, path, len(data)) == data:
            return
    directory, name = posixpath.split(path)
    with closing(DirectoryTree(environment)) as tree:
        mode = _READABLE if name in (KERNEL_JSON, *ASSETS) else _EXECUTABLE
        write_entry(Entry(tree[directory], name), data, durable=False, mode=mode)
