"""`python -m snapper` is `snapper`."""

from snapper.cli import main

main()
