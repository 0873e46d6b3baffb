"""Make environments, change them, and read what they hold."""

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
    """A package in an environment, as conda-meta has it; `files` are relative to the prefix."""

    name: str
    version: str
    build: str
    files: tuple[str, ...]


def make(
    recipe: str, prefix: Path, *, cache: Path | None = None, copy: bool = False, bytecode: bool = True
) -> None:
    """Make an environment at `prefix`, which must not exist or be empty.

    Its files are hard links into the package cache where the file system can do that; with `copy` they are
    files of their own. Without `bytecode` the noarch packages are not compiled, which takes most of the time:
    what pixi makes, where conda and mamba compile. Raises MakerError.
    """
    if not sys.platform.startswith("linux"):
        raise MakerError(f"environments can be made on Linux, not on {sys.platform}")
    if recipe not in RECIPES:
        raise MakerError(f"there is no recipe {recipe}; there are {', '.join(RECIPES)}")
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
    """Install or update to the specs in `install` ("six", "click ==8.1.7"), and remove the packages `remove`.

    Packages come from the channels of what is installed. What needs a removed package is removed too; all
    others stay as they are. `bytecode` is as for `make`. Raises MakerError.
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
    """The packages in the environment at `prefix`, by name."""
    found = [PrefixRecord.from_path(path) for path in (prefix / "conda-meta").glob("*.json")]
    listed = [
        Record(
            name=record.name.normalized,
            version=str(record.version),
            build=str(record.build),
            files=tuple(file.as_posix() for file in record.files),
        )
        for record in found
    ]
    return sorted(listed, key=lambda record: record.name)
