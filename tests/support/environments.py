"""Small environments whose files tests may change."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from scripts.maker import make


def make_data(prefix: Path) -> Path:
    """Make the smallest environment at `prefix`, copying its files so that they may be changed; return `prefix`."""
    make("data", prefix, copy=True)
    return prefix


def make_many(prefix: Path) -> Path:
    """Make an environment with enough files and layers that a command can be caught while it works on it."""
    make_data(prefix)
    for number in range(16):
        metadata = prefix / "lib" / f"many{number}-1.0.dist-info"
        package = prefix / "lib" / f"many{number}"
        for directory in (metadata, package):
            directory.mkdir(parents=True)
        (package / "random.bin").write_bytes(random.Random(number).randbytes(1024 * 1024))
        for count in range(200):
            (package / f"module{count}.py").write_text(f"# {prefix}\nnumber = {count}\n" * 50)
        listed = [f"{path.parent.name}/{path.name},," for path in package.iterdir()]
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: many{number}\nVersion: 1.0\n\n")
        (metadata / "RECORD").write_text("\n".join([*listed, f"{metadata.name}/METADATA,,", ""]))
    return prefix


def forget_state(prefix: Path) -> None:
    """Remove what snapper keeps in the environment, as if it had never been packed or restored."""
    shutil.rmtree(prefix / ".snapper")
