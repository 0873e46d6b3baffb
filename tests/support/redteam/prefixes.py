"""Environments on disk, written by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.support.kernelspecs import add_kernel
from tests.support.redteam.publisher import encode


def make(prefix: Path, files: Mapping[str, str | bytes], state: tuple[str, str] | None = None) -> Path:
    """Make the smallest environment with a kernel and these files; return its prefix.

    `state` is the environment's name and its snapshot, as snapper records them in `.snapper/state.json`.
    """
    (prefix / "conda-meta").mkdir(parents=True)
    (prefix / "conda-meta/history").touch()
    add_kernel(prefix, "python3", argv=["/bin/true"], display_name="Python 3", language="python")
    for name, data in files.items():
        path = prefix / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    if state:
        name, snapshot = state
        (prefix / ".snapper").mkdir()
        fields = {"format": 1, "environment": name, "snapshot": snapshot, "prefix": str(prefix)}
        (prefix / ".snapper/state.json").write_bytes(encode(fields))
    return prefix
