"""File system primitives: atomic writes, locks, directory descriptors."""
