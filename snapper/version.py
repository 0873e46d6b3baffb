"""The version of snapper."""

__version__ = "0.2.0"
