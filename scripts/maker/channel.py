"""Build the conda channel that a recipe's environments are installed from."""

import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from rattler import Subdir

from scripts.maker.cache import Cache, digest, source_digest
from scripts.maker.engine import run_engine
from scripts.maker.interpreter import identity, stage_python
from scripts.maker.native import stage_textdata, stage_whereami
from scripts.maker.package import Package, write_package
from scripts.maker.recipes import Recipe
from scripts.maker.wheels import fetch_wheels, match_specs, stage_wheel

# Lay out a package in a directory, for a platform ("linux-64"), with a build string.
Stage = Callable[[Path, str, str], Package]

OWN: dict[str, Stage] = {"python": stage_python, "whereami": stage_whereami, "textdata": stage_textdata}


def ensure_channel(recipe: Recipe, cache: Cache) -> Path:
    """Return the directory of the recipe's channel, which is built if it is not in the cache."""

    def build(directory: Path) -> None:
        (directory / "noarch").mkdir()
        for package in _packages(recipe, cache):
            for file in package.glob("*/*.conda"):
                target = directory / file.relative_to(package)
                target.parent.mkdir(exist_ok=True)
                os.link(file, target)
        run_engine(cache, "index", channel=str(directory))

    parts = (*_inputs(), *recipe.own, "", *recipe.wheels, "", *recipe.spares)
    return cache.entry("channels", digest(*parts), build)


def _inputs() -> tuple[str, str]:
    """Return what every package depends on: the interpreter and the source of this package."""
    return identity(), source_digest()


def _packages(recipe: Recipe, cache: Cache) -> set[Path]:
    """Return the cache entries of the recipe's packages, one package each."""
    stages = {digest(*_inputs(), name): OWN[name] for name in recipe.own}
    wheels = fetch_wheels(recipe.wheels, cache) if recipe.wheels else []
    by_name = {wheel.name: wheel for wheel in wheels}
    for spare in recipe.spares:
        wheels += fetch_wheels((spare,), cache, dependencies=False)
    for wheel in wheels:
        stage = partial(stage_wheel, wheel, by_name)
        stages[digest(*_inputs(), wheel.digest, *match_specs(wheel, by_name))] = stage
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return set(pool.map(lambda key: _package(key, stages[key], cache), stages))


def _package(key: str, stage: Stage, cache: Cache) -> Path:
    def build(directory: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="maker-", dir=cache.root) as root:
            package = stage(Path(root), str(Subdir.current()), f"h{key[:7]}_0")
            write_package(Path(root), package, directory)

    return cache.entry("packages", key, build)
