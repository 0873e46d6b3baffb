"""Register kernels of environments on this machine again, because what Jupyter shows is as of their registration.

What the launcher reads when a kernel starts needs no update.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from snapper.environment import state
from snapper.environment.conda import is_environment, pin_environment
from snapper.environment.locations import why_of_unknown_origin
from snapper.errors import SnapperError
from snapper.fs.ownership import is_own
from snapper.fs.pinned import PinnedDirectory
from snapper.kernels.registered import RegisteredKernel, registered_kernels
from snapper.kernels.registration import KernelRegistration, Registrar

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class KernelUpdates:
    """What registering the kernels of an environment again has changed; `added` are names of the `registered` ones."""

    registered: tuple[KernelRegistration, ...] = ()
    added: frozenset[str] = frozenset()
    removed: tuple[RegisteredKernel, ...] = ()


def is_known(environment: PinnedDirectory, name: str) -> bool:
    """Return whether an environment of this user was packed, restored, or registered by this name where it is.

    It is not if others may have put it there: registering its kernels says that these can be trusted. Nor is it if
    kernels of an environment of that name elsewhere are registered: only restores move these.
    """
    if not is_own(environment.status) or why_of_unknown_origin(environment):
        return False
    prefixes = {os.path.realpath(kernel.prefix) for kernel in _registered(name)}
    own = os.path.realpath(environment.path)
    if any(prefix != own and is_environment(Path(prefix)) for prefix in prefixes):
        return False
    recorded = state.read(environment)
    return recorded.environment == name if recorded else own in prefixes


def update(environment: PinnedDirectory, name: str) -> KernelUpdates:
    """Do what `Registrar.register` does, and return what has changed; nothing if it is not possible at all.

    Of kernels that were not registered before, only those that are by now are returned: Jupyter need not be used here.
    """
    before = {kernel.name: kernel for kernel in _registered(name)}
    outcomes = _register(Registrar, environment, name)
    registered = tuple(outcome for outcome in outcomes if outcome.name in before or not outcome.problem)
    added = {outcome.name for outcome in registered} - before.keys()
    after = {kernel.name for kernel in _registered(name)}
    removed = tuple(kernel for kernel in before.values() if kernel.name not in after)
    return KernelUpdates(registered, frozenset(added), removed)


def _register(
    registrar: Callable[[], Registrar], environment: PinnedDirectory, name: str
) -> tuple[KernelRegistration, ...]:
    try:
        return registrar().register(environment, name)
    except (OSError, SnapperError) as error:
        logger.info("kernels of %s were not registered again: %s", environment, error)
        return ()


def _registered(name: str) -> list[RegisteredKernel]:
    return [kernel for kernel in registered_kernels() if kernel.environment == name]


def update_others(names: Collection[str]) -> None:
    """Update the registered kernels of all environments that have other names."""
    registrar = cache(Registrar)  # made when it is first needed
    others = {(kernel.environment, kernel.prefix) for kernel in registered_kernels()}
    for name, prefix in sorted(others):
        if name in names:
            continue
        try:
            environment = pin_environment(Path(prefix))
        except SnapperError as error:
            logger.debug("kernels of %s were not registered again: %s", prefix, error)
            continue
        if is_known(environment, name):
            _register(registrar, environment, name)
