"""Register kernels of environments on this machine again, because what Jupyter shows is as of their registration.

What the launcher reads when a kernel starts needs no update.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection
from functools import cache
from pathlib import Path

from snapper.environment import state
from snapper.environment.conda import pin_environment
from snapper.environment.locations import why_of_unknown_origin
from snapper.errors import SnapperError
from snapper.fs.ownership import is_own
from snapper.fs.pinned import PinnedDirectory
from snapper.kernels.registered import registered_kernels
from snapper.kernels.registration import KernelRegistration, Registrar

logger = logging.getLogger(__name__)


def is_known(environment: PinnedDirectory, name: str) -> bool:
    """Return whether an environment of this user was packed, restored, or registered by this name where it is.

    It is not if others may have put it there: registering its kernels says that these can be trusted.
    """
    if not is_own(environment.status) or why_of_unknown_origin(environment):
        return False
    recorded = state.read(environment)
    if recorded:
        return recorded.environment == name
    path = os.path.realpath(environment.path)
    return any(
        kernel.environment == name and os.path.realpath(kernel.prefix) == path
        for kernel in registered_kernels()
    )


def update(environment: PinnedDirectory, name: str) -> tuple[KernelRegistration, ...]:
    """Do what `Registrar.register` does; nothing if that is not possible at all."""
    return _update(Registrar, environment, name)


def _update(
    registrar: Callable[[], Registrar], environment: PinnedDirectory, name: str
) -> tuple[KernelRegistration, ...]:
    try:
        return registrar().register(environment, name)
    except (OSError, SnapperError) as error:
        logger.info("kernels of %s were not registered again: %s", environment, error)
        return ()


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
            _update(registrar, environment, name)
