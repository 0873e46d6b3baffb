"""The `snapper` command: parse, call one verb, render."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line and exits with the documented code."""
    from snapper.cli.app import run

    sys.exit(run(sys.argv[1:]))
