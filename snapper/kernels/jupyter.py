"""Where Jupyter looks for kernelspecs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from snapper.environment.conda_directories import find_roots
from snapper.environment.managed import managed_environments

_KERNELS = "share/jupyter/kernels"


def user_kernels_directory() -> Path:
    """Return the directory of the user's own kernelspecs, which may not exist yet."""
    from jupyter_core.paths import jupyter_data_dir  # noqa: PLC0415 - slow to import, and seldom needed

    return Path(jupyter_data_dir()) / "kernels"


def kernel_directories() -> list[str]:
    """Return the existing directories in which Jupyter looks for kernelspecs; the last one is that of old IPythons."""
    from jupyter_core.paths import jupyter_path  # noqa: PLC0415

    ipython = os.path.expanduser(os.environ.get("IPYTHONDIR") or "~/.ipython")
    return [path for path in (*jupyter_path("kernels"), f"{ipython}/kernels") if os.path.isdir(path)]


def kernel_directories_elsewhere() -> list[str]:
    """Return the existing directories with kernelspecs where Jupyter may be installed: snapper often is elsewhere.

    These are the root prefixes of conda, and where the program `jupyter` in PATH is. Managed environments do not count.
    """
    prefixes = find_roots()
    program = shutil.which("jupyter")
    if program:
        prefixes += [Path(program).parent.parent, Path(os.path.realpath(program)).parent.parent]
    return kernels_of_prefixes(prefixes)


def kernels_of_prefixes(prefixes: Iterable[Path]) -> list[str]:
    """Return the existing directories with kernelspecs in these prefixes that are not in a managed environment.

    Whoever published those must not decide what is packed with other environments, nor take their kernels' names.
    """
    directories = (prefix / _KERNELS for prefix in prefixes)
    return [str(path) for path in directories if os.path.isdir(path) and not managed_environments(path)]


def kernel_names_elsewhere(own: Path) -> Iterator[str]:
    """Yield the names, in lower case, of kernels that Jupyter may find in other directories than the user's own.

    The user's own directory precedes those of managed environments, unless Jupyter prefers its own environment's.
    """
    seen = {None, _identity(own)}
    for directory in (*kernel_directories(), *kernel_directories_elsewhere()):
        identity = _identity(directory)
        if identity not in seen and not managed_environments(Path(directory)):
            seen.add(identity)
            with suppress(OSError):
                yield from (name.lower() for name in os.listdir(directory))


def _identity(directory: str | Path) -> tuple[int, int] | None:
    """Return what distinguishes the directory from others, by whatever path; None if there is none."""
    try:
        status = os.stat(directory)
    except OSError:
        return None
    return status.st_dev, status.st_ino
