"""The error that `scripts.maker` raises."""


class MakerError(Exception):
    """Something could not be built. The message says what, and contains the output of the program that failed."""
