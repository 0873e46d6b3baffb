"""Kernelspecs written by hand."""

from __future__ import annotations

import json
from pathlib import Path


def add_kernel(prefix: Path, name: str, **fields: object) -> Path:
    """Write a kernelspec into the environment, and return its directory."""
    directory = prefix / "share/jupyter/kernels" / name
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "kernel.json").write_text(json.dumps(fields))
    return directory
