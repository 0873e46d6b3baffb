"""Where Jupyter looks for kernelspecs."""

from __future__ import annotations

import os
from pathlib import Path


def user_kernels_directory() -> Path:
    """Return the directory of the user's own kernelspecs, which may not exist yet."""
    from jupyter_core.paths import jupyter_data_dir  # noqa: PLC0415 - slow to import, and seldom needed

    return Path(jupyter_data_dir()) / "kernels"


def kernel_directories() -> list[str]:
    """Return the existing directories in which Jupyter looks for kernelspecs."""
    from jupyter_core.paths import jupyter_path  # noqa: PLC0415

    return [path for path in jupyter_path("kernels") if os.path.isdir(path)]
