"""Run the command line: `python -m snapper` is the same as `snapper`."""

from snapper.cli.main import main

main()
