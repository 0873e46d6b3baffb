"""Settings: where they come from, their values, and their file."""
