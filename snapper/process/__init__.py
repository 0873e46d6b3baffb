"""Worker processes, background work, signals, and log records."""
