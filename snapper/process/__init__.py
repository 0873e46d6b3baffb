"""Worker processes, signals, and background work."""
