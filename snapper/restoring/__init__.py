"""Restore: from layers in a store to the files of an environment."""
