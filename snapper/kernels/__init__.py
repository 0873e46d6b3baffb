"""Jupyter kernels: find those that an environment ships, and register them with the user's Jupyter.

A registered kernel is a kernelspec in Jupyter's data directory whose argv runs the launcher script next to it (see
`snapper.kernels.launcher`). It can be registered before its environment is restored, and waits for that if started.
"""

from snapper.kernels.jupyter import kernel_directories
from snapper.kernels.kernelspecs import has_kernels, install_hint, kernel_commands, shipped_kernels
from snapper.kernels.registered import RegisteredKernel, registered_kernels
from snapper.kernels.registration import (
    KernelRegistration,
    Registrar,
    register,
    remove,
    remove_orphaned,
)

__all__ = [
    "KernelRegistration",
    "RegisteredKernel",
    "Registrar",
    "has_kernels",
    "install_hint",
    "kernel_commands",
    "kernel_directories",
    "register",
    "registered_kernels",
    "remove",
    "remove_orphaned",
    "shipped_kernels",
]
