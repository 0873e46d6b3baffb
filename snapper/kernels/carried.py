"""Carry kernelspecs that start an environment from outside of it: copy them into the environment when it is packed.

The copies are packed with the environment, and colleagues can restore, edit, and pack them. What is not as a pack by
this user has written it is therefore neither replaced nor removed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from snapper.environment.dependency import Dependency
from snapper.environment.state import open_environment
from snapper.fs.pinned import PinnedDirectory
from snapper.kernels import withheld
from snapper.kernels.carried_before import (
    Original,
    carried_before,
    remember_carried,
    remember_written,
    was_written,
)
from snapper.kernels.copies import copy_path, read_digests, remove_files, write_copy
from snapper.kernels.kernelspecs import KERNEL_JSON
from snapper.kernels.outside import (
    OutsideKernel,
    find_kernels_of_environments,
    find_outside_kernels,
    search_path,
)
from snapper.kernels.registered import registered_kernels

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CarriedKernel:
    """A kernelspec in the directory `path` that starts an environment.

    `problem` says why it could not be copied into the environment; it is empty if it was. `secret_variables` of it were
    not, because they look like credentials. It was not either if some of its files are `private`: they contain
    credentials, or only this user may read them; or if files of the copy in the environment, `edited`, are neither as
    in the kernelspec nor as a pack by this user has written them.
    """

    name: str
    path: Path
    problem: str = ""
    secret_variables: tuple[str, ...] = ()
    private: tuple[str, ...] = ()
    edited: tuple[str, ...] = ()

    @property
    def is_carried(self) -> bool:
        """Whether the environment has it now."""
        return not (self.problem or self.private or self.edited)

    def dependencies(self) -> Iterator[Dependency]:
        """Yield what the environment does not have of it."""
        if self.problem:
            yield Dependency("kernel", str(self.path), (self.problem,))
        elif self.edited:
            yield Dependency("edited", str(self.path), self.edited)
        else:
            yield from withheld.dependencies(self.path, self.private, self.secret_variables)


class CarriedKernels(NamedTuple):
    """Kernelspecs that start an environment, and whether the environment `has_changed` because they were copied."""

    kernels: tuple[CarriedKernel, ...]
    has_changed: bool


def outside_kernels(environment: PinnedDirectory) -> list[OutsideKernel]:
    """Return the kernelspecs that start the environment from outside, those in other environments last."""
    return [*find_outside_kernels(environment), *find_kernels_of_environments(environment)]


def carry_kernels(environment: PinnedDirectory) -> CarriedKernels:
    """Copy kernelspecs that start the environment from outside into it; return them, and those in other environments.

    Nothing is written that is there already, is private, or looks like a credential, or into an environment of another
    user. Copies of kernelspecs that this user has removed or changed so that they are no longer carried, are removed.
    Copies that someone else has edited stay as they are.
    """
    carrying = _Carrying(environment)
    kernels = tuple(carrying.carry(kernel) for kernel in outside_kernels(environment))
    carrying.finish()
    return CarriedKernels(kernels, carrying.has_changed)


class _Carrying:
    """One pass over the kernelspecs of an environment. `has_changed` says whether it has written or removed files."""

    def __init__(self, environment: PinnedDirectory) -> None:
        self.has_changed = False
        self._environment = environment
        self._before = {original.name: original for original in carried_before(environment.path)}
        self._after: dict[str, Original] = {}

    def carry(self, kernel: OutsideKernel) -> CarriedKernel:
        """Bring the copy of a kernelspec up to date."""
        carried = CarriedKernel(
            kernel.name, kernel.path, kernel.problem, kernel.secret_variables, kernel.private
        )
        if not carried.is_carried:
            return carried
        if kernel.name in self._before:
            self._after[kernel.name] = self._before[kernel.name]
        try:
            with open_environment(self._environment):
                edited = self._update(kernel)
        except OSError as error:
            logger.info("%s was not copied into %s: %s", kernel.path, self._environment, error.strerror)
            return replace(carried, problem=error.strerror or str(error))
        return replace(carried, edited=edited)

    def _update(self, kernel: OutsideKernel) -> tuple[str, ...]:
        """Write what the copy of a kernelspec lacks, and remove what it has no more; may raise OSError.

        If files of the copy have been edited, do nothing and return their paths in the environment.
        """
        name, files = kernel.name, {KERNEL_JSON: kernel.kernel_json(), **kernel.files}
        original = Original.at(kernel.path, files)
        written = self._before[name].files if name in self._before else {}
        found = read_digests(self._environment, name, {**files, **written})
        edited = _edited(name, found, original.files, written)
        if edited:
            return tuple(f"{copy_path(name)}/{path}" for path in edited)
        missing = {path: data for path, data in files.items() if found.get(path) != original.files[path]}
        obsolete = [path for path in found if path not in files]
        self.has_changed |= bool(missing or obsolete)
        remember_written(name, {path: original.files[path] for path in missing})
        write_copy(self._environment, name, missing)
        if obsolete:
            remove_files(self._environment, name, obsolete)
        self._after[name] = original
        return ()

    def finish(self) -> None:
        """Remove the copies of kernelspecs that are gone, and remember the others."""
        lost = [original for name, original in self._before.items() if name not in self._after]
        searched = {os.path.realpath(directory) for directory in search_path()} if lost else set()
        gone = [original for original in lost if original.is_gone(searched)]
        if gone:
            self._remove(gone)
        self._after |= {original.name: original for original in lost if original not in gone}
        if self._before != self._after:
            remember_carried(self._environment.path, list(self._after.values()))

    def _remove(self, gone: list[Original]) -> None:
        """Remove copies of kernelspecs, except for those that snapper has registered in place of the lost original."""
        path = self._environment.path
        prefixes = (str(path), os.path.realpath(path))
        registered = {kernel.kernel for kernel in registered_kernels() if kernel.prefix in prefixes}
        for original in sorted(gone, key=lambda each: each.name):
            if original.name not in registered:
                with suppress(OSError), open_environment(self._environment):
                    self._remove_copy(original)

    def _remove_copy(self, original: Original) -> None:
        """Remove what was written of a copy, unless some of that has been edited; may raise OSError."""
        name = original.name
        found = read_digests(self._environment, name, original.files)
        if not found:
            return
        is_edited = bool(_edited(name, found, original.files))
        self.has_changed |= not is_edited
        if is_edited or not remove_files(self._environment, name, found):
            logger.warning(
                "files in %s/%s were kept, although there is no such kernelspec any more: someone else wrote them",
                self._environment,
                copy_path(name),
            )
        else:
            logger.warning(
                "%s/%s was removed: there is no such kernelspec any more", self._environment, copy_path(name)
            )


def _edited(name: str, found: Mapping[str, str], *expected: Mapping[str, str]) -> list[str]:
    """Return the paths of files of a copy that are not as expected, or as this user has ever written them.

    A restore of another snapshot brings earlier ones.
    """
    unexpected = {
        path: digest for path, digest in found.items() if digest not in [each.get(path) for each in expected]
    }
    return sorted(path for path, digest in unexpected.items() if not was_written(name, path, digest))
