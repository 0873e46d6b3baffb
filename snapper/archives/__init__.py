"""Archives as conda-pack makes them: read without trust, and written."""
