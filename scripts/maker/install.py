"""Create environments, change them, and list their packages."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rattler import PrefixRecord

from scripts.maker.cache import open_cache
from scripts.maker.channel import ensure_channel
from scripts.maker.engine import run_engine
from scripts.maker.errors import MakerError
from scripts.maker.recipes import RECIPES


@dataclass(frozen=True)
class Record:
    """A package in an environment, as recorded in conda-meta. `files` are relative to the prefix."""

    name: str
    version: str
    build: str
    files: tuple[str, ...]


def make(
    recipe: str, prefix: Path, *, cache: Path | None = None, copy: bool = False, bytecode: bool = True
) -> None:
    """Create an environment at `prefix`, which must be empty or not exist. Raise MakerError if that fails.

    Files are hard links into the package cache where the file system supports it, or copies with `copy`. Without
    `bytecode`, noarch packages are not compiled, which takes most of the time: pixi does not compile them, conda and
    mamba do.
    """
    if not sys.platform.startswith("linux"):
        raise MakerError(f"environments can only be built on Linux, not on {sys.platform}")
    if recipe not in RECIPES:
        raise MakerError(f"unknown recipe {recipe}; choose from {', '.join(RECIPES)}")
    if prefix.exists() and any(prefix.iterdir()):
        raise MakerError(f"{prefix} is not empty")
    store = open_cache(cache)
    run_engine(
        store,
        "create",
        channel=str(ensure_channel(RECIPES[recipe], store)),
        prefix=str(prefix.absolute()),
        specs=RECIPES[recipe].specs,
        copy=copy,
        bytecode=bytecode,
    )


def change(
    prefix: Path,
    *,
    install: Sequence[str] = (),
    remove: Sequence[str] = (),
    cache: Path | None = None,
    bytecode: bool = True,
) -> None:
    """Install or update packages to the specs in `install` ("six", "click ==8.1.7"), and remove those in `remove`.

    Packages come from the channels of the installed ones. Packages that depend on a removed one are removed too; all
    others stay as they are. `bytecode` is as for `make`. Raise MakerError if that fails.
    """
    run_engine(
        open_cache(cache),
        "change",
        prefix=str(prefix.absolute()),
        install=list(install),
        remove=list(remove),
        bytecode=bytecode,
    )


def records(prefix: Path) -> list[Record]:
    """Return the packages in the environment at `prefix`, sorted by name."""
    paths = (prefix / "conda-meta").glob("*.json")
    packages = [PrefixRecord.from_path(path) for path in paths]
    listed = [
        Record(
            name=record.name.normalized,
            version=str(record.version),
            build=str(record.build),
            files=tuple(file.as_posix() for file in record.files),
        )
        for record in packages
    ]
    return sorted(listed, key=lambda record: record.name)
