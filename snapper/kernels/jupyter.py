"""Where Jupyter looks for kernelspecs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from snapper.environment.conda_directories import find_roots

_KERNELS = "share/jupyter/kernels"


def user_kernels_directory() -> Path:
    """Return the directory of the user's own kernelspecs, which may not exist yet."""
    from jupyter_core.paths import jupyter_data_dir  # noqa: PLC0415 - slow to import, and seldom needed

    return Path(jupyter_data_dir()) / "kernels"


def kernel_directories() -> list[str]:
    """Return the existing directories in which Jupyter looks for kernelspecs."""
    from jupyter_core.paths import jupyter_path  # noqa: PLC0415

    return [path for path in jupyter_path("kernels") if os.path.isdir(path)]


def kernel_names_elsewhere() -> Iterator[str]:
    """Yield the names, in lower case, of kernels outside of the user's own directory that Jupyter may find.

    Besides Jupyter's search path, this looks where Jupyter itself may be installed: snapper often is elsewhere.
    """
    prefixes = find_roots()
    program = shutil.which("jupyter")
    if program:
        prefixes += [Path(program).parent.parent, Path(os.path.realpath(program)).parent.parent]
    directories = [*kernel_directories(), *(str(prefix / _KERNELS) for prefix in prefixes)]
    for directory in {os.path.realpath(path) for path in directories} - {
        os.path.realpath(user_kernels_directory())
    }:
        with suppress(OSError):
            yield from (name.lower() for name in os.listdir(directory))
