"""The one error that the environment maker raises."""


class MakerError(Exception):
    """Something could not be made; the message says what, and holds what the failing program said."""
