"""Checks of stores, environments and the machine, for verify, diff and doctor."""
