"""Archives like those of conda-pack: reading those that anyone may have made, and writing."""
