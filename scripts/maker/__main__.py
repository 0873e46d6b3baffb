"""Create one environment: `python -m scripts.maker RECIPE PREFIX`."""

import argparse
import sys
from pathlib import Path

from scripts.maker import RECIPES, MakerError, make


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.maker", description=__doc__)
    parser.add_argument("recipe", nargs="?", metavar="RECIPE")
    parser.add_argument("prefix", nargs="?", metavar="PREFIX", type=Path)
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="default: $SNAPPER_MAKER_CACHE, or .cache/maker"
    )
    parser.add_argument(
        "--copy", action="store_true", help="copy files from the package cache instead of linking them"
    )
    parser.add_argument("--list", action="store_true", help="list the recipes")
    arguments = parser.parse_args()
    if arguments.list:
        for name, recipe in RECIPES.items():
            print(f"{name:10} {recipe.summary}")
        return 0
    if arguments.prefix is None:
        parser.error("RECIPE and PREFIX are required")
    try:
        make(arguments.recipe, arguments.prefix, cache=arguments.cache, copy=arguments.copy)
    except MakerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
